//! The limit on the threads that compress, encrypt or search for zeroes at the same time.
//!
//! Many threads may wait for storage, but only a limited number may compute. Threads that share a processor evict
//! each other's tables from its caches: 16 threads that compress on two processors take a fifth longer than two.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A semaphore for threads that compute.
#[derive(Debug)]
pub(super) struct Processors {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Processors {
    pub(super) fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count.max(1)),
            changed: Condvar::new(),
        }
    }

    /// Runs `work` once fewer threads than the limit compute. `work` must not wait for another thread.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut free = self
            .changed
            .wait_while(self.lock(), |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let taken = Permit(self);
        let done = work();
        drop(taken);
        done
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit, which is returned even if the work panics.
struct Permit<'a>(&'a Processors);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.lock() += 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_work_at_once_than_are_allowed() {
        let processors = Processors::new(2);
        let (working, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        processors.run(|| {
                            let now = working.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                            std::thread::yield_now();
                            working.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert!((1..=2).contains(&most.into_inner()));
    }

    #[test]
    fn a_panic_gives_the_leave_back() {
        let processors = Processors::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            processors.run(|| panic!("at work"))
        }));
        assert!(panicked.is_err());
        assert_eq!(processors.run(|| 7), 7);
    }
}
