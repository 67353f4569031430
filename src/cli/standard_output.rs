//! Standard output, and that it can be closed from the start (`>&-`).
//!
//! A report that nobody can get is a failure. When standard output is closed, Rust's start-up code opens
//! `/dev/null` in its place, so that no image gets its number; from then on it looks like one whose caller wants no
//! report. So it is looked at before. Real `qemu-img` loses its report and exits with 0.

use std::io::{self, StdoutLock};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, fcntl_getfd};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

ctor::declarative::ctor! {
    /// Runs before `main` and before the standard library's start; so it uses nothing of that library's.
    #[ctor(unsafe)]
    fn look() {
        let is_closed = fcntl_getfd(rustix::stdio::stdout()) == Err(Errno::BADF);
        WAS_CLOSED.store(is_closed, Ordering::Relaxed);
    }
}

/// Standard output, to print on.
///
/// # Errors
/// Returns `EBADF` if it was closed when the program began.
pub(super) fn stdout() -> io::Result<StdoutLock<'static>> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Errno::BADF.into());
    }
    Ok(io::stdout().lock())
}
