//! Progress for programs: lines of JSON.
//!
//! Each line is an object. `{"done":BYTES,"total":BYTES}` reports progress, at most ten times per second, and once
//! more at the end. `convert` ends with an object that has its summary ([`render::summary`]).
//!
//! [`render::summary`]: crate::cli::render::summary

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// The least time between two lines of progress.
const STEP: Duration = Duration::from_millis(100);

/// The printer of these lines.
pub(super) struct JsonLines {
    /// The descriptor to print to, or `None` for standard error.
    to: Option<File>,
    last: Mutex<Option<(Duration, u64)>>,
}

impl JsonLines {
    /// Starts a job that prints its lines to `to`, or else to standard error.
    pub(super) fn start(to: Option<File>) -> Self {
        Self {
            to,
            last: Mutex::new(None),
        }
    }

    /// Prints a line if one is due, or at the end. `now` is the time since the first report. Workers may report out
    /// of order, but the printed progress only grows.
    pub(super) fn progress(&self, now: Duration, done: u64, total: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = match *last {
            None => true,
            Some((at, before)) => done > before && (done >= total || now >= at + STEP),
        };
        if is_due {
            *last = Some((now, done));
            self.print(&json!({ "done": done, "total": total }));
        }
    }

    /// Prints a line. Errors are ignored: the job continues without a reader of its progress.
    pub(super) fn print(&self, line: &Value) {
        let line = format!("{line}\n");
        drop(match &self.to {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => io::stderr().lock().write_all(line.as_bytes()),
        });
    }
}
