//! The subcommands: from typed options to what was done or found.
//!
//! One file each. Nothing here prints or reads the command line: the options come typed, the result is a
//! report that [`crate::cli`] renders, and passwords come from whoever implements [`Passwords`]. Only names
//! of images are still text, since images name others ([`image_name`]).

pub mod backing;
mod bitmaps;
mod block_node;
pub mod check;
pub mod checksum;
pub mod compare;
pub mod convert;
pub mod create;
pub mod file_name;
pub mod image_name;
pub mod info;
pub mod map;
pub mod measure;
mod names;
mod node_options;
pub mod opened;
pub mod plausible;
mod protocol;
mod sandbox;
pub mod source;
pub mod speed;
mod target;

pub use crate::storage::{Purpose, Sharing};
pub use names::{Names, Warn};
pub use node_options::NodeOptions;
pub use protocol::Driver;
pub use source::{Below, RawNode, Source};
pub use target::{Existing, Target};

pub use crate::crypto::Passwords;
