//! The subcommands: each takes typed options and returns a result or a report.
//!
//! Each has a file. None prints or parses the command line: [`crate::cli`] parses the options and renders the report.
//! Passwords come from the caller's [`Passwords`], and images are given as nodes ([`crate::nodes`]). No format is
//! named.

pub mod amend;
pub mod backing;
pub mod bench;
pub mod bitmap;
mod bitmaps;
pub mod check;
pub mod checksum;
pub mod commit;
pub mod compare;
pub mod convert;
pub mod create;
pub mod dd;
pub mod forecast;
pub mod info;
pub mod map;
pub mod measure;
pub mod plausible;
mod protocol;
pub mod rebase;
pub mod resize;
mod sandbox;
pub mod snapshot;
pub mod speed;
mod target;

pub use crate::storage::{Purpose, Sharing};
pub use protocol::Driver;
pub use target::{Existing, Target};

pub use crate::crypto::Passwords;
