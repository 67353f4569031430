//! Races: several programs run alternately (A B C A B C …), so that other load of the machine affects all of them
//! equally.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cowhide::storage::{FileStorage, Storage as _};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::measure::{self, Cost};

/// A program of a race.
#[derive(Debug, Clone)]
pub struct Contender {
    /// The program's file.
    pub program: OsString,
    /// Its name in the output.
    pub name: &'static str,
    /// Its arguments. Files are named relative to the folder of the race.
    pub args: Vec<OsString>,
    /// The file that it makes. It is removed before every run, which isn't measured.
    pub target: Option<&'static str>,
}

impl Contender {
    /// Returns the command line.
    pub fn command(&self) -> String {
        let mut command = self.name.to_owned();
        for arg in &self.args {
            command.push(' ');
            command.push_str(&arg.to_string_lossy());
        }
        command
    }

    /// Runs the program once.
    ///
    /// # Errors
    /// Returns the program's error output if it fails.
    pub fn run(&self, place: &Place<'_>) -> Result<Cost> {
        self.remove_target(place.folder)?;
        if place.on_disk {
            // Data of earlier runs must not be written back during this one.
            rustix::fs::sync();
        }
        if self.target.is_some() {
            touch_memory(place.memory)?;
        }
        let cost = measure::measure(place.folder, &self.program, &self.args);
        // A Ctrl-C at the terminal stops the program too, which isn't its failure.
        if place.stopped.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        cost.with_context(|| self.command())
    }

    /// Removes the file that a run made, if there is one.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn remove_target(&self, folder: &Path) -> Result<()> {
        let Some(target) = self.target else {
            return Ok(());
        };
        match std::fs::remove_file(folder.join(target)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Waits for a part of a second, which differs each time. Otherwise periodic work of the machine (such as returning
/// free memory to its host) could affect the same program in every round.
pub fn pause(turn: usize) {
    // Steps by the golden ratio are distributed evenly, without a short period.
    let part = turn as u64 * 618 % 1000;
    std::thread::sleep(Duration::from_millis(part));
}

/// Uses `bytes` of memory on each processor for a moment, outside of the measured time. A virtual machine may have
/// returned free memory to its host, and the next program that needs it would take several times as long. Each
/// processor keeps its own list of free memory, which a program with one thread would find again, and one with two
/// would not.
///
/// It is used in single pages, as files use it, since large pages are allocated separately.
fn touch_memory(bytes: u64) -> Result<()> {
    let processors = std::thread::available_parallelism()?
        .get()
        .min(MOST_PROCESSORS);
    std::thread::scope(|scope| {
        let touching: Vec<_> = (0..processors)
            .map(|number| scope.spawn(move || touch_on(number, bytes + bytes / 8)))
            .collect();
        touching
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(touched) => touched,
                Err(_) => bail!("touching memory panicked"),
            })
    })
}

/// The most processors on which memory is used.
const MOST_PROCESSORS: usize = 4;

fn touch_on(processor: usize, bytes: u64) -> Result<()> {
    let mut processors = CpuSet::new();
    processors.set(processor);
    sched_setaffinity(None, &processors)?;
    let file = FileStorage::in_memory("touched")?;
    let block = vec![1; 1 << 20];
    for offset in (0..bytes).step_by(block.len()) {
        file.write_at(offset, &block)?;
    }
    Ok(())
}

/// The conditions of a race.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The current directory of the programs.
    pub folder: &'a Path,
    /// True if written data goes to a disk eventually.
    pub on_disk: bool,
    /// The length of the largest target in bytes.
    pub memory: u64,
    /// Set by a signal to end.
    pub stopped: Arc<AtomicBool>,
}

/// Makes Ctrl-C and SIGTERM set a flag instead of ending the program, so that no gigabytes of temporary files stay in
/// memory.
///
/// # Errors
/// Returns the system's error.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// Runs `contenders` alternately, `rounds` times, and returns the costs of each.
///
/// # Errors
/// Returns the first failure of any of them.
pub fn race(contenders: &[&Contender], rounds: usize, place: &Place<'_>) -> Result<Vec<Vec<Cost>>> {
    let mut costs = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            // Every round begins with another program, after a different pause.
            let index = (round + turn) % contenders.len();
            let (Some(contender), Some(costs)) = (contenders.get(index), costs.get_mut(index))
            else {
                continue;
            };
            pause(round * contenders.len() + turn);
            costs.push(contender.run(place)?);
            contender.remove_target(place.folder)?;
        }
    }
    Ok(costs)
}
