//! Worker threads: as many as are wanted and can be had, all at the same work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope};

/// A worker's stack. It holds no buffers; callers limit our address space.
const STACK_SIZE: usize = 256 << 10;

/// The workers at one job, each of which takes what is left to do until there is nothing.
pub(super) struct Workers<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    job: &'env dyn Job,
    /// How many there are, the calling thread among them.
    count: AtomicUsize,
    /// No more can be had.
    refused: AtomicBool,
}

/// A job for many threads.
pub(super) trait Job: Sync {
    /// What the threads are called.
    fn name(&self) -> &'static str;

    /// Works until there is nothing left to do. `workers` may be asked for more hands.
    fn work(&self, workers: &Arc<Workers<'_, '_>>);

    /// A worker panicked: the others must not wait for it for ever.
    fn stop(&self);
}

/// Has `count` threads work at `job`. One of them is the calling one, so a machine that refuses new threads
/// still gets it done.
pub(super) fn run(count: usize, job: &dyn Job) {
    thread::scope(|scope| {
        let workers = Arc::new(Workers {
            scope,
            job,
            count: AtomicUsize::new(1),
            refused: AtomicBool::new(false),
        });
        Workers::grow_to(&workers, count);
        Workers::watched(&workers);
    });
}

impl<'scope, 'env> Workers<'scope, 'env> {
    /// Starts more threads until there are `count`, or until no more can be had.
    pub(super) fn grow_to(this: &Arc<Self>, count: usize) {
        loop {
            let there = this.count.load(Ordering::Relaxed);
            if there >= count || this.refused.load(Ordering::Relaxed) {
                return;
            }
            let taken =
                this.count
                    .compare_exchange(there, there + 1, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_err() {
                continue;
            }
            let workers = Arc::clone(this);
            let spawned = thread::Builder::new()
                .name(format!("{}-{there}", this.job.name()))
                .stack_size(STACK_SIZE)
                .spawn_scoped(this.scope, move || Self::watched(&workers));
            if spawned.is_err() {
                this.refused.store(true, Ordering::Relaxed);
            }
        }
    }

    fn watched(this: &Arc<Self>) {
        let watch = StopOnPanic(this.job);
        this.job.work(this);
        drop(watch);
    }
}

struct StopOnPanic<'a>(&'a dyn Job);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
