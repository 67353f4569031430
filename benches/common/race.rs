//! Several programs run in turns (A B C A B C …), so that whatever else the machine does meanwhile
//! hits all of them alike.

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

/// One of the programs.
#[derive(Debug, Clone)]
pub struct Contender {
    /// The program's file.
    pub program: OsString,
    /// What it is called in what we print.
    pub name: &'static str,
    /// Its arguments; files by their names in the folder of the race.
    pub args: Vec<OsString>,
    /// The file that it makes. It is removed before every run, and the time for that isn't counted.
    pub target: Option<&'static str>,
}

impl Contender {
    /// The command as one would type it.
    pub fn command(&self) -> String {
        let mut command = self.name.to_owned();
        for arg in &self.args {
            command.push(' ');
            command.push_str(&arg.to_string_lossy());
        }
        command
    }

    /// Runs it once.
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn run(&self, place: &Place<'_>) -> Result<Cost> {
        self.remove_target(place.folder)?;
        if place.on_disk {
            // What earlier runs wrote must not be written back on this one's time.
            rustix::fs::sync();
        }
        if self.target.is_some() {
            touch_memory(place.memory)?;
        }
        let cost = measure::measure(place.folder, &self.program, &self.args);
        // A Ctrl-C at the terminal hits the program too; that isn't its failure.
        if place.stopped.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        cost.with_context(|| self.command())
    }

    /// Removes the file that a run made, if there is one.
    ///
    /// # Errors
    /// The system's error.
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

/// Waits for a part of a second that differs from turn to turn. What the machine does every so many
/// seconds (such as giving free memory back to its host) would hit the same program in every round
/// otherwise.
pub fn pause(turn: usize) {
    // Steps by the golden ratio fall evenly, and never with a short period.
    let part = turn as u64 * 618 % 1000;
    std::thread::sleep(Duration::from_millis(part));
}

/// Uses so much memory for a moment on each processor, outside of what is timed. A virtual machine may
/// have given free memory back to its host; who then needs it first pays several times what it costs
/// otherwise. And each processor keeps what was freed on it for itself, so that without this a program
/// with one thread would find that memory again and one with two would not.
///
/// It is used as files use it, in single pages: large ones come from elsewhere and go elsewhere.
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

/// On how many processors memory is touched at the most.
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

/// Where a race is held.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The current directory of the programs.
    pub folder: &'a Path,
    /// Whether what is written there goes to a disk some time.
    pub on_disk: bool,
    /// How many bytes the largest target has.
    pub memory: u64,
    /// Set when somebody wants us to end.
    pub stopped: Arc<AtomicBool>,
}

/// Makes Ctrl-C and SIGTERM set a flag instead of ending us, so that gigabytes of temporary files
/// don't stay behind in memory.
///
/// # Errors
/// The system's error.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// Runs `contenders` in turns, `rounds` times, and gives the costs of each.
///
/// # Errors
/// The first failure of any of them.
pub fn race(contenders: &[&Contender], rounds: usize, place: &Place<'_>) -> Result<Vec<Vec<Cost>>> {
    let mut costs = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            // Every round begins with another program, after a pause of another length.
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
