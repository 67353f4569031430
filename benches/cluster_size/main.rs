//! The benchmark of encryption and cluster size: `cargo bench --bench cluster_size` writes `docs/cluster-size.md` and
//! its plot.
//!
//! It measures whole conversions by `cowhide` and `qemu-img`, encrypted and not, to every cluster size, from and to
//! memory. The sentences at the top of the page are generated from the figures, so that they always agree. `--json`
//! stores the figures, and `--from` makes the page from stored ones, for work on the page itself.

#[path = "../common/mod.rs"]
mod common;

mod answer;
mod figures;
mod page;
mod plot;
mod speed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use self::common::machine::Machine;
use self::common::race::{self, Contender, Place};
use self::common::tools::{self, Tool};
use self::common::{disks, measure, numbers};
use self::figures::{Figures, Line, Point};
use self::speed::Speed;

/// The binary logarithms of all cluster sizes.
const CLUSTER_SIZE_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const SOURCE: &str = "disk.raw";
const TARGET: &str = "new.qcow2";

/// Makes docs/cluster-size.md (pass options after `cargo bench --bench cluster_size --`).
#[derive(Debug, Parser)]
#[command(name = "cluster_size")]
struct Options {
    /// Size of the random disk
    #[arg(long, default_value = "256M", value_parser = numbers::parse_size)]
    size: u64,
    /// Number of times that each conversion is done
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Folder for the page (relative to the package's root)
    #[arg(long, value_name = "FOLDER", default_value = "docs")]
    out: PathBuf,
    /// Use FILE as the report of `cowhide speed --output=json`
    #[arg(long, value_name = "FILE")]
    speed_json: Option<PathBuf>,
    /// Write all figures to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing, and make the page from the file that --json wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "speed_json", "size", "rounds"])]
    from: Option<PathBuf>,
    /// Ignored; cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(status) = measure::measuring_process() {
        return status;
    }
    if !common::is_bench_run() {
        eprintln!("nothing measured: run this as `cargo bench --bench cluster_size`");
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster_size: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let figures = match &options.from {
        Some(path) => {
            let text = fs::read(path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&text).context("reading figures")?
        }
        None => measure_all(options)?,
    };
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    fs::create_dir_all(&options.out)?;
    let plot = "cluster-size.svg";
    fs::write(options.out.join(plot), plot::svg(&figures))?;
    let page = options.out.join("cluster-size.md");
    fs::write(&page, page::render(&figures, plot))?;
    for sentence in answer::sentences(&figures) {
        println!("{sentence}\n");
    }
    println!("{} has it all.", page.display());
    Ok(())
}

fn measure_all(options: &Options) -> Result<Figures> {
    let stopped = race::stop_flag()?;
    // This comes first, since the page needs it.
    let speed = Speed::get(options.speed_json.as_deref())?;
    let machine = Machine::this();
    let folder = disks::work_folder(Path::new(disks::TMPFS), 2 * options.size + (256 << 20))?;
    let place = Place {
        folder: folder.path(),
        on_disk: false,
        memory: options.size,
        stopped,
    };
    tools::write_password(place.folder)?;
    disks::write_random(&place.folder.join(SOURCE), options.size)?;

    let mut lines = Vec::new();
    for tool in [Tool::Cowhide, Tool::QemuImg] {
        if tool == Tool::QemuImg && machine.qemu_img.is_none() {
            eprintln!("qemu-img is absent: cowhide alone");
            continue;
        }
        for encrypted in [false, true] {
            lines.push(Line {
                tool,
                encrypted,
                points: CLUSTER_SIZE_BITS
                    .map(|bits| Point::new(1 << bits))
                    .collect(),
            });
        }
    }
    // First runs aren't measured, since they read the programs from the disk and allocate memory.
    for line in &lines {
        contender(line, 64 << 10).run(&place)?;
    }
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for bits in CLUSTER_SIZE_BITS {
            for line in &mut lines {
                convert(line, 1 << bits, &place)?;
            }
        }
    }
    Ok(Figures {
        machine,
        disk_bytes: options.size,
        rounds: options.rounds,
        lines,
        speed,
    })
}

fn contender(line: &Line, cluster_size: u64) -> Contender {
    let args = tools::to_qcow2(SOURCE, TARGET, cluster_size, line.encrypted);
    line.tool.contender(&args, Some(TARGET))
}

/// Converts once, and records the cost.
fn convert(line: &mut Line, cluster_size: u64, place: &Place<'_>) -> Result<()> {
    let contender = contender(line, cluster_size);
    let cost = contender.run(place)?;
    let file_bytes = fs::metadata(place.folder.join(TARGET))?.len();
    contender.remove_target(place.folder)?;
    let mut points = line.points.iter_mut();
    if let Some(point) = points.find(|point| point.cluster_size == cluster_size) {
        point.file_bytes = file_bytes;
        point.costs.push(cost);
    }
    Ok(())
}

impl Point {
    fn new(cluster_size: u64) -> Self {
        Self {
            cluster_size,
            file_bytes: 0,
            costs: Vec::new(),
        }
    }
}
