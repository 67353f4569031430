//! Internal errors: one line instead of a panic's many, a status of its own, and no unfinished file.
//!
//! A panic unwinds as it always does, which removes what is unfinished and ends other workers. Only its
//! message and, at the end, the exit status are others. One panic may make more: a worker's makes that of the
//! thread that waits for it. So only the first is reported.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{complain, program};

/// The exit status: BSD's for "internal software error", which no other outcome here has.
const INTERNAL_ERROR: u8 = 70;

/// Runs the program. A panic in it, in whatever thread, is reported as an internal error.
pub fn guard(run: impl FnOnce() -> ExitCode) -> ExitCode {
    let told = AtomicBool::new(false);
    panic::set_hook(Box::new(move |info| {
        if !told.swap(true, Ordering::Relaxed) {
            complain(&describe(info));
        }
    }));
    // No value that was unwound is used again.
    let done = panic::catch_unwind(AssertUnwindSafe(run));
    done.unwrap_or(ExitCode::from(INTERNAL_ERROR))
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let literal = payload.downcast_ref::<&str>().copied();
    let message = text.or(literal).unwrap_or("no message");
    match info.location() {
        Some(place) => format!("{}: internal error: {message} at {place}", program()),
        None => format!("{}: internal error: {message}", program()),
    }
}
