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

pub use crate::crypto::Passwords;
