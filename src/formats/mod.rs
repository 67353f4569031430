//! Image formats: the disk image as all other modules see it.
//!
//! An [`Image`] is a disk that can be read; a [`NewImage`] is one that is written front to back. Both work on `&self`
//! from many threads. Formats are independent of each other: each depends on [`crate::storage`] and [`crate::crypto`]
//! and on no other format. Their common parts, such as probing and opening, are here.

pub mod bitmap_changes;
pub mod bitmaps;
pub mod block_map;
pub mod bochs;
pub mod check;
pub mod cloop;
pub mod codec;
pub mod dmg;
pub mod driver;
pub mod encryption;
pub mod explanation;
pub mod info;
pub mod luks;
pub mod parallels;
pub mod plausible;
pub mod qcow;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod snapshots;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

mod amend;
mod as_storage;
mod chain;
mod compress_units;
mod concat;
mod dirty_ranges;
mod disk_part;
mod extent;
mod fields;
mod file_use;
pub mod foreign;
mod guard;
mod image;
mod in_place;
mod list;
mod merged_bits;
mod new_image;
mod opaque;
mod overwrite;
mod parent_name;
mod refusals;
mod reservation;
mod resize;
mod resize_file;
mod status;
mod zero;
mod zeroes;

pub use amend::Amend;
pub use as_storage::ImageStorage;
pub use chain::{Chain, TopOnly};
pub use concat::Concatenation;
pub use disk_part::DiskPart;
pub use driver::{FormatDriver, ImageFile};
pub use extent::{Extent, ExtentKind, Plain, PlainPlace};
pub use file_use::FileUse;
pub use guard::GuardedStart;
pub use image::{Image, SharedSpace, WritableImage};
use image::{beyond_end, check_range};
pub use list::{FORMATS, Format, named, open, probe};
pub use merged_bits::{BitsSource, MergedBits};
pub use new_image::{Backed, NewImage, Preallocation, Run, smaller_than_input};
pub use opaque::OpaqueImage;
pub use overwrite::{OverwriteOptions, OverwrittenImage};
pub use refusals::{no_creation, no_measure};
pub use reservation::{ChunkPart, CompressedChunk, Reservation};
pub use resize::Resize;
pub use status::Status;
pub use zero::ZeroImage;
