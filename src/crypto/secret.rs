//! Passwords: bytes that are wiped when they are dropped, and never copied, shown or compared.
//!
//! After the first password the program leaves no core dump, and other processes of the same user can't read its
//! memory. A crash must not write a key to a disk, where it may stay for years. That is a property of the whole process,
//! so a process that uses the library decides on it itself: only the program calls [`forbid_core_dumps`].

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::Zeroizing;

use super::memory::keep_out_of_swap;

/// True if the first password disables core dumps of the process.
static FORBIDS_DUMPS: AtomicBool = AtomicBool::new(false);

/// Makes the first password disable core dumps of the process.
pub fn forbid_core_dumps() {
    FORBIDS_DUMPS.store(true, Ordering::Relaxed);
}

/// A password or passphrase.
///
/// There is no `Debug` and no `Clone`, so that it gets into no message and isn't copied.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps the bytes of a password.
    pub fn new(bytes: Vec<u8>) -> Self {
        static NEVER_DUMPED: Once = Once::new();
        if FORBIDS_DUMPS.load(Ordering::Relaxed) {
            // A failure is ignored, since the password is needed nevertheless.
            NEVER_DUMPED.call_once(|| {
                let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            });
        }
        keep_out_of_swap(bytes.as_slice());
        Self(Zeroizing::new(bytes))
    }

    /// Returns true if it can be a password in QEMU, which takes UTF-8 without a zero byte.
    pub fn is_text(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok() && !self.0.contains(&0)
    }

    /// Returns the bytes of the password.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn who_holds_a_secret_is_not_dumped() {
        forbid_core_dumps();
        drop(Secret::new(b"pw".to_vec()));
        let behavior = dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }
}
