//! The interface for other programs: what stands at the crate's root.
//!
//! It has types of its own, so that the rooms below can change. No type of another crate is in it, and all that may
//! grow is `non_exhaustive`. The list in `docs/public-interface.txt` is made of these files, and a test compares it.
//!
//! - [`open`](mod@open): how an image is opened; [`image`]: an image that is open; [`extents`]: how its disk is stored;
//! - [`create`]: new images; [`convert`](mod@convert): conversions; [`check`](mod@check): checks and repairs;
//! - [`snapshots`], [`bitmaps`]: internal snapshots and persistent bitmaps, and changes of them.

pub mod bitmaps;
pub mod check;
pub mod convert;
pub mod create;
pub mod extents;
pub mod image;
pub mod open;
mod password;
pub mod snapshots;
