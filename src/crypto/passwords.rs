//! Passwords that no option named, as those who need one ask for it.
//!
//! Images are opened in rooms that know neither files with passwords nor terminals, and that ask for a
//! password only when they can't do without. The command line implements this trait.

use super::Secret;
use crate::error::Result;

/// The source of passwords that no option named: a file, a descriptor, or a person.
pub trait Passwords {
    /// Returns the password of an encrypted image that is to be read. An error names the `option` that would give it.
    ///
    /// # Errors
    /// Returns an error that says how one is given if there is none to be had.
    fn for_reading(&self, image: &str, option: &str) -> Result<&Secret>;

    /// Returns the password of an encrypted image that is to be made. An error names the `option` that would give it.
    ///
    /// # Errors
    /// Returns an error that says how one is given if there is none to be had.
    fn for_writing(&self, image: &str, option: &str) -> Result<&Secret>;

    /// Hears of every use of legacy AES, wherever the password came from. A person should know what it can't
    /// do, and of a new image (`is_new`) that there is a better way.
    fn legacy_aes_is_used(&self, is_new: bool);

    /// Hears of an image of legacy AES that decrypts to noise, so that its password is probably wrong.
    /// `newline` says that it doesn't with [`with_newline`](Self::with_newline).
    ///
    /// # Errors
    /// Returns an error if the command is to end.
    fn implausible(&self, image: &str, newline: bool) -> Result<()>;

    /// Returns the password with the newline that ended its file and was left out of it; `None` without one.
    /// Another program may have encrypted an image with all of the file.
    fn with_newline(&self) -> Option<Secret> {
        None
    }
}
