//! Standard output, which may be closed from the start (`>&-`).
//!
//! A report that nobody can get is a failure. When standard output is closed, Rust's start-up code opens
//! `/dev/null` in its place, so that no image gets its number. From then on it can't be told from one whose
//! caller wants no report. So it is looked at before. Real `qemu-img` loses its report and exits with 0.

use std::io::{self, StdoutLock, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use rustix::io::{Errno, fcntl_getfd};

use super::failure::Failure;

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

ctor::declarative::ctor! {
    /// Notes if standard output is closed. It runs before `main` and before the standard library's start, so
    /// it uses nothing of that library's.
    #[ctor(unsafe)]
    fn look() {
        let is_closed = fcntl_getfd(rustix::stdio::stdout()) == Err(Errno::BADF);
        WAS_CLOSED.store(is_closed, Ordering::Relaxed);
    }
}

/// Locks standard output, to print on.
///
/// # Errors
/// Returns `EBADF` if it was closed when the program began.
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

/// Does the same as [`fn@print`] for bytes that need not be UTF-8. The command keeps its own status if the
/// reader went away.
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
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn writing(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::OutputClosed;
    }
    Failure::Error(anyhow!(
        "writing to standard output: {}",
        crate::error::os_reason(&error)
    ))
}
