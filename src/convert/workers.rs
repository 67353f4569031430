//! Worker threads: as many as are wanted and can be had, all at the same work.
//!
//! A limit on the address space allows fewer of them. The allocator of the C library sets 64 MiB of it aside
//! for each thread, which is most of what a thread takes. A thread gets no memory at all if that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// A worker's stack. It holds no buffers; callers limit our address space.
const STACK_SIZE: usize = 256 << 10;
/// The part of a limited address space that each thread needs, in bytes: for what is set aside for it, its
/// stack and its buffers.
const ADDRESS_SPACE: u64 = 128 << 20;

/// The workers at one job, each of which takes what is left to do until there is nothing.
pub(super) struct Workers<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    job: &'env dyn Job,
    /// The number of workers, the calling thread among them.
    count: AtomicUsize,
    /// The most workers that there may be.
    most: usize,
    /// No more can be had.
    refused: AtomicBool,
}

/// A job for many threads.
pub(super) trait Job: Sync {
    /// The name of the threads.
    fn name(&self) -> &'static str;

    /// Works until there is nothing left to do. `workers` may be asked for more hands.
    fn work(&self, workers: &Arc<Workers<'_, '_>>);

    /// A worker panicked: the others must not wait for it for ever.
    fn stop(&self);
}

/// Has `count` threads work at `job`. One of them is the calling one, so a machine that refuses new threads
/// still gets it done.
pub(super) fn run(count: usize, job: &dyn Job) {
    let limit = getrlimit(Resource::RLIMIT_AS).map(|(limit, _)| limit);
    run_at_most(most_within(limit.unwrap_or(RLIM_INFINITY)), count, job);
}

/// Returns the number of threads that an address space of `limit` bytes has room for.
fn most_within(limit: u64) -> usize {
    match limit {
        RLIM_INFINITY => usize::MAX,
        limit => usize::try_from(limit / ADDRESS_SPACE).map_or(usize::MAX, |most| most.max(1)),
    }
}

/// Does the same as [`run`], with `most` threads, however many are asked for.
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
    /// Starts more threads until there are `count`, or until no more can be had.
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

    /// A job of which every worker asks for 40.
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
