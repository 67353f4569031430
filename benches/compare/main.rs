//! The comparison of cowhide with `qemu-img` and `cp`, as processes on this machine: `cargo bench --bench compare`.
//!
//! The programs run every job alternately, once to warm up and then `--rounds` times. The source is in the page
//! cache, and the target's file doesn't exist. The output is Markdown tables of medians, and of ratios that are the
//! medians of the rounds' ratios. `cp` of the source gives the cost of copying bytes on this machine, which is nearly
//! the least possible.
//!
//! The result of the warm-up is compared with the source before anything is timed, so that no wrong result counts as
//! fast.

#[path = "../common/mod.rs"]
mod common;
mod jobs;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use self::common::measure::Cost;
use self::common::race::{self, Contender, Place};
use self::common::tools::Tool;
use self::common::{disks, machine::Machine, measure, numbers};
use self::jobs::{Job, Refusal};

/// Compares cowhide with qemu-img and cp (pass options after `cargo bench --bench compare --`).
#[derive(Debug, Parser, Serialize)]
#[command(name = "compare")]
#[serde(rename_all = "kebab-case")]
struct Options {
    /// Size of the random disk
    #[arg(long, default_value = "1G", value_parser = numbers::parse_size)]
    size: u64,
    /// Number of times that each program does each job, without the warm-up
    #[arg(long, default_value = "7", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Place of the files: in memory, or on the file system of the current directory
    #[arg(long, value_delimiter = ',', default_value = "tmpfs,disk")]
    on: Vec<FileSystem>,
    /// Only jobs whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Write all figures to FILE (relative to the package's root)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Ignored; cargo passes it
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

/// The place of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum FileSystem {
    Tmpfs,
    Disk,
}

impl FileSystem {
    fn parent(self) -> &'static Path {
        Path::new(match self {
            Self::Tmpfs => disks::TMPFS,
            Self::Disk => ".",
        })
    }
}

/// All measured figures.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    machine: Machine,
    options: Options,
    file_systems: Vec<(FileSystem, Vec<Outcome>)>,
}

/// The result of a job.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Outcome {
    job: &'static str,
    runs: Vec<Runs>,
}

/// The runs of a job by one program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Runs {
    command: String,
    #[serde(skip)]
    program: &'static str,
    /// The costs, one for each round, or the reason why there are none.
    costs: Result<Vec<Cost>, String>,
}

fn main() -> ExitCode {
    if let Some(status) = measure::measuring_process() {
        return status;
    }
    if !common::is_bench_run() {
        eprintln!("nothing measured: run this as `cargo bench --bench compare`");
        return ExitCode::SUCCESS;
    }
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    let stopped = race::stop_flag()?;
    let machine = Machine::this();
    let mut file_systems = Vec::new();
    for &file_system in &options.on {
        let outcomes = measure_on(file_system, &options, &machine, &stopped)?;
        file_systems.push((file_system, outcomes));
    }
    let report = Report {
        machine,
        options,
        file_systems,
    };
    print!("{}", table::render(&report));
    if let Some(path) = &report.options.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let failed = |runs: &Runs| matches!(&runs.costs, Err(why) if why == table::FAILED);
    let mut outcomes = report
        .file_systems
        .iter()
        .flat_map(|(_, outcomes)| outcomes);
    ensure!(
        !outcomes.any(|outcome| outcome.runs.iter().any(failed)),
        "some runs failed"
    );
    Ok(())
}

fn measure_on(
    file_system: FileSystem,
    options: &Options,
    machine: &Machine,
    stopped: &Arc<AtomicBool>,
) -> Result<Vec<Outcome>> {
    // The space is for the disk, images of it with and without encryption, a target, the small disks, and the file
    // system with its images.
    let needed = 4 * options.size + (3 << 30);
    let folder = disks::work_folder(file_system.parent(), needed)?;
    let place = Place {
        folder: folder.path(),
        on_disk: file_system == FileSystem::Disk,
        memory: options.size,
        stopped: Arc::clone(stopped),
    };
    jobs::make_sources(&place, options.size)?;
    let mut outcomes = Vec::new();
    for job in jobs::all() {
        if !job.name.contains(&options.only) {
            continue;
        }
        eprintln!("{file_system:?}: {}", job.name);
        outcomes.push(do_job(&job, usize::from(options.rounds), machine, &place)?);
    }
    Ok(outcomes)
}

/// Warms up, drops programs that can't do the job, and races the rest.
fn do_job(job: &Job, rounds: usize, machine: &Machine, place: &Place<'_>) -> Result<Outcome> {
    let mut fit: Vec<&Contender> = Vec::new();
    let mut out: Vec<Option<String>> = Vec::new();
    for contender in &job.contenders {
        let why_not = if contender.name == Tool::QemuImg.name() && machine.qemu_img.is_none() {
            Some("absent".to_owned())
        } else {
            match warm_up(job, contender, place) {
                Ok(()) => None,
                Err(error) if place.stopped.load(Ordering::Relaxed) => return Err(error),
                Err(error) => {
                    eprintln!("{error:#}");
                    Some(job.refusal.word().to_owned())
                }
            }
        };
        if why_not.is_none() {
            fit.push(contender);
        }
        out.push(why_not);
    }
    let mut measured = race::race(&fit, rounds, place)?.into_iter();
    let runs = job.contenders.iter().zip(out);
    Ok(Outcome {
        job: job.name,
        runs: runs
            .map(|(contender, why_not)| Runs {
                command: contender.command(),
                program: contender.name,
                costs: why_not.map_or_else(|| Ok(measured.next().unwrap_or_default()), Err),
            })
            .collect(),
    })
}

/// Runs a program once, and checks its result.
fn warm_up(job: &Job, contender: &Contender, place: &Place<'_>) -> Result<()> {
    contender.run(place)?;
    if let (Some(expected), Some(target)) = (job.expected, contender.target)
        && contender.name != jobs::CP
        && !disks::same_contents(&place.folder.join(expected), &place.folder.join(target))?
    {
        bail!(
            "{}: the result isn't equal to {expected}",
            contender.command()
        );
    }
    contender.remove_target(place.folder)
}

impl Refusal {
    fn word(self) -> &'static str {
        match self {
            Self::IsFailure => table::FAILED,
            Self::MeansUnsupported => "not supported",
        }
    }
}
