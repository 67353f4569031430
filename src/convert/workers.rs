//! Worker threads: as many as are wanted and can be had, all at the same work.

use std::num::NonZeroUsize;
use std::thread;

/// A worker's stack. It holds no buffers; callers limit our address space.
const STACK_SIZE: usize = 256 << 10;

/// Has `count` threads do `work`, each of which takes what is left to do until there is nothing. One of
/// them is the calling one, so a machine that refuses new threads still gets it done. `name` is what
/// the others are called.
///
/// When one panics, `stop` is called: the others must not wait for it for ever.
pub(super) fn run(
    name: &str,
    count: NonZeroUsize,
    stop: &(dyn Fn() + Sync),
    work: &(dyn Fn() + Sync),
) {
    let watched = || {
        let watch = StopOnPanic(stop);
        work();
        drop(watch);
    };
    thread::scope(|scope| {
        for number in 1..count.get() {
            let spawned = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, watched);
            if spawned.is_err() {
                break;
            }
        }
        watched();
    });
}

struct StopOnPanic<'a>(&'a (dyn Fn() + Sync));

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.0)();
        }
    }
}
