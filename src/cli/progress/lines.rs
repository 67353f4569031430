//! Progress as `qemu-img -p` prints it: a percentage followed by a carriage return.
//!
//! Programs parse these lines. One is printed at the start, whenever the percentage has grown by one
//! (`compare`: two), and at the end.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

/// The printer of these lines.
pub(super) struct Lines {
    /// True if standard output is used for other data.
    pub(super) on_stderr: bool,
    /// The least increase for the next line, in per cent.
    pub(super) step: f64,
    last: Mutex<Option<f64>>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            on_stderr: false,
            step: 1.0,
            last: Mutex::new(None),
        }
    }
}

impl Lines {
    /// Prints the percentage if it has increased enough. Workers may report out of order, but the percentage only
    /// grows.
    pub(super) fn progress(&self, done: u64, total: u64) {
        let percent = percent(done, total);
        // The end is always printed, except for an empty disk, where the first line has been the end.
        let ended = done >= total && total > 0;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| percent >= last + self.step) || ended;
        if due && last.is_none_or(|last| percent >= last) {
            *last = Some(percent);
            self.show(&format!("{}\r", line(percent)));
        }
    }

    /// Ends the line that was overwritten repeatedly.
    pub(super) fn end(&self) {
        self.show("\n");
    }

    /// Prints a text. Errors are ignored: the job continues without a reader of its progress.
    fn show(&self, text: &str) {
        if self.on_stderr {
            drop(io::stderr().lock().write_all(text.as_bytes()));
        } else {
            let mut out = io::stdout().lock();
            drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
        }
    }
}

/// Returns the progress in per cent.
pub(super) fn percent(done: u64, total: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
    if total == 0 {
        100.0
    } else {
        done as f64 * 100.0 / total as f64
    }
}

/// Returns the line that shows a percentage.
pub(super) fn line(percent: f64) -> String {
    format!("    ({percent:3.2}/100%)")
}
