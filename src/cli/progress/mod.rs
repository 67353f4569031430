//! The progress of long work, and what came of it.
//!
//! With `-p` it is told in [`lines`] on standard output, as `qemu-img` does. With `--progress=json` it is told
//! in lines of [`mod@json`]. Else a person at a terminal sees a [`bar`], unless `-q` forbids it. SIGUSR1 asks for one
//! line on standard error where there are none.

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
    /// The time of the first report: before it, passwords were asked for.
    started: OnceLock<Instant>,
    /// The flag that SIGUSR1 sets: the progress is printed once.
    asked: Arc<AtomicBool>,
}

enum Form {
    Nothing,
    Lines(Lines),
    Json(JsonLines),
    Bar(Bar),
}

impl Progress {
    /// Returns a printer of the form that was asked for. With `quiet` it only prints when asked by SIGUSR1.
    ///
    /// # Errors
    /// Returns an error if there is no such form, or if the descriptor of one can't be written to.
    pub(super) fn new(args: &ProgressArgs, quiet: bool) -> Result<Self, Failure> {
        let form = match args.progress.as_deref() {
            Some("lines") if !quiet => Form::Lines(Lines::default()),
            Some(form) if form != "lines" => json(form)?,
            None if !quiet => Bar::start().map_or(Form::Nothing, Form::Bar),
            _ => Form::Nothing,
        };
        let asked = Arc::new(AtomicBool::new(false));
        // The signal would end the program without a handler. An error leaves it at that.
        drop(signal_hook::flag::register(SIGUSR1, Arc::clone(&asked)));
        Ok(Self {
            form,
            started: OnceLock::new(),
            asked,
        })
    }

    /// Makes it print whenever the percentage has grown by two.
    pub(super) fn in_larger_steps(mut self) -> Self {
        if let Form::Lines(lines) = &mut self.form {
            lines.step = 2.0;
        }
        self
    }

    /// Makes it print on standard error.
    pub(super) fn beside_output(mut self) -> Self {
        if let Form::Lines(lines) = &mut self.form {
            lines.on_stderr = true;
        }
        self
    }

    /// Prints zero per cent.
    pub(super) fn begin(&self) {
        if let Form::Lines(lines) = &self.form {
            lines.progress(0, 1);
        }
    }

    /// Ends the line that was printed over and over.
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

    /// Tells a person at the terminal, or a program, what came of a conversion.
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

/// Returns the form `json`, or `json:N` for the descriptor N.
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
            Form::Json(lines) => lines.progress(self.elapsed(), done, total),
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
