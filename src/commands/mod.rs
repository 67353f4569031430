//! The subcommands: from typed options to what was done or found.
//!
//! One file each. Nothing here prints, reads the command line or parses text: the options come
//! typed, the result is a report that [`crate::cli`] renders, and passwords come from whoever
//! implements [`Passwords`].

pub mod backing;
mod bitmaps;
pub mod check;
pub mod checksum;
pub mod compare;
pub mod convert;
pub mod create;
pub mod info;
pub mod map;
pub mod measure;
pub mod names;
pub mod opened;
pub mod plausible;
mod protocol;
mod purpose;
mod sandbox;
pub mod source;
pub mod speed;
pub mod stated;
mod target;

pub use names::{Names, ReadTree};
pub use protocol::{Driver, Protocol};
pub use purpose::{Purpose, Sharing};
pub use source::{Below, RawNode, Source};
pub use stated::Stated;
pub use target::{Existing, Target};

use crate::crypto::Secret;
use crate::error::Result;

/// Where passwords come from that no option named: a file, a descriptor, or a person.
pub trait Passwords {
    /// The password of an encrypted image that is to be read.
    ///
    /// # Errors
    /// There is none to be had; the error says how one is given.
    fn for_reading(&self, image: &str) -> Result<&Secret>;

    /// The password of an encrypted image that is to be made.
    ///
    /// # Errors
    /// There is none to be had; the error says how one is given.
    fn for_writing(&self, image: &str) -> Result<&Secret>;

    /// Told whenever legacy AES is used, wherever the password came from: a person should know what
    /// it can't do.
    fn legacy_aes_is_used(&self);

    /// Told when an image of legacy AES decrypts to noise, so that its password is probably wrong; `newline` says
    /// that with [`with_newline`](Self::with_newline) it doesn't.
    ///
    /// # Errors
    /// End the command.
    fn implausible(&self, image: &str, newline: bool) -> Result<()>;

    /// The password with the newline that ended its file and was left out of it; `None` without one. Another
    /// program may have encrypted an image with all of the file.
    fn with_newline(&self) -> Option<Secret> {
        None
    }
}
