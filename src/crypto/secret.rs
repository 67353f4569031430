//! Passwords: bytes that are wiped when they are dropped, and never copied, shown or compared.
//!
//! From the first one on the process leaves no core dump and can't be looked into by others of the
//! same user: a crash must not write a key to a disk, where it may stay for years.

use std::sync::Once;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::Zeroizing;

use super::memory::{keep_out_of_swap, wipe_stack};
use super::{AesCbc, Backend};
use crate::error::{Error, Result};

/// A password or passphrase.
///
/// There is no `Debug` and no `Clone`, so that it ends up in no message and in one place only.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes of a password. The first call makes the process one that isn't dumped.
    pub fn new(bytes: Vec<u8>) -> Self {
        static NEVER_DUMPED: Once = Once::new();
        // What can't be had isn't missed: the password is needed all the same.
        NEVER_DUMPED.call_once(|| {
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        });
        keep_out_of_swap(bytes.as_slice());
        Self(Zeroizing::new(bytes))
    }

    /// Tells if it can be a password in QEMU: that takes UTF-8, in which a zero is the end.
    pub fn is_text(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok() && !self.0.contains(&0)
    }

    /// The bytes of the password.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The legacy AES cipher for a password: the key is its first 16 bytes, filled up with zeroes.
/// There is no key derivation, and nothing that could tell a wrong password.
///
/// # Errors
/// `COWHIDE_CIPHER` names a backend that doesn't exist or that this machine doesn't have.
pub fn legacy_aes(secret: &Secret) -> Result<AesCbc> {
    let backend = chosen_backend()?;
    let cipher = expanded(secret, backend);
    wipe_stack();
    Ok(cipher)
}

/// Makes the cipher in a stack frame of its own, see [`memory`](super::memory).
#[inline(never)]
fn expanded(secret: &Secret, backend: Backend) -> AesCbc {
    let mut key = Zeroizing::new([0; 16]);
    for (to, from) in key.iter_mut().zip(secret.bytes()) {
        *to = *from;
    }
    AesCbc::new(&key, backend)
}

/// The environment variable that forces a cipher backend.
pub const BACKEND_VARIABLE: &str = "COWHIDE_CIPHER";

/// The backend to use: the best that this machine has, unless [`BACKEND_VARIABLE`] names another.
///
/// # Errors
/// As [`legacy_aes`].
pub fn chosen_backend() -> Result<Backend> {
    match std::env::var(BACKEND_VARIABLE) {
        Err(std::env::VarError::NotPresent) => Ok(Backend::detect()),
        Ok(name) => Backend::from_name(&name)
            .map_err(|error| Error::invalid(format!("{BACKEND_VARIABLE}: {error}"))),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::invalid(format!("{BACKEND_VARIABLE}: not UTF-8")))
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn who_holds_a_secret_is_not_dumped() {
        drop(Secret::new(b"pw".to_vec()));
        let behavior = dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }
}
