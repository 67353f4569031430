//! Running a program from start to end, and measuring its cost.
//!
//! The system reports CPU time and peak memory of children only as a sum or maximum over all that a process has
//! waited for. So each program runs below a separate process. This program, started again with [`MEASURE`], starts
//! exactly one child, waits for it, and prints the system's figures for its children. That needs no `unsafe`, and no
//! installed `time`.
//!
//! Peak memory is at least about 2 to 3 MiB. Before it executes the program, a new process shares the memory of the
//! measuring one, which the system counts too.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// The argument that makes this program the measuring process. The command follows it.
const MEASURE: &str = "--measure";

/// The cost of a program's run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cost {
    /// The wall time in seconds, from its start until it was waited for.
    pub wall: f64,
    /// The CPU time in user mode in seconds, of all threads.
    pub user: f64,
    /// The CPU time in the kernel in seconds, of all threads.
    pub system: f64,
    /// The peak resident memory, in bytes.
    pub peak: u64,
}

impl Cost {
    /// Returns the total CPU time in seconds.
    pub fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

/// Runs a program in `folder`, and returns its cost. Discards its standard output.
///
/// # Errors
/// Returns the program's error output if it fails.
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

/// Does the work of the measuring process, and returns its exit status. Returns `None` in any other process. It must
/// be called first, while the process is still small.
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

/// Runs the only child. Returns `None` if it failed, since it has printed its error.
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
        // A killed program prints no error itself.
        eprintln!("{status}");
        return Ok(None);
    }
    Ok(Some(Cost {
        wall,
        user: seconds(usage.user_time()),
        system: seconds(usage.system_time()),
        // Linux reports it in KiB.
        peak: u64::try_from(usage.max_rss())? * 1024,
    }))
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}
