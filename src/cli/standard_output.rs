//! Standard output, which may be closed from the start (`>&-`).
//!
//! A report that can't be printed is a failure. If standard output is closed, Rust's start-up code opens `/dev/null`
//! in its place, so that no image gets its number. After that it looks like a caller's redirection to `/dev/null`. So
//! it is tested before. `qemu-img` loses its report and exits with 0.

use std::io::{self, StdoutLock, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use rustix::io::{Errno, fcntl_getfd};

use super::failure::Failure;

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

ctor::declarative::ctor! {
    /// Records if standard output is closed. It runs before `main` and before the start-up code of the standard
    /// library, so it must not use that library.
    #[ctor(unsafe)]
    fn look() {
        let is_closed = fcntl_getfd(rustix::stdio::stdout()) == Err(Errno::BADF);
        WAS_CLOSED.store(is_closed, Ordering::Relaxed);
    }
}

/// Locks standard output for printing.
///
/// # Errors
/// Returns `EBADF` if it was closed when the program started.
pub(super) fn stdout() -> io::Result<StdoutLock<'static>> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Errno::BADF.into());
    }
    Ok(io::stdout().lock())
}

/// Prints text on standard output at once.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Does the same as [`fn@print`] for bytes that needn't be UTF-8. A reader that has closed the pipe isn't an error,
/// so the command keeps its own status.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    let printed = stdout().and_then(|mut out| out.write_all(bytes).and_then(|()| out.flush()));
    match printed.map_err(writing) {
        Err(Failure::OutputClosed) => Ok(()),
        printed => printed,
    }
}

/// Turns an error of writing to standard output into a failure.
pub(super) fn writing(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::OutputClosed;
    }
    Error::io("writing to standard output", error).into()
}
