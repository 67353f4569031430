//! The comparison of cowhide with `qemu-img` for changes of existing images: `cargo bench --bench subcommands`.
//!
//! The programs do each row alternately, each time on new copies of the files that it changes. Copying isn't
//! measured. Disks of 4 GiB have 1 GiB of data, in a chain of three images or in one with a snapshot. Tables are
//! those of a disk of 1 TiB with preallocated metadata and no data.

mod common;

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use self::common::delay::{self, Delayed};
use self::common::disks::{self, Noise};
use self::common::machine::Machine;
use self::common::measure::{self, Cost};
use self::common::numbers::{self, duration, mebibytes, median, three_digits};
use self::common::race::{self, Contender, Place};
use self::common::tools::Tool;

const MIB: u64 = 1 << 20;
const DISK: u64 = 4096 * MIB;

/// Compares cowhide with qemu-img at changing images (pass options after `cargo bench --bench subcommands --`).
#[derive(Debug, Parser)]
#[command(name = "subcommands")]
struct Options {
    /// Number of times that each program does each row
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Folder for the files
    #[arg(long, default_value = disks::TMPFS)]
    folder: PathBuf,
    /// How long each request waits, in microseconds
    #[arg(long, default_value = "0")]
    delay: u32,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Ignored; cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

/// A row of the table.
struct Row {
    name: &'static str,
    args: &'static str,
    /// The files that it changes.
    changes: &'static [&'static str],
}

const fn row(name: &'static str, args: &'static str, changes: &'static [&'static str]) -> Row {
    Row {
        name,
        args,
        changes,
    }
}

const ROWS: [Row; 19] = [
    row(
        "rebase to another base",
        "rebase -f qcow2 -b other -F qcow2 mid",
        &["mid"],
    ),
    row("rebase to none", "rebase -f qcow2 top -b ", &["top"]),
    row("commit", "commit -q -f qcow2 top", &["top", "mid"]),
    row("commit -d", "commit -q -d -f qcow2 top", &["top", "mid"]),
    row(
        "commit -b base",
        "commit -q -b base -f qcow2 top",
        &["top", "mid", "base"],
    ),
    row("snapshot -a, 1 GiB", "snapshot -a s snap", &["snap"]),
    row("snapshot -d, 1 GiB", "snapshot -d s snap", &["snap"]),
    row("snapshot -a, unchanged", "snapshot -a s same", &["same"]),
    row("snapshot -d, unchanged", "snapshot -d s same", &["same"]),
    row("snapshot -c, 1 TiB", "snapshot -c s tables", &["tables"]),
    row("snapshot -a, 1 TiB", "snapshot -a s taken", &["taken"]),
    row("snapshot -d, 1 TiB", "snapshot -d s taken", &["taken"]),
    row(
        "resize, 1 to 2 TiB",
        "resize -q -f qcow2 tables 2T",
        &["tables"],
    ),
    row(
        "resize, 1 to 2 TiB, metadata",
        "resize -q -f qcow2 --preallocation=metadata tables 2T",
        &["tables"],
    ),
    row(
        "resize, 1 GiB to 1 TiB, metadata",
        "resize -q -f qcow2 --preallocation=metadata small 1T",
        &["small"],
    ),
    // Larger changes take qemu-img minutes.
    row(
        "resize, 1 TiB to 960 GiB",
        "resize -q -f qcow2 --shrink tables 960G",
        &["tables"],
    ),
    row("bitmap --add", "bitmap --add tables new", &["tables"]),
    row("bitmap --enable", "bitmap --enable marked off", &["marked"]),
    row(
        "bitmap --merge",
        "bitmap --merge bits marked off",
        &["marked"],
    ),
];

fn main() -> ExitCode {
    if let Some(status) = measure::measuring_process() {
        return status;
    }
    if !common::is_bench_run() {
        eprintln!("nothing measured: run this as `cargo bench --bench subcommands`");
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subcommands: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let machine = Machine::this();
    ensure!(machine.qemu_img.is_some(), "there is no qemu-img");
    let folder = disks::work_folder(&options.folder, 3 * DISK)?;
    let place = Place {
        folder: folder.path(),
        on_disk: options.folder != Path::new(disks::TMPFS),
        memory: 0,
        stopped: race::stop_flag()?,
    };
    make_sources(&place)?;
    let library = match options.delay {
        0 => None,
        _ => Some(delay::compile(folder.path())?),
    };
    let delayed = library.as_deref().map(|library| Delayed {
        library,
        microseconds: options.delay,
        seeks: false,
    });
    println!(
        "| work | cowhide | qemu-img | cowhide ÷ qemu-img | peak memory: cowhide | qemu-img |\n\
         |---|--:|--:|--:|--:|--:|"
    );
    for row in ROWS.iter().filter(|row| row.name.contains(&options.only)) {
        let costs = race(row, options.rounds.into(), delayed, &place)?;
        println!("{}", line(row, &costs));
    }
    let rounds = options.rounds;
    let delay = match options.delay {
        0 => String::new(),
        delay => format!(" Each request waits {}.", duration(f64::from(delay) / 1e6)),
    };
    println!(
        "\nMedians of {rounds} rounds.{delay}\n\n{}.",
        machine.line()
    );
    Ok(())
}

/// Runs a row by both programs alternately. The first costs are cowhide's.
fn race(
    row: &Row,
    rounds: usize,
    delayed: Option<Delayed<'_>>,
    place: &Place<'_>,
) -> Result<[Vec<Cost>; 2]> {
    let contenders = [Tool::Cowhide, Tool::QemuImg].map(|tool| {
        let contender = Contender {
            // A space at the end gives an empty argument.
            args: row.args.split(' ').map(Into::into).collect(),
            ..tool.contender("", None)
        };
        match delayed {
            Some(delayed) => delayed.contender(contender),
            None => contender,
        }
    });
    let mut costs = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..2 {
            let index = (round + turn) % 2;
            race::pause(2 * round + turn);
            for name in row.changes {
                copy(place.folder, &kept(name), name)?;
            }
            costs[index].push(contenders[index].run(place)?);
        }
    }
    for name in row.changes {
        copy(place.folder, &kept(name), name)?;
    }
    Ok(costs)
}

fn line(row: &Row, [ours, theirs]: &[Vec<Cost>; 2]) -> String {
    let wall = |costs: &[Cost]| duration(median(costs.iter().map(|cost| cost.wall)));
    let peak = |costs: &[Cost]| mebibytes(costs.iter().map(|cost| cost.peak).max().unwrap_or(0));
    let mut text = format!("| {} | {} | {} ", row.name, wall(ours), wall(theirs));
    let ratio = three_digits(numbers::ratio(ours, theirs));
    let _ = write!(text, "| {ratio} | {} | {} |", peak(ours), peak(theirs));
    text
}

/// Returns the name of the copy of a file that no program changes.
fn kept(name: &str) -> String {
    format!("{name}.kept")
}

/// Copies a file with its holes.
fn copy(folder: &Path, from: &str, to: &str) -> Result<()> {
    let status = Command::new("cp")
        .args([from, to])
        .current_dir(folder)
        .status()
        .context("starting cp")?;
    ensure!(status.success(), "cp {from} {to} failed");
    Ok(())
}

/// Makes all images, and a copy of each.
fn make_sources(place: &Place<'_>) -> Result<()> {
    let cowhide = |args: &str| {
        let ran = Tool::Cowhide.contender(args, None).run(place);
        ran.context("making a source").map(|_| ())
    };
    let image = |name: &str, start: u64, length: u64, seed: u64| {
        write_data(&place.folder.join("raw"), start * MIB, length * MIB, seed)?;
        cowhide(&format!("convert -f raw -O qcow2 raw {name}"))
    };
    // An overlay gets its data first, and then its backing file.
    image("base", 0, 512, 1)?;
    image("other", 0, 512, 2)?;
    image("mid", 384, 256, 3)?;
    cowhide("rebase -u -b base -F qcow2 mid")?;
    image("top", 512, 256, 4)?;
    cowhide("rebase -u -b mid -F qcow2 top")?;
    image("snap", 0, 1024, 5)?;
    cowhide("snapshot -c s snap")?;
    copy(place.folder, "snap", "same")?;
    write_data(&place.folder.join("raw"), 0, 1024 * MIB, 6)?;
    cowhide("convert -n -f raw -O qcow2 raw snap")?;
    std::fs::remove_file(place.folder.join("raw"))?;
    cowhide("create -q -f qcow2 small 1G")?;
    cowhide("create -q -f qcow2 -o preallocation=metadata tables 1T")?;
    copy(place.folder, "tables", "taken")?;
    cowhide("snapshot -c s taken")?;
    copy(place.folder, "tables", "marked")?;
    cowhide("bitmap --add marked bits")?;
    cowhide("bitmap --add --disable marked off")?;
    for name in [
        "base", "other", "mid", "top", "snap", "same", "small", "tables", "taken", "marked",
    ] {
        copy(place.folder, name, &kept(name))?;
    }
    Ok(())
}

/// Writes a raw disk with noise in one part, and holes elsewhere.
fn write_data(path: &Path, start: u64, length: u64, seed: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(DISK)?;
    let mut noise = Noise(seed);
    let mut buffer = vec![0; 1 << 20];
    for offset in (start..start + length).step_by(buffer.len()) {
        noise.fill(&mut buffer);
        file.write_all_at(&buffer, offset)?;
    }
    Ok(())
}
