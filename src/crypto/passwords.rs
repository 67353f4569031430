//! The interface to passwords that no option names.
//!
//! The modules that open images know neither password files nor terminals, and ask for a password only when they need
//! it. The command line implements this trait.

use super::Secret;
use crate::error::Result;

/// A source of passwords that no option names: a file, a descriptor, or a user.
pub trait Passwords {
    /// Returns the password of an encrypted image that is read. An error names the `option` that would give it.
    ///
    /// # Errors
    /// Returns an error that names the ways to give a password if there is none.
    fn for_reading(&self, image: &str, option: &str) -> Result<&Secret>;

    /// Returns the password for a new encrypted image. An error names the `option` that would give it.
    ///
    /// # Errors
    /// Returns an error that names the ways to give a password if there is none.
    fn for_writing(&self, image: &str, option: &str) -> Result<&Secret>;

    /// Reports every use of legacy AES, with any password. A user should know of its weakness, and for a new image
    /// (`is_new`) of the better encryption.
    fn legacy_aes_is_used(&self, is_new: bool);

    /// Reports an image of legacy AES that decrypts to noise, so that its password is probably wrong. `newline` is
    /// true if it doesn't decrypt to noise with [`with_newline`](Self::with_newline).
    ///
    /// # Errors
    /// Returns an error if the command should end.
    fn implausible(&self, image: &str, newline: bool) -> Result<()>;

    /// Returns the password with the newline that ended its file, or `None` if there was none. Another program may
    /// have used the whole file as the password.
    fn with_newline(&self) -> Option<Secret> {
        None
    }
}
