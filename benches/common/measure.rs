//! One program run from start to end, and what it cost.
//!
//! The system tells CPU seconds and peak memory of children only as a sum (or maximum) over all that
//! a process ever waited for. So each program runs below a process of its own: this very program,
//! started again with [`MEASURE`], which starts exactly one child, waits for it and prints
//! what the system says about its children. No `unsafe`, and no `time` to be installed.
//!
//! Peak memory has a floor: until it becomes the program, a new process shares the measuring one's
//! memory, which the system counts too. It's about 2 to 3 MiB.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// The argument that makes a program the measuring process; the command follows.
const MEASURE: &str = "--measure";

/// What a program's run cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cost {
    /// Seconds from its start until it was waited for.
    pub wall: f64,
    /// CPU seconds in the program, over all its threads.
    pub user: f64,
    /// CPU seconds in the kernel on its behalf.
    pub system: f64,
    /// The most memory that it had resident, in bytes.
    pub peak: u64,
}

impl Cost {
    /// All CPU seconds.
    pub fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

/// Runs a program in `folder` and says what it cost. Its standard output is thrown away.
///
/// # Errors
/// What it said when it failed.
pub fn measure(folder: &Path, program: &OsStr, args: &[OsString]) -> Result<Cost> {
    let output = Command::new(std::env::current_exe()?)
        .arg(MEASURE)
        .arg(program)
        .args(args)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("starting the measuring process")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(anyhow!("{}", said.trim()));
    }
    serde_json::from_slice(&output.stdout).context("reading what was measured")
}

/// In the measuring process: does its work and gives its exit status. Elsewhere: `None`. To be
/// called first of all, while the process is still small.
pub fn measuring_process() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != MEASURE {
        return None;
    }
    let status = match run_only_child(&args.next()?, args) {
        Ok(Some(cost)) => {
            println!("{}", serde_json::to_string(&cost).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    };
    Some(status)
}

/// `None` if the child failed; it has said why.
fn run_only_child(program: &OsStr, args: impl Iterator<Item = OsString>) -> Result<Option<Cost>> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    let wall = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    if !status.success() {
        // A killed program says nothing itself.
        eprintln!("{status}");
        return Ok(None);
    }
    Ok(Some(Cost {
        wall,
        user: seconds(usage.user_time()),
        system: seconds(usage.system_time()),
        // Linux counts it in KiB.
        peak: u64::try_from(usage.max_rss())? * 1024,
    }))
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}
