//! Internal errors: a panic prints one line, has its own exit status, and leaves no unfinished file.
//!
//! A panic unwinds as usual, which removes unfinished files and stops other workers. Only its message and the exit
//! status are replaced. One panic may cause others: that of a worker causes one in the thread that waits for it. So
//! only the first is reported.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Error, anyhow};

use super::complain_of;

/// The exit status: EX_SOFTWARE of BSD's sysexits.h, which nothing else here returns.
const INTERNAL_ERROR: u8 = 70;

/// Runs the program. Reports a panic in any of its threads as an internal error.
pub fn guard(run: impl FnOnce() -> ExitCode) -> ExitCode {
    let told = AtomicBool::new(false);
    panic::set_hook(Box::new(move |info| {
        if !told.swap(true, Ordering::Relaxed) {
            complain_of(&describe(info));
        }
    }));
    // No value is used again after the unwinding.
    let done = panic::catch_unwind(AssertUnwindSafe(run));
    done.unwrap_or(ExitCode::from(INTERNAL_ERROR))
}

fn describe(info: &PanicHookInfo<'_>) -> Error {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let literal = payload.downcast_ref::<&str>().copied();
    let message = text.or(literal).unwrap_or("no message");
    match info.location() {
        Some(place) => anyhow!("internal error: {message} at {place}"),
        None => anyhow!("internal error: {message}"),
    }
}
