//! The progress of a conversion: `-p` on standard output, SIGUSR1 on standard error, and warnings of what was
//! salvaged.
//!
//! The lines are `qemu-img`'s, which programs parse. With `-p` they are a percentage followed by a carriage
//! return. It is printed at the start, whenever it has grown by one per cent (`compare`: two), and at the
//! end.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGUSR1;

use crate::convert::Observer;
use crate::error::Error;
use crate::units::GuestOffset;

/// The printer of a conversion's progress.
pub(super) struct Progress {
    shown: bool,
    /// True if standard output is for something else.
    on_stderr: bool,
    /// The flag that SIGUSR1 sets: the progress is printed once.
    asked: Arc<AtomicBool>,
    last: Mutex<Option<f64>>,
    /// The least growth after which the percentage is printed again, in per cent.
    step: f64,
}

impl Progress {
    /// Returns a printer. It prints all progress if `shown`, else only when asked by SIGUSR1.
    pub(super) fn new(shown: bool) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        // The signal would end the program without a handler. An error leaves it at that.
        drop(signal_hook::flag::register(SIGUSR1, Arc::clone(&asked)));
        Self {
            shown,
            on_stderr: false,
            asked,
            last: Mutex::new(None),
            step: 1.0,
        }
    }

    /// Makes it print whenever the percentage has grown by two.
    pub(super) fn in_larger_steps(self) -> Self {
        Self { step: 2.0, ..self }
    }

    /// Makes it print on standard error.
    pub(super) fn beside_output(self) -> Self {
        Self {
            on_stderr: true,
            ..self
        }
    }

    /// Prints zero per cent.
    pub(super) fn begin(&self) {
        self.progress(0, 1);
    }

    /// Ends the line that was printed over and over.
    pub(super) fn end(&self) {
        if self.shown {
            self.show("\n");
        }
    }

    /// Prints a text. Errors are ignored: the job goes on without a reader of its progress.
    fn show(&self, text: &str) {
        if self.on_stderr {
            drop(io::stderr().lock().write_all(text.as_bytes()));
        } else {
            let mut out = io::stdout().lock();
            drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
        }
    }
}

impl Observer for Progress {
    fn counts_data(&self) -> bool {
        self.shown
    }

    fn progress(&self, done: u64, total: u64) {
        #[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
        let percent = if total == 0 {
            100.0
        } else {
            done as f64 * 100.0 / total as f64
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // The end is reported once more when it is reached; for an empty disk, once is enough.
        let ended = done >= total && total > 0;
        let due = last.is_none_or(|last| percent >= last + self.step) || ended;
        // Workers may report out of order; the percentage that is shown only grows.
        if due && last.is_none_or(|last| percent >= last) {
            *last = Some(percent);
            if self.shown {
                self.show(&format!("    ({percent:3.2}/100%)\r"));
            }
        }
        if self.asked.swap(false, Ordering::Relaxed) && !self.shown {
            super::complain(&format!("    ({percent:3.2}/100%)"));
        }
    }

    fn salvaged(&self, offset: GuestOffset, length: u64, error: &Error) {
        super::warn(&format!(
            "error while reading offset {}: {error}; {length} bytes are replaced by zeroes",
            offset.0
        ));
    }
}
