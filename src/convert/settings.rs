//! The settings of a copy, its observer, and its rate limit.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::flow::MOST_IN_FLIGHT;
use super::window::RequestWindow;
use crate::error::{Error, Result};
use crate::units::GuestOffset;

/// The most workers that can be asked for, and the most by default.
pub const MOST_WORKERS: usize = 16;

/// The default of the shortest run of zeroes that is skipped, in bytes.
const DEFAULT_SPARSE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The settings of a copy.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The most threads that compute. There are never more of them than processors. Threads that only wait for
    /// storage aren't counted.
    pub workers: NonZeroUsize,
    /// The number of reads and of writes in flight, or `None` to adapt it to the time for which requests wait.
    pub requests: Option<NonZeroUsize>,
    /// The shortest run of zeroes that is skipped, in bytes. `None` writes every byte of the disk.
    pub sparse: Option<NonZeroUsize>,
    /// True if the kernel copies data by itself where that is possible. The data isn't searched for zeroes then.
    pub copy_offload: bool,
    /// The rule for sharing blocks of unchanged data with the source.
    pub reflink: Reflink,
    /// True if data that may be shared isn't searched for zeroes, and so isn't read.
    pub shares_unread: bool,
    /// True if unallocated parts of the source are left to the target's backing file, if it has one. That must read
    /// the same there.
    pub leave_unallocated: bool,
    /// True if parts that can't be read are replaced by zeroes, and reported to the observer.
    pub salvage: bool,
    /// The rate limit in bytes per second.
    pub rate: Option<u64>,
}

/// The cases in which blocks are shared between source and target instead of being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflink {
    /// Shares blocks if the file system can.
    Auto,
    /// Shares all blocks. It is an error if one can't be shared.
    Always,
    /// Shares no blocks.
    Never,
}

impl Reflink {
    /// Returns the rule of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "always" => Self::Always,
            "never" => Self::Never,
            _ => return None,
        })
    }
}

impl Default for Settings {
    /// Returns the default settings: a worker for each processor, up to 16, and runs of 4 KiB of zeroes are skipped.
    fn default() -> Self {
        let workers = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let most = NonZeroUsize::new(MOST_WORKERS).unwrap_or(NonZeroUsize::MIN);
        Self {
            workers: workers.min(most),
            requests: None,
            sparse: Some(DEFAULT_SPARSE),
            copy_offload: false,
            reflink: Reflink::Auto,
            shares_unread: false,
            leave_unallocated: false,
            salvage: false,
            rate: None,
        }
    }
}

impl Settings {
    /// Returns the number of threads that compute.
    pub(super) fn threads(&self) -> usize {
        let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.workers.min(processors).get()
    }

    /// Returns the window for requests that take `memory` bytes each. At least `least` of them may be in flight,
    /// since as many are processed at once.
    pub(super) fn window(&self, least: usize, memory: usize) -> RequestWindow {
        let most = (MOST_IN_FLIGHT / memory.max(1)).max(1);
        match self.requests {
            Some(requests) => RequestWindow::fixed(requests.get().min(most.max(least)), least),
            None => RequestWindow::new(least, most, least),
        }
    }
}

/// The observer of a copy. All workers call it.
pub trait Observer: Sync {
    /// Returns true if progress is counted in bytes of data, which have to be added up beforehand. Otherwise it is
    /// the offset on the disk.
    fn counts_data(&self) -> bool {
        false
    }

    /// Reports that `done` of `total` bytes are copied.
    fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Returns an error if the work is to end before it is done. Workers ask before each chunk.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Cancelled`](crate::error::ErrorKind::Cancelled) then.
    fn go_on(&self) -> Result<()> {
        Ok(())
    }

    /// Reports that `length` bytes from `offset` on could not be read and were replaced by zeroes. `error` is that of
    /// the first of them. Calls come in guest order, one for all adjacent bytes.
    fn salvaged(&self, offset: GuestOffset, length: u64, error: &Error) {
        let _ = (offset, length, error);
    }
}

/// The observer that ignores everything.
impl Observer for () {}

/// The limit on the common rate of all workers.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Option<u64>,
    start: Instant,
    done: AtomicU64,
}

impl Throttle {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.filter(|rate| *rate > 0),
            start: Instant::now(),
            done: AtomicU64::new(0),
        }
    }

    /// Waits until `bytes` more are allowed.
    pub(super) fn wait_for(&self, bytes: u64) {
        let Some(rate) = self.rate else {
            return;
        };
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let nanoseconds = u128::from(before) * 1_000_000_000 / u128::from(rate);
        let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}
