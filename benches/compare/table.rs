//! The tables in Markdown.

use std::fmt::Write as _;

use super::{FileSystem, Outcome, Report, Runs};
use crate::common::measure::Cost;
use crate::common::numbers::{self, duration, mebibytes, median, three_digits};
use crate::common::tools::Tool;
use crate::jobs::{CP, LARGE_CLUSTERS, LEGACY, LUKS, SMALL_CLUSTERS};

/// The text instead of the figures of a program that failed.
pub const FAILED: &str = "failed";

/// The columns, in order.
const PROGRAMS: [&str; 3] = ["cowhide", "qemu-img", CP];

/// Renders the whole report.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    for (file_system, outcomes) in &report.file_systems {
        let place = match file_system {
            FileSystem::Tmpfs => "in memory (tmpfs)",
            FileSystem::Disk => "on disk",
        };
        let _ = writeln!(
            text,
            "### {} of random data, {place}\n",
            numbers::size(report.options.size)
        );
        times(&mut text, outcomes);
        comparisons(&mut text, outcomes);
        costs(&mut text, outcomes);
    }
    let rounds = report.options.rounds;
    let _ = writeln!(
        text,
        "Medians of {rounds} round{}, the programs in turns, sources in the page cache, targets new \
         and not flushed, free memory used once before each run (a virtual machine may have given it \
         back to its host); ratios of wall time are medians of the rounds' ratios. The system splits \
         CPU time into user and system by sampling: of short runs only the sum is exact.\n\n{}.",
        if rounds == 1 { "" } else { "s" },
        report.machine.line()
    );
    text
}

/// Renders wall times, and their ratios.
fn times(text: &mut String, outcomes: &[Outcome]) {
    let _ = writeln!(
        text,
        "| wall time | cowhide | qemu-img | cp | cowhide ÷ qemu-img | cowhide ÷ cp |\n\
         |---|--:|--:|--:|--:|--:|"
    );
    for outcome in outcomes {
        let [ours, qemu, cp] = PROGRAMS.map(|program| outcome.runs_of(program));
        let wall = |runs| cell(runs, |costs| duration(median_of(costs, |cost| cost.wall)));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            outcome.job,
            wall(ours),
            wall(qemu),
            wall(cp),
            ratio(ours, qemu),
            ratio(ours, cp),
        );
    }
    text.push('\n');
}

/// Renders a sentence each about the cost of small clusters, and of LUKS compared with legacy AES.
fn comparisons(text: &mut String, outcomes: &[Outcome]) {
    for (job, other, words) in [
        (
            SMALL_CLUSTERS,
            LARGE_CLUSTERS,
            ["512-byte clusters take", "64 KiB clusters"],
        ),
        (LUKS, LEGACY, ["LUKS takes", "legacy AES"]),
    ] {
        for tool in [Tool::Cowhide, Tool::QemuImg] {
            let costs = |job| {
                let outcome = outcomes.iter().find(|outcome| outcome.job == job)?;
                outcome.runs_of(tool.name())?.costs.as_ref().ok()
            };
            if let (Some(one), Some(two)) = (costs(job), costs(other)) {
                let wall = |costs: &[Cost]| median_of(costs, |cost| cost.wall);
                let times = three_digits(wall(one) / wall(two));
                let [one, two] = words;
                let _ = writeln!(
                    text,
                    "{one} {} {times} times as long as {two}.\n",
                    tool.name()
                );
            }
        }
    }
}

/// Renders CPU times and memory.
fn costs(text: &mut String, outcomes: &[Outcome]) {
    let _ = writeln!(
        text,
        "| CPU time, user + system | cowhide | qemu-img | cp | peak memory: cowhide | qemu-img | cp |\n\
         |---|--:|--:|--:|--:|--:|--:|"
    );
    for outcome in outcomes {
        let _ = write!(text, "| {} |", outcome.job);
        for program in PROGRAMS {
            let cpu = |costs: &[Cost]| {
                let user = duration(median_of(costs, |cost| cost.user));
                let system = duration(median_of(costs, |cost| cost.system));
                format!("{user} + {system}")
            };
            let _ = write!(text, " {} |", cell(outcome.runs_of(program), cpu));
        }
        for program in PROGRAMS {
            let peak = |costs: &[Cost]| mebibytes(median_of(costs, |cost| cost.peak as f64) as u64);
            let _ = write!(text, " {} |", cell(outcome.runs_of(program), peak));
        }
        text.push('\n');
    }
    text.push('\n');
}

impl Outcome {
    fn runs_of(&self, program: &str) -> Option<&Runs> {
        self.runs.iter().find(|runs| runs.program == program)
    }
}

/// Returns a program's figures, the reason why there are none, or a dash if it has no part in the job.
fn cell(runs: Option<&Runs>, show: impl Fn(&[Cost]) -> String) -> String {
    match runs.map(|runs| &runs.costs) {
        None => "–".into(),
        Some(Ok(costs)) => show(costs),
        Some(Err(why)) => why.clone(),
    }
}

fn ratio(ours: Option<&Runs>, theirs: Option<&Runs>) -> String {
    match (ours.map(|runs| &runs.costs), theirs.map(|runs| &runs.costs)) {
        (Some(Ok(ours)), Some(Ok(theirs))) => three_digits(numbers::ratio(ours, theirs)),
        _ => "–".into(),
    }
}

fn median_of(costs: &[Cost], figure: impl Fn(&Cost) -> f64) -> f64 {
    median(costs.iter().map(figure))
}
