//! The subcommand `speed`: what the processor's AES unit does for us, and what encryption costs.
//!
//! Each question has a file. [`cpu`] says what the processor is and what can be used of it. [`ciphers`] says
//! how fast every cipher backend is, next to the plain `cbc` crate and to the AES unit's limit. [`sweep`]
//! says what that means for a whole conversion, for every cluster size.
//!
//! The machines that this runs on are shared, and change their clock rate at any time. So nothing is measured
//! in one go: everything is measured in turn, in many short rounds ([`rounds`]), and the median counts. A
//! ratio is the median of the ratios within each round, whose two sides had the same conditions. It may
//! differ a little from the ratio of the medians.
//!
//! The memory stays below [`MOST_MEMORY`], whatever the machine.

mod ciphers;
mod cpu;
mod rounds;
mod storage;
mod sweep;

use std::env;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use serde::Serialize;

pub use storage::{RequestSpeed, StorageReport, run as run_storage};

use crate::convert::MOST_WORKERS;
use crate::crypto::{BACKEND_VARIABLE, Backend, chosen_backend};
use crate::error::{Error, Result};

/// The limit on the length of the measurements' buffers and files together, in bytes.
pub const MOST_MEMORY: usize = 200 << 20;

/// The most threads that can be asked for; each has a buffer of its own.
pub const MOST_THREADS: usize = 512;

/// The longest budget that can be asked for, in seconds: an hour.
pub const MOST_SECONDS: f64 = 3600.0;

/// The spread above which figures say more about the machine's other work than about ours.
pub const BUSY: f64 = 0.15;

/// The part of the time that the ciphers get. A conversion takes longer than a run of a cipher, so the sweep
/// needs more for as many rounds.
const CIPHERS_SHARE: f64 = 0.35;

/// The measurements to be done.
#[derive(Debug, Clone, Copy)]
pub struct SpeedPlan {
    /// The time that it may take in all, about. Every figure is measured a few times even when that takes
    /// longer.
    pub budget: Duration,
    /// The number of threads meant by "all threads"; without it, as many as the machine runs at once.
    pub threads: Option<NonZeroUsize>,
}

impl SpeedPlan {
    /// Makes a plan for `seconds` in all and that many threads.
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

/// The results. Speeds are in GB/s, which are 10^9 bytes a second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The processor.
    pub cpu: Cpu,
    /// The backend that encrypts and decrypts images.
    pub backend: Chosen,
    /// The way of measuring.
    pub measurement: Measurement,
    /// Every backend that this machine has, the slowest first.
    pub ciphers: Vec<CipherSpeed>,
    /// The plain `cbc` crate, one sector at a time.
    pub cbc_crate: CbcCrateSpeed,
    /// XTS, the mode of LUKS, by every backend and with keys of both lengths.
    pub xts: Vec<XtsSpeed>,
    /// Whole conversions, for every cluster size that there is.
    pub cluster_sizes: Vec<ClusterSpeed>,
    /// The time of a conversion with AES as a multiple of that without: the median over all pairs of
    /// conversions, of every cluster size.
    pub aes_takes_times: f64,
    /// Advice that would make it faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The processor.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// The name that it gives itself, or that the virtual machine was told to give it.
    pub model: String,
    /// The number of threads that it runs for us at once.
    pub threads: usize,
    /// The features that matter to the ciphers.
    pub features: Vec<Feature>,
    /// True if it says that it is a virtual machine's (x86 only; others don't tell).
    pub virtualised: bool,
}

/// A feature of the processor.
#[derive(Debug, Serialize)]
pub struct Feature {
    /// Its name, as Linux and compilers know it.
    pub name: &'static str,
    /// True if the processor has it.
    pub present: bool,
}

/// The backend that does the work.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Its name.
    pub name: &'static str,
    /// Its description.
    pub description: &'static str,
    /// The reason for which it is used and no other.
    pub reason: String,
    /// The kernel that encrypts, by its name in the program, for backends that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<&'static str>,
}

/// The way of measuring.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measurement {
    /// The number of threads that "all threads" were.
    pub threads: usize,
    /// The length of each thread's buffer for the ciphers, in bytes.
    pub buffer_bytes: usize,
    /// The number of measurements of each speed of a cipher.
    pub cipher_rounds: u32,
    /// The disk that was converted, in bytes.
    pub data_bytes: u64,
    /// The number of threads that converted it.
    pub conversion_threads: usize,
    /// The number of times that each conversion was done.
    pub conversion_rounds: u32,
    /// The spread of measurements of the same thing: the width of their middle half as a share of the median.
    /// Above [`BUSY`] the machine was doing something else as well.
    pub spread: f64,
}

/// The speed of a backend.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CipherSpeed {
    /// The backend.
    pub name: &'static str,
    /// Encrypting on one thread.
    pub encrypt_one_thread: f64,
    /// Decrypting on one thread.
    pub decrypt_one_thread: f64,
    /// Encrypting on all threads together.
    pub encrypt_all_threads: f64,
    /// Decrypting on all threads together.
    pub decrypt_all_threads: f64,
    /// The limit of the AES unit with this backend's instructions, on one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The share of the limit that encrypting on one thread reaches, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_limit: Option<f64>,
    /// The speed of encrypting as a multiple of the `cbc` crate's, on one thread.
    pub times_cbc_crate_encrypt: f64,
    /// The speed of decrypting as a multiple of the `cbc` crate's, on one thread.
    pub times_cbc_crate_decrypt: f64,
}

/// A backend's speed in XTS mode.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct XtsSpeed {
    /// The backend.
    pub name: &'static str,
    /// The length of each of the two keys, in bits.
    pub key_bits: usize,
    /// Encrypting on one thread.
    pub encrypt_one_thread: f64,
    /// Decrypting on one thread.
    pub decrypt_one_thread: f64,
    /// Encrypting on all threads together.
    pub encrypt_all_threads: f64,
    /// The most that the AES unit does with this backend's instructions and such keys, on one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The share of that which encrypting on one thread reaches, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_limit: Option<f64>,
}

/// The plain `cbc` crate's speed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CbcCrateSpeed {
    /// Encrypting on one thread.
    pub encrypt_one_thread: f64,
    /// Decrypting on one thread.
    pub decrypt_one_thread: f64,
}

/// The effect of a cluster size on a conversion from raw to qcow2.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterSpeed {
    /// The cluster size in bytes.
    pub cluster_size: u64,
    /// Converting without encryption.
    pub plain: f64,
    /// Converting with legacy AES.
    pub aes: f64,
    /// The length of the image's file.
    pub file_bytes: u64,
    /// The part of that which isn't the disk's data.
    pub metadata_bytes: u64,
}

/// Measures the ciphers and the conversions.
///
/// # Errors
/// Returns an error if [`BACKEND_VARIABLE`] names a backend that can't be had, or if the system has no memory
/// for it.
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
    let ciphers = ciphers::measure(threads, ciphers_budget)?;
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

/// Returns the reason for which `backend` is used. `forced` is the environment's choice.
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
