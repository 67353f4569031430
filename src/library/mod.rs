//! The public interface for other programs, which the crate's root exports.
//!
//! It has its own types, so that the internal modules can change. No type of another crate is in it, and all types
//! that may get more fields or variants are `non_exhaustive`. A test compares it with `docs/public-interface.txt`.
//!
//! - [`open`](mod@open): the options for opening an image; [`image`]: an open image; [`extents`]: the extents of its
//!   disk;
//! - [`inspect`]: the contents of a header;
//! - [`streams`]: open images as streams of the standard library;
//! - [`create`]: new images; [`convert`](mod@convert): conversions; [`check`](mod@check): checks and repairs;
//! - [`snapshots`], [`bitmaps`]: internal snapshots and persistent bitmaps, and changes of them.

pub mod bitmaps;
pub mod check;
pub mod convert;
pub mod create;
pub mod extents;
pub mod image;
pub mod inspect;
pub mod open;
mod password;
pub mod snapshots;
pub mod streams;
