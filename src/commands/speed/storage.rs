//! The speed of a storage: the latency of its requests, and their rate with more of them in flight.
//!
//! On slow storage these figures decide the time of a conversion. They differ by a factor of a thousand between a
//! local disk and a network. In a folder, an unnamed file is written and read, so that nothing is left of it however
//! the program ends. A file or a device is only read.
//!
//! The page cache is bypassed if the file system can do that. Otherwise the cache is measured.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::convert::Buffer;
use crate::error::{Error, Result};
use crate::storage::{Access, CacheMode, Opening, Storage, list};

/// The measured numbers of requests in flight.
const IN_FLIGHT: [usize; 4] = [1, 4, 16, 64];
/// The measured lengths of requests in bytes.
const LENGTHS: [usize; 2] = [4 << 10, 1 << 20];
/// The longest part of a storage that is read and written, in bytes.
const MOST_SPAN: u64 = 256 << 20;
/// The divisor of the budget for filling a new file.
const FILLING: u32 = 4;
/// A thread's stack in bytes.
const STACK: usize = 128 << 10;

/// The figures, and the conditions of their measurement.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StorageReport {
    /// The folder, file or device.
    pub path: String,
    /// True if the page cache was bypassed.
    pub bypasses_cache: bool,
    /// The number of bytes that were read and written.
    pub span: u64,
    /// The figures.
    pub requests: Vec<RequestSpeed>,
}

/// The speed of requests of one kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RequestSpeed {
    /// `read` or `write`.
    pub operation: &'static str,
    /// The length of a request in bytes.
    pub length: usize,
    /// The number of requests in flight.
    pub in_flight: usize,
    /// The number of requests per second.
    pub per_second: f64,
    /// The throughput, in 10^6 bytes per second.
    pub megabytes_per_second: f64,
    /// The median latency of a request, in milliseconds.
    pub median_milliseconds: f64,
    /// The longest latency of a request, in milliseconds.
    pub longest_milliseconds: f64,
}

/// Measures the storage of `path` for about as long as `budget`.
///
/// # Errors
/// Returns the system's error if the path can't be opened, if no file can be created in the folder, or if a request
/// fails. Returns an error if a file is shorter than a request.
pub fn run(path: &Path, budget: Duration) -> Result<StorageReport> {
    let is_folder = path.is_dir();
    let file = match is_folder {
        true => list::file_without_name(path, CacheMode::Auto)?,
        false => list::open_path(path, Opening::new(Access::Read, CacheMode::Auto))?,
    };
    let [_, longest] = LENGTHS;
    let (span, budget) = match is_folder {
        true => (
            fill(file.as_ref(), budget / FILLING)?,
            budget - budget / FILLING,
        ),
        false => (file.len()?.min(MOST_SPAN), budget),
    };
    if span < longest as u64 {
        let least = longest >> 10;
        return Err(Error::invalid(format!(
            "'{}' is too short to be measured: {least} KiB are needed",
            path.display()
        )));
    }
    let operations: &[RequestKind] = match is_folder {
        true => &[RequestKind::Read, RequestKind::Write],
        false => &[RequestKind::Read],
    };
    let cells = operations.len() * LENGTHS.len() * IN_FLIGHT.len();
    let each = budget / u32::try_from(cells).unwrap_or(1);
    let mut requests = Vec::with_capacity(cells);
    for operation in operations {
        for length in LENGTHS {
            for in_flight in IN_FLIGHT {
                let cell = Cell {
                    file: file.as_ref(),
                    operation: *operation,
                    length,
                    slots: span / length as u64,
                    each,
                };
                requests.push(cell.measure(in_flight)?);
            }
        }
    }
    Ok(StorageReport {
        path: path.display().to_string(),
        bypasses_cache: file.bypasses_cache(),
        span,
        requests,
    })
}

/// Writes to a new file for the time of `budget`, or until it is long enough. Returns its length in bytes.
fn fill(file: &dyn Storage, budget: Duration) -> Result<u64> {
    let [_, length] = LENGTHS;
    let mut buffer = Buffer::default();
    let data = buffer.get(length);
    noise(data);
    let start = Instant::now();
    let mut end = 0;
    while end < MOST_SPAN && (end == 0 || start.elapsed() < budget) {
        file.write_at(end, data)?;
        end += length as u64;
    }
    file.flush()?;
    Ok(end)
}

/// Fills `data` with bytes that no layer can compress or deduplicate.
fn noise(data: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for byte in data {
        state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
        [.., *byte] = state.to_le_bytes();
    }
}

#[derive(Debug, Clone, Copy)]
enum RequestKind {
    Read,
    Write,
}

/// One figure to be measured.
struct Cell<'a> {
    file: &'a dyn Storage,
    operation: RequestKind,
    length: usize,
    /// The number of requests that fit into the span.
    slots: u64,
    each: Duration,
}

impl Cell<'_> {
    fn measure(&self, in_flight: usize) -> Result<RequestSpeed> {
        let next = AtomicU64::new(0);
        let found = Mutex::new((Vec::new(), None));
        let start = Instant::now();
        let work = || {
            let (times, error) = match self.requests(&next, start) {
                Ok(times) => (times, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0.extend(times);
            found.1 = found.1.take().or(error);
        };
        let mut threads = 1;
        thread::scope(|scope| {
            for _ in 1..in_flight {
                let builder = thread::Builder::new().stack_size(STACK);
                if builder.spawn_scoped(scope, work).is_err() {
                    break;
                }
                threads += 1;
            }
            work();
        });
        let seconds = start.elapsed().as_secs_f64();
        let (mut times, error) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error {
            return Err(error);
        }
        times.sort_unstable();
        let count = f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX));
        let milliseconds =
            |time: Option<&Duration>| time.copied().unwrap_or_default().as_secs_f64() * 1000.0;
        let length = f64::from(u32::try_from(self.length).unwrap_or(u32::MAX));
        Ok(RequestSpeed {
            operation: match self.operation {
                RequestKind::Read => "read",
                RequestKind::Write => "write",
            },
            length: self.length,
            in_flight: threads,
            per_second: count / seconds,
            megabytes_per_second: count * length / seconds / 1e6,
            median_milliseconds: milliseconds(times.get(times.len() / 2)),
            longest_milliseconds: milliseconds(times.last()),
        })
    }

    /// Does requests until the time is up, but at least one. Returns their latencies.
    fn requests(&self, next: &AtomicU64, start: Instant) -> Result<Vec<Duration>> {
        let mut buffer = Buffer::default();
        let data = buffer.get(self.length);
        if matches!(self.operation, RequestKind::Write) {
            noise(data);
        }
        let mut times = Vec::new();
        while times.is_empty() || start.elapsed() < self.each {
            // The offsets are scattered, so that readahead has no effect. The multiplier is a prime.
            let number = next.fetch_add(1, Ordering::Relaxed);
            let slot = number.wrapping_mul(2_654_435_761) % self.slots;
            let offset = slot * self.length as u64;
            let begun = Instant::now();
            match self.operation {
                RequestKind::Read => self.file.read_exact_at(offset, data, "the file")?,
                RequestKind::Write => self.file.write_at(offset, data)?,
            }
            times.push(begun.elapsed());
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_written_and_read_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let report = run(folder.path(), Duration::from_millis(100)).unwrap();
        assert_eq!(report.requests.len(), 16);
        for speed in &report.requests {
            assert!(
                speed.per_second > 0.0 && speed.median_milliseconds > 0.0,
                "{speed:?}"
            );
            assert!(speed.longest_milliseconds >= speed.median_milliseconds);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![7; 2 << 20]).unwrap();
        let report = run(&path, Duration::from_millis(50)).unwrap();
        assert_eq!(report.requests.len(), 8);
        assert!(
            report
                .requests
                .iter()
                .all(|speed| speed.operation == "read")
        );
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 2 << 20]);
        std::fs::write(&path, [0; 4096]).unwrap();
        let error = run(&path, Duration::from_millis(50))
            .unwrap_err()
            .to_string();
        assert!(error.contains("too short"), "{error}");
    }
}
