//! How many of the workers are at work, where they compress.
//!
//! A caller may want many workers (`-m 16`), so that many reads are under way. But compressing keeps a
//! processor busy for milliseconds, and threads that share one wait for each other, push each other's tables
//! out of its caches and leave another processor idle meanwhile: 16 on two processors took a fifth longer
//! than two. So no more are at work than keep all processors busy. That is as many as there are of those,
//! and more where workers wait for what they read: one that waits as long as it compresses leaves room for
//! another.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What of the time that was spent before counts when a worker tells of its own: what is told of so many
/// chunks is about what the last of them took.
const MEMORY: u32 = 32;

/// Those at work; see the module's text.
#[derive(Debug)]
pub(super) struct Crew {
    processors: usize,
    joined: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How many may work. Those with higher numbers wait.
    wanted: usize,
    waiting: Duration,
    packing: Duration,
    over: bool,
}

impl Crew {
    /// For work that is `packing`, or for work at which everybody is welcome.
    pub(super) fn new(packing: bool) -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            processors,
            joined: AtomicUsize::new(0),
            state: Mutex::new(State {
                wanted: if packing { processors } else { usize::MAX },
                waiting: Duration::ZERO,
                packing: Duration::ZERO,
                over: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// The number of another worker.
    pub(super) fn join(&self) -> usize {
        self.joined.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns when the worker of this number is wanted, or when there is nothing more to do.
    pub(super) fn wait(&self, number: usize) {
        let waited = self
            .changed
            .wait_while(self.lock(), |state| number >= state.wanted && !state.over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// A worker has waited and packed for so long.
    pub(super) fn spent(&self, waiting: Duration, packing: Duration) {
        let mut state = self.lock();
        let aged = |time: Duration| time - time / MEMORY;
        state.waiting = aged(state.waiting) + waiting;
        state.packing = aged(state.packing) + packing;
        let before = state.wanted;
        state.wanted = enough(self.processors, state.waiting, state.packing);
        let more = state.wanted > before;
        drop(state);
        if more {
            self.changed.notify_all();
        }
    }

    /// There is nothing more to do: nobody waits here any more.
    pub(super) fn dismiss(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many workers keep so many processors busy.
fn enough(processors: usize, waiting: Duration, packing: Duration) -> usize {
    let workers = processors as u128;
    let more = (workers * waiting.as_nanos() + packing.as_nanos() / 2)
        .checked_div(packing.as_nanos())
        .unwrap_or(0);
    processors.saturating_add(usize::try_from(more).unwrap_or(usize::MAX))
}

/// What a worker's time goes into.
pub(super) struct Watch {
    started: Instant,
    worked: Duration,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            worked: worked(),
        }
    }

    /// For how long this thread has been at work since the start, and for how long it hasn't.
    pub(super) fn times(&self) -> (Duration, Duration) {
        let working = worked().saturating_sub(self.worked);
        (working, self.started.elapsed().saturating_sub(working))
    }
}

/// This thread's time on a processor.
fn worked() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_are_wanted_where_they_wait() {
        let ms = Duration::from_millis;
        assert_eq!(enough(2, ms(0), ms(0)), 2);
        assert_eq!(enough(2, ms(9), ms(0)), 2);
        assert_eq!(enough(2, ms(1), ms(100)), 2);
        assert_eq!(enough(2, ms(100), ms(100)), 4);
        assert_eq!(enough(1, ms(900), ms(100)), 10);
    }

    #[test]
    fn those_too_many_wait_until_they_are_wanted() {
        let crew = Crew::new(true);
        let number = crew.processors;
        thread::scope(|scope| {
            let waiting = scope.spawn(|| crew.wait(number));
            crew.wait(0);
            assert!(!waiting.is_finished());
            crew.spent(Duration::from_secs(1), Duration::from_secs(1));
            waiting.join().unwrap();
            let waiting = scope.spawn(|| crew.wait(2 * number));
            crew.dismiss();
            waiting.join().unwrap();
        });
    }
}
