//! The settings of a copy, its observer, and its rate.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::flow::MOST_IN_FLIGHT;
use super::window::RequestWindow;
use crate::error::Error;
use crate::units::GuestOffset;

/// The most workers that can be asked for, and that are used without being asked for.
pub const MOST_WORKERS: usize = 16;

/// The shortest run of zeroes that is left out unless another length is asked for, in bytes.
const DEFAULT_SPARSE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The settings of a copy.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The most threads that work on it. No more do than there are processors; threads that only wait for
    /// storage don't count.
    pub workers: NonZeroUsize,
    /// The number of reads, and of writes, that are under way at once; `None` goes by the time for which they
    /// wait.
    pub requests: Option<NonZeroUsize>,
    /// The shortest run of zeroes that is left out, in bytes; `None` writes every byte of the disk.
    pub sparse: Option<NonZeroUsize>,
    /// Data is copied within the system where that is possible. It isn't searched for zeroes then.
    pub copy_offload: bool,
    /// The cases in which data that isn't changed shares its blocks with the source's.
    pub reflink: Reflink,
    /// Data that may be shared isn't searched for zeroes, and so isn't read.
    pub shares_unread: bool,
    /// Parts that the source doesn't store itself are left to the target's backing file, if it has one, which
    /// must then read the same there.
    pub leave_unallocated: bool,
    /// Parts that can't be read are replaced by zeroes, and told to the observer.
    pub salvage: bool,
    /// The most bytes that are copied in a second.
    pub rate: Option<u64>,
}

/// The cases in which blocks are shared between source and target instead of being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflink {
    /// Blocks are shared where the file system can.
    Auto,
    /// All of them; that one can't be is an error.
    Always,
    /// None.
    Never,
}

impl Reflink {
    /// The choice of that name.
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
    /// Returns the default settings: as many workers as the machine runs threads at once, up to 16. Runs of 4
    /// KiB of zeroes are left out.
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
    /// Returns the number of threads that keep the processors busy.
    pub(super) fn threads(&self) -> usize {
        let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.workers.min(processors).get()
    }

    /// Returns the window for requests that take `memory` bytes each. Up to `least` of them may be under way
    /// however fast the storage is, since so many are worked on at once.
    pub(super) fn window(&self, least: usize, memory: usize) -> RequestWindow {
        let most = (MOST_IN_FLIGHT / memory.max(1)).max(1);
        match self.requests {
            Some(requests) => RequestWindow::fixed(requests.get().min(most.max(least)), least),
            None => RequestWindow::new(least, most, least),
        }
    }
}

/// The observer of a copy, called from all workers.
pub trait Observer: Sync {
    /// Returns true if progress is to be counted in bytes of data, which have to be found first. Else it is the
    /// place on the disk that is reached.
    fn counts_data(&self) -> bool {
        false
    }

    /// `done` of `total` bytes are copied.
    fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// So many bytes from `offset` on could not be read and were replaced by zeroes; `error` says why
    /// the first of them could not. Called in guest order, once for all that are neighbours.
    fn salvaged(&self, offset: GuestOffset, length: u64, error: &Error) {
        let _ = (offset, length, error);
    }
}

/// Nobody watches.
impl Observer for () {}

/// Keeps the workers together below a rate.
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
