//! The comparison of cowhide with `qemu-img` on slow storage: `cargo bench --bench slow`.
//!
//! Network file systems and cloud disks answer after 0.5 to 5 ms, whatever their throughput, so the number of
//! requests in flight matters. `common/delay.c` simulates such storage with files in memory, for both programs. It is
//! compiled with `cc`, and without one nothing is measured.
//!
//! The programs do each row alternately. `qemu-img` converts in two ways, by default and with `-W -m 16`, and the
//! ratio is to the one with the lower median. Conversions to raw are compared with their source before anything is
//! timed.
//!
//! The second table is without delays: it has conversions on file systems that can share blocks, with a flush to the
//! disk.

#[path = "../common/mod.rs"]
mod common;
mod loops;
mod rows;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use clap::Parser;

use self::common::measure::Cost;
use self::common::numbers::{self, duration, mebibytes, median, three_digits};
use self::common::race::{self, Place};
use self::common::{
    delay::{self, Delayed},
    disks,
    machine::Machine,
    measure,
};
use self::rows::Row;

/// Compares cowhide with qemu-img on slow storage (pass options after `cargo bench --bench slow --`).
#[derive(Debug, Parser)]
#[command(name = "slow")]
struct Options {
    /// Size of the converted disks
    #[arg(long, default_value = "128M", value_parser = numbers::parse_size)]
    size: u64,
    /// Number of times that each program does each row
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Delay of each request, in microseconds; rows that only read metadata use the last one
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    delay: Vec<u32>,
    /// Delay the search for holes, reserving space and copies within the kernel too
    #[arg(long)]
    seeks: bool,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Size of the disk that is converted on XFS and btrfs
    #[arg(long, default_value = "1G", value_parser = numbers::parse_size)]
    shared_size: u64,
    /// Ignored; cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(status) = measure::measuring_process() {
        return status;
    }
    if !common::is_bench_run() {
        eprintln!("nothing measured: run this as `cargo bench --bench slow`");
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let stopped = race::stop_flag()?;
    let machine = Machine::this();
    let delayed = delayed_rows(options, &machine, &stopped)?;
    print!("{delayed}");
    let shared = shared_rows(options, &machine, &stopped)?;
    print!("{shared}");
    let rounds = options.rounds;
    println!(
        "Medians of {rounds} rounds, of metadata one.\n\n{}.",
        machine.line()
    );
    Ok(())
}

/// Renders the table of slow storage.
fn delayed_rows(options: &Options, machine: &Machine, stopped: &Arc<AtomicBool>) -> Result<String> {
    let rows: Vec<Row> = rows::all()
        .into_iter()
        .filter(|row| row.name.contains(&options.only))
        .collect();
    let (Some(&longest), false) = (options.delay.last(), rows.is_empty()) else {
        return Ok(String::new());
    };
    let folder = disks::work_folder(Path::new(disks::TMPFS), 6 * options.size)?;
    let library = match delay::compile(folder.path()) {
        Ok(library) => library,
        Err(error) => {
            eprintln!("left out: storage that is slow ({error:#})");
            return Ok(String::new());
        }
    };
    let place = Place {
        folder: folder.path(),
        on_disk: false,
        memory: options.size,
        stopped: Arc::clone(stopped),
    };
    rows::make_sources(&place, options.size)?;
    let mut text = format!(
        "### {} where each request waits{}\n\n\
         | work | delay | cowhide | qemu-img | qemu-img -W -m 16 | cowhide ÷ better | peak memory |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        numbers::size(options.size),
        if options.seeks { ", seeks too" } else { "" }
    );
    for row in &rows {
        let delays = if row.metadata {
            std::slice::from_ref(&longest)
        } else {
            &options.delay
        };
        for &microseconds in delays {
            eprintln!("{}, {microseconds} µs", row.name);
            let delayed = Delayed {
                library: &library,
                microseconds,
                seeks: options.seeks,
            };
            let contenders = row.contenders(&delayed, machine.qemu_img.is_some());
            if let (Some(expected), Some(ours)) = (row.expected, contenders.first()) {
                ours.run(&place)?;
                let target = ours.target.unwrap_or_default();
                ensure!(
                    disks::same_contents(
                        &folder.path().join(expected),
                        &folder.path().join(target)
                    )?,
                    "{}: the result isn't equal to {expected}",
                    ours.command()
                );
            }
            let contenders: Vec<_> = contenders.iter().collect();
            // Rows that wait for a minute or more vary little.
            let rounds = if row.metadata { 1 } else { options.rounds };
            let costs = race::race(&contenders, rounds.into(), &place)?;
            line(
                &mut text,
                row.name,
                &duration(f64::from(microseconds) / 1e6),
                &costs,
            );
        }
    }
    text.push('\n');
    Ok(text)
}

/// Renders the table of file systems that share blocks.
fn shared_rows(options: &Options, machine: &Machine, stopped: &Arc<AtomicBool>) -> Result<String> {
    let mut text = format!(
        "### {} raw → qcow2, until synced\n\n\
         | file system | cowhide | qemu-img | cowhide ÷ qemu-img |\n|---|--:|--:|--:|\n",
        numbers::size(options.shared_size)
    );
    let before = text.len();
    for kind in loops::KINDS {
        if !kind.contains(&options.only) {
            continue;
        }
        if machine.qemu_img.is_none() {
            eprintln!("left out: {kind} (no qemu-img)");
            continue;
        }
        eprintln!("{kind}");
        let folder = disks::work_folder(Path::new("."), 4 * options.shared_size)?;
        let place = Place {
            folder: folder.path(),
            on_disk: true,
            memory: options.shared_size,
            stopped: Arc::clone(stopped),
        };
        let rounds = usize::from(options.rounds);
        match loops::convert(kind, options.shared_size, rounds, &place) {
            Ok(costs) => {
                let [ours, theirs] = costs.as_slice() else {
                    continue;
                };
                let ratio = three_digits(numbers::ratio(ours, theirs));
                let [ours, theirs] = [ours, theirs].map(|costs| duration(wall(costs)));
                let _ = writeln!(text, "| {kind} | {ours} | {theirs} | {ratio} |");
            }
            Err(error) if stopped.load(Ordering::Relaxed) => return Err(error),
            Err(error) => eprintln!("left out: {kind} ({error:#})"),
        }
    }
    if text.len() == before {
        return Ok(String::new());
    }
    text.push('\n');
    Ok(text)
}

fn wall(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.wall))
}

/// Renders a row. The first costs are cowhide's, and the others are those of `qemu-img`.
fn line(text: &mut String, name: &str, delay: &str, costs: &[Vec<Cost>]) {
    let Some((ours, theirs)) = costs.split_first() else {
        return;
    };
    let time =
        |costs: Option<&Vec<Cost>>| costs.map_or("–".into(), |costs| duration(wall(costs)));
    let better = theirs
        .iter()
        .min_by(|one, other| wall(one).total_cmp(&wall(other)));
    let ratio = better.map_or("–".into(), |it| three_digits(numbers::ratio(ours, it)));
    let peak = median(ours.iter().map(|cost| cost.peak as f64)) as u64;
    let _ = writeln!(
        text,
        "| {name} | {delay} | {} | {} | {} | {ratio} | {} |",
        time(Some(ours)),
        time(theirs.first()),
        time(theirs.get(1)),
        mebibytes(peak)
    );
}
