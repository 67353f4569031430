//! A progress bar on the terminal during long work, in one line of standard error.
//!
//! It needs no option, since users at a terminal want to know how long the work takes. It appears after half a
//! second, and is removed when the work is done. Messages are printed above it with [`beside`]. A signal that ends
//! the program removes it too.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The time after which the bar is shown.
const LONG: Duration = Duration::from_millis(500);

/// The most times that the bar is drawn per second.
const DRAWN_PER_SECOND: u8 = 10;

/// The template of the line. The bar takes the rest of the terminal's width.
const LINE: &str =
    "{percent:>3}% [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

/// The template on a terminal that is narrower than [`WIDE`].
const SHORT_LINE: &str = "{percent:>3}% [{wide_bar}] {eta} left";

/// The least width of a terminal for all parts, in characters.
const WIDE: u16 = 76;

/// The bar that is shown on the terminal.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The progress of a job, shown as a bar.
pub(super) struct Bar {
    bar: OnceLock<ProgressBar>,
}

impl Bar {
    /// Starts a job. Returns `None` if standard error isn't a terminal, or one that can't move the cursor.
    pub(super) fn start() -> Option<Self> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        (io::stderr().is_terminal() && !is_dumb).then(|| Self {
            bar: OnceLock::new(),
        })
    }

    /// Shows the progress. `elapsed` is the time since the first report. Workers may report out of order, but the bar
    /// only grows.
    pub(super) fn progress(&self, elapsed: Duration, done: u64, total: u64) {
        if self.bar.get().is_none() && elapsed < LONG {
            return;
        }
        let bar = self.bar.get_or_init(|| show(total, elapsed));
        if bar.length() != Some(total) {
            bar.set_length(total);
        }
        if done > bar.position() {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        remove();
    }
}

/// Shows a bar on the terminal.
fn show(total: u64, elapsed: Duration) -> ProgressBar {
    // A signal must not leave a partial line on the terminal.
    static ONCE: Once = Once::new();
    ONCE.call_once(|| crate::storage::before_interrupt(remove));
    let target = ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND);
    let bar = ProgressBar::with_draw_target(Some(total), target).with_elapsed(elapsed);
    if let Ok(style) = ProgressStyle::with_template(line()) {
        bar.set_style(style.progress_chars("=> "));
    }
    *shown() = Some(bar.clone());
    bar
}

/// Returns the template that fits the terminal. A terminal of unknown width counts as wide.
fn line() -> &'static str {
    let width = rustix::termios::tcgetwinsize(io::stderr());
    match width.map(|size| size.ws_col) {
        Ok(width) if (1..WIDE).contains(&width) => SHORT_LINE,
        _ => LINE,
    }
}

/// Removes the bar from the terminal, if there is one.
pub(super) fn remove() {
    if let Some(bar) = shown().take() {
        bar.finish_and_clear();
    }
}

/// Prints something else on standard error, above the bar if there is one.
#[cfg_attr(test, expect(dead_code, reason = "tests print in another way"))]
pub(in crate::cli) fn beside(print: impl FnOnce()) {
    match &*shown() {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

fn shown() -> MutexGuard<'static, Option<ProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
