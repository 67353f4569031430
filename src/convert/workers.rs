//! Worker threads for one job: as many as are wanted and as the system allows.
//!
//! A limit on the address space (RLIMIT_AS) allows fewer threads. The allocator of the C library reserves 64 MiB of
//! it for each thread, which is most of what a thread takes. If that fails, the thread can't allocate any memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// The stack of a worker in bytes. It is small, since buffers aren't on it and callers may limit the address space.
const STACK_SIZE: usize = 256 << 10;
/// The part of a limited address space that each thread needs, in bytes: for the allocator, its stack and its
/// buffers.
const ADDRESS_SPACE: u64 = 128 << 20;

/// The workers of a job.
pub(super) struct Workers<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    job: &'env dyn Job,
    /// The number of workers, including the calling thread.
    count: AtomicUsize,
    /// The limit on the number of workers.
    most: usize,
    /// True if the system refused a thread.
    refused: AtomicBool,
}

/// A job for many threads, each of which works until nothing is left.
pub(super) trait Job: Sync {
    /// Returns the name of the threads.
    fn name(&self) -> &'static str;

    /// Works until nothing is left. The job may start more workers with [`Workers::grow_to`].
    fn work(&self, workers: &Arc<Workers<'_, '_>>);

    /// Stops the job because a worker panicked, so that the others don't wait for it forever.
    fn stop(&self);
}

/// Runs `job` with `count` threads. One of them is the calling thread, so that the job is done even if the system
/// refuses new threads.
pub(super) fn run(count: usize, job: &dyn Job) {
    let limit = getrlimit(Resource::RLIMIT_AS).map(|(limit, _)| limit);
    run_at_most(most_within(limit.unwrap_or(RLIM_INFINITY)), count, job);
}

/// Returns the number of threads that fit into an address space of `limit` bytes.
fn most_within(limit: u64) -> usize {
    match limit {
        RLIM_INFINITY => usize::MAX,
        limit => usize::try_from(limit / ADDRESS_SPACE).map_or(usize::MAX, |most| most.max(1)),
    }
}

/// Does the same as [`run`], with at most `most` threads.
fn run_at_most(most: usize, count: usize, job: &dyn Job) {
    thread::scope(|scope| {
        let workers = Arc::new(Workers {
            scope,
            job,
            count: AtomicUsize::new(1),
            most,
            refused: AtomicBool::new(false),
        });
        Workers::grow_to(&workers, count);
        Workers::watched(&workers);
    });
}

impl<'scope, 'env> Workers<'scope, 'env> {
    /// Starts more threads until there are `count`, or until the system refuses one.
    pub(super) fn grow_to(this: &Arc<Self>, count: usize) {
        let count = count.min(this.most);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A job of which every worker asks for 40 threads.
    #[derive(Default)]
    struct Greedy {
        workers: AtomicUsize,
    }

    impl Job for Greedy {
        fn name(&self) -> &'static str {
            "greedy"
        }

        fn work(&self, workers: &Arc<Workers<'_, '_>>) {
            self.workers.fetch_add(1, Ordering::Relaxed);
            Workers::grow_to(workers, 40);
        }

        fn stop(&self) {}
    }

    #[test]
    fn there_are_as_many_as_are_asked_for_and_no_more_than_may_be() {
        for (most, there) in [(1, 1), (5, 5), (usize::MAX, 40)] {
            let job = Greedy::default();
            run_at_most(most, 3, &job);
            assert_eq!(job.workers.into_inner(), there);
        }
    }

    #[test]
    fn a_limited_address_space_allows_fewer() {
        assert_eq!(most_within(RLIM_INFINITY), usize::MAX);
        assert_eq!(most_within(2 << 30), 16);
        assert_eq!(most_within(1 << 30), 8);
        assert_eq!(most_within(50 << 20), 1);
    }
}
