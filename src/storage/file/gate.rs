//! A gate that stops all writes to files once a signal ends the program.
//!
//! A target can't be undone while other threads write it. A write that completes after the file was truncated leaves
//! data in it, and a header that is written then makes it look complete. So the thread that undoes first closes the
//! gate, and then waits for the writes that have passed it. A thread that arrives later blocks forever. Its write
//! neither happens nor fails, since a failure would be reported as one of the medium.
//!
//! There is one gate for the whole program, since files are only undone when it ends, and then no file may be
//! written. Passing the gate takes two atomic additions for each system call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The program's gate.
pub(super) static GATE: Gate = Gate::new();

/// The bit for a closed gate. The bits below it count the writes in flight.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// The interval at which the thread that closed the gate tests if all writes have completed.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A gate for writes; see the module's documentation.
#[derive(Debug)]
pub(super) struct Gate(AtomicUsize);

/// A write in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Begins a change of a file. Never returns once the gate is closed.
    pub(super) fn pass(&self) -> Pass<'_> {
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self);
        if before & CLOSED != 0 {
            drop(pass);
            loop {
                thread::park();
            }
        }
        pass
    }

    /// Closes the gate for good.
    pub(super) fn shut(&self) {
        self.0.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Waits until no write is in flight after the gate was closed, but no longer than `at_most`. A write to a
    /// storage that hangs may never complete. Returns false if some are still in flight.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let begun = Instant::now();
        while self.0.load(Ordering::SeqCst) != CLOSED {
            if begun.elapsed() >= at_most {
                return false;
            }
            thread::sleep(LOOK_EVERY);
        }
        true
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A time limit far above what a test takes. Only a failing test waits for it.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn closing_waits_for_the_writes_under_way() {
        static GATE: Gate = Gate::new();
        let passes = [GATE.pass(), GATE.pass()];
        let (tell, told) = mpsc::channel();
        let closing = thread::spawn(move || {
            GATE.shut();
            let all_ended = GATE.wait(LONG);
            tell.send("closed").unwrap();
            all_ended
        });
        while GATE.0.load(Ordering::SeqCst) & CLOSED == 0 {
            thread::yield_now();
        }
        for pass in passes {
            assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
            drop(pass);
        }
        assert!(closing.join().unwrap());
        assert_eq!(told.recv(), Ok("closed"));
    }

    #[test]
    fn closing_gives_up_on_a_write_that_hangs() {
        let gate = Gate::new();
        let pass = gate.pass();
        gate.shut();
        assert!(!gate.wait(Duration::ZERO));
        drop(pass);
        assert!(gate.wait(LONG));
    }

    #[test]
    fn nothing_passes_a_closed_gate() {
        static GATE: Gate = Gate::new();
        GATE.shut();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            tell.send("comes").unwrap();
            let _pass = GATE.pass();
            tell.send("passed").unwrap();
        });
        assert_eq!(told.recv(), Ok("comes"));
        // The thread counts itself for a moment. After that it has blocked, or passed.
        for _ in 0..1000 {
            thread::yield_now();
            assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        }
        assert!(GATE.wait(LONG));
    }
}
