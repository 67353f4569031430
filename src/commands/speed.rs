//! The subcommand `speed`: the speed of the processor's AES instructions, and the cost of encryption.
//!
//! Each measurement has a file. [`cpu`] describes the processor and its usable features. [`ciphers`] measures every
//! cipher backend, next to the plain `cbc` crate and the limit of the AES unit. [`sweep`] measures whole conversions
//! for every cluster size. [`report`] has the results.
//!
//! Machines are shared, and change their clock rate at any time. So all measurements alternate in many short rounds
//! ([`rounds`]), and the median counts. A ratio is the median of the ratios within each round, whose two sides had
//! the same conditions. It may differ slightly from the ratio of the medians.
//!
//! The memory stays below [`MOST_MEMORY`] on any machine.

mod ciphers;
mod cpu;
mod report;
mod rounds;
mod storage;
mod sweep;

use std::env;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

pub use report::{
    BUSY, CbcCrateSpeed, Chosen, CipherSpeed, ClusterSpeed, Cpu, Feature, Measurement, Report,
    XtsSpeed,
};
pub use storage::{RequestSpeed, StorageReport, run as run_storage};

use crate::convert::MOST_WORKERS;
use crate::crypto::{BACKEND_VARIABLE, Backend, chosen_backend};
use crate::error::{Error, Result};

/// The limit on the total length of all buffers and files, in bytes.
pub const MOST_MEMORY: usize = 200 << 20;

/// The most threads that can be asked for. Each has its own buffer.
pub const MOST_THREADS: usize = 512;

/// The longest budget that can be asked for, in seconds: an hour.
pub const MOST_SECONDS: f64 = 3600.0;

/// The share of the budget for the ciphers. A conversion takes longer than a run of a cipher, so the sweep needs more
/// time for as many rounds.
const CIPHERS_SHARE: f64 = 0.35;

/// The measurements to be done.
#[derive(Debug, Clone, Copy)]
pub struct SpeedPlan {
    /// The approximate time for everything. Every figure is measured a few times even if that takes longer.
    pub budget: Duration,
    /// The number of threads meant by "all threads", or `None` for as many as the machine runs at once.
    pub threads: Option<NonZeroUsize>,
}

impl SpeedPlan {
    /// Makes a plan for a budget of `seconds` and that many threads.
    ///
    /// # Errors
    /// Returns an error if a number is out of range.
    pub fn new(seconds: f64, threads: Option<usize>) -> Result<Self> {
        if !(seconds > 0.0 && seconds <= MOST_SECONDS) {
            return Err(Error::invalid(format!(
                "--seconds expects a number above 0 and up to {MOST_SECONDS} not '{seconds}'"
            )));
        }
        let threads = match threads {
            None => None,
            Some(number) => Some(
                NonZeroUsize::new(number)
                    .filter(|number| number.get() <= MOST_THREADS)
                    .ok_or_else(|| {
                        Error::invalid(format!(
                            "--threads expects a number from 1 to {MOST_THREADS} not '{number}'"
                        ))
                    })?,
            ),
        };
        Ok(Self {
            budget: Duration::from_secs_f64(seconds),
            threads,
        })
    }
}

/// Measures the ciphers and the conversions.
///
/// # Errors
/// Returns an error if [`BACKEND_VARIABLE`] names a backend that isn't available, or if memory is lacking.
pub fn run(plan: SpeedPlan) -> Result<Report> {
    let backend = chosen_backend()?;
    let available = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = plan
        .threads
        .unwrap_or(available)
        .get()
        .clamp(1, MOST_THREADS);
    let (cpu, hint) = cpu::look(available.get());

    let ciphers_budget = plan.budget.mul_f64(CIPHERS_SHARE);
    let ciphers = ciphers::measure(threads, ciphers_budget);
    let threads = ciphers.threads;
    let workers = threads.min(MOST_WORKERS);
    let sweep_budget = plan.budget.saturating_sub(ciphers_budget);
    let sweep = sweep::measure(backend, workers, sweep_budget)?;
    Ok(Report {
        cpu,
        backend: Chosen {
            name: backend.name(),
            description: backend.description(),
            reason: reason(backend, env::var(BACKEND_VARIABLE).ok().as_deref()),
            symbol: backend.symbol(),
        },
        measurement: Measurement {
            threads,
            buffer_bytes: ciphers::BUFFER_SIZE,
            cipher_rounds: ciphers.rounds,
            data_bytes: sweep.data_bytes,
            conversion_threads: workers,
            conversion_rounds: sweep.rounds,
            spread: ciphers.spread.max(sweep.spread),
        },
        ciphers: ciphers.backends,
        cbc_crate: ciphers.cbc_crate,
        xts: ciphers.xts,
        cluster_sizes: sweep.cluster_sizes,
        aes_takes_times: sweep.aes_takes_times,
        hint,
    })
}

/// Returns the reason why `backend` is used. `forced` is the choice of the environment.
fn reason(backend: Backend, forced: Option<&str>) -> String {
    if let Some(name) = forced
        && name != "auto"
    {
        return format!("forced by {BACKEND_VARIABLE}={name}");
    }
    let features: Vec<_> = backend
        .features()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    match features.as_slice() {
        [] => "chosen automatically: no kernel of our own runs on this CPU".to_owned(),
        [name] => format!("chosen automatically: the fastest that a CPU with {name} can run"),
        [others @ .., last] => format!(
            "chosen automatically: the fastest, as the CPU has {} and {last}",
            others.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_who_chose() {
        assert_eq!(
            reason(Backend::Soft, Some("soft")),
            "forced by COWHIDE_CIPHER=soft"
        );
        for forced in [None, Some("auto")] {
            let reason = reason(Backend::detect(), forced);
            assert!(reason.starts_with("chosen automatically: "), "{reason}");
        }
    }

    #[test]
    fn the_most_threads_keep_within_the_memory() {
        // The ciphers' buffers are freed before the sweep begins.
        const { assert!(MOST_THREADS * ciphers::BUFFER_SIZE <= MOST_MEMORY) };
        let conversion = 2 * sweep::MOST_DATA + (MOST_WORKERS << 21) + (16 << 20);
        assert!(conversion <= MOST_MEMORY);
    }
}
