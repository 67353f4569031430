//! The progress of long work, and its summary.
//!
//! With `-p`, progress is printed in [`lines`] on standard output, as in `qemu-img`. With `--progress=json` it is
//! printed in lines of [`mod@json`]. Otherwise a terminal shows a [`bar`], unless `-q` is given. SIGUSR1 asks for one
//! line on standard error if none are printed.

mod bar;
mod json;
mod lines;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGUSR1;

#[cfg(not(test))]
pub(super) use self::bar::beside;

use self::bar::Bar;
use self::json::JsonLines;
use self::lines::Lines;
use super::args::ProgressArgs;
use super::render::summary;
use super::{Failure, complain, descriptor, warn};
use crate::commands::convert::Converted;
use crate::convert::Observer;
use crate::error::{Error, printable};
use crate::units::GuestOffset;

/// The printer of a job's progress.
pub(super) struct Progress {
    form: Form,
    /// The time of the first report. The time before it may include asking for passwords.
    started: OnceLock<Instant>,
    /// The flag that SIGUSR1 sets, so that the progress is printed once.
    asked: Arc<AtomicBool>,
}

enum Form {
    Nothing,
    Lines(Lines),
    Json(JsonLines),
    Bar(Bar),
}

impl Progress {
    /// Returns a printer of the wanted format. With `quiet` it only prints after SIGUSR1.
    ///
    /// # Errors
    /// Returns an error if the format is unknown, or if its descriptor isn't writable.
    pub(super) fn new(args: &ProgressArgs, quiet: bool) -> Result<Self, Failure> {
        let form = match args.progress.as_deref() {
            Some("lines") if !quiet => Form::Lines(Lines::default()),
            Some(form) if form != "lines" => json(form)?,
            None if !quiet => Bar::start().map_or(Form::Nothing, Form::Bar),
            _ => Form::Nothing,
        };
        let asked = Arc::new(AtomicBool::new(false));
        // Without a handler the signal would end the program. An error in setting one is ignored.
        drop(signal_hook::flag::register(SIGUSR1, Arc::clone(&asked)));
        Ok(Self {
            form,
            started: OnceLock::new(),
            asked,
        })
    }

    /// Prints only when the percentage has increased by two.
    pub(super) fn in_larger_steps(mut self) -> Self {
        if let Form::Lines(lines) = &mut self.form {
            lines.step = 2.0;
        }
        self
    }

    /// Prints on standard error.
    pub(super) fn beside_output(mut self) -> Self {
        if let Form::Lines(lines) = &mut self.form {
            lines.on_stderr = true;
        }
        self
    }

    /// Prints 0 per cent.
    pub(super) fn begin(&self) {
        if let Form::Lines(lines) = &self.form {
            lines.progress(0, 1);
        }
    }

    /// Ends the line that was overwritten repeatedly.
    pub(super) fn end(&self) {
        match &self.form {
            Form::Lines(lines) => lines.end(),
            Form::Bar(_) => bar::remove(),
            Form::Nothing | Form::Json(_) => {}
        }
    }

    /// Returns the time since the first report.
    fn elapsed(&self) -> Duration {
        self.started.get_or_init(Instant::now).elapsed()
    }

    /// Prints the summary of a conversion, at a terminal or as JSON.
    pub(super) fn converted(self, converted: &Converted) {
        let elapsed = self.elapsed();
        match self.form {
            Form::Bar(bar) => {
                drop(bar);
                complain(&summary::human(converted, elapsed));
            }
            Form::Json(lines) => lines.print(&summary::json(converted, elapsed)),
            Form::Nothing | Form::Lines(_) => {}
        }
    }
}

/// Parses the format `json`, or `json:N` for the descriptor N.
fn json(form: &str) -> Result<Form, Failure> {
    let expected = || {
        let form = printable(form);
        Failure::Usage(format!(
            "--progress expects 'lines', 'json' or 'json:DESCRIPTOR' not '{form}'"
        ))
    };
    let rest = form.strip_prefix("json").ok_or_else(expected)?;
    if rest.is_empty() {
        return Ok(Form::Json(JsonLines::start(None)));
    }
    let number = rest.strip_prefix(':').and_then(|text| text.parse().ok());
    let number: i32 = number.ok_or_else(expected)?;
    let to = descriptor::take_to_write(number)
        .map_err(|error| Error::io(format!("Could not write to descriptor {number}"), error))?;
    Ok(Form::Json(JsonLines::start(Some(to))))
}

impl Observer for Progress {
    fn counts_data(&self) -> bool {
        matches!(self.form, Form::Lines(_))
    }

    fn progress(&self, done: u64, total: u64) {
        match &self.form {
            Form::Nothing => {}
            Form::Lines(lines) => return lines.progress(done, total),
            Form::Json(lines) => return lines.progress(self.elapsed(), done, total),
            Form::Bar(bar) => bar.progress(self.elapsed(), done, total),
        }
        if self.asked.swap(false, Ordering::Relaxed) {
            complain(&lines::line(lines::percent(done, total)));
        }
    }

    fn salvaged(&self, offset: GuestOffset, length: u64, error: &Error) {
        warn(&format!(
            "error while reading offset {}: {error}; {length} bytes are replaced by zeroes",
            offset.0
        ));
    }
}
