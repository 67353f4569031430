//! Image formats: what a disk image is to the rest of the house.
//!
//! An [`Image`] is a disk that can be read; a [`NewImage`] is one being written front to back. Both
//! work on `&self` from many threads. Formats are siblings: each knows [`crate::storage`] and
//! [`crate::crypto`] and nothing of the others; what is common (probing, opening by format) is here.

pub mod plausible;
pub mod qcow2;
pub mod raw;

mod chain;
mod concat;
mod extent;
mod guard;
mod image;
mod new_image;
mod probe;
mod reservation;
mod status;
mod zero;

use std::fmt;
use std::sync::Arc;

pub use chain::{Chain, TopOnly};
pub use concat::Concatenation;
pub use extent::{Extent, ExtentKind, Plain, PlainPlace};
pub use guard::GuardedStart;
pub use image::{Image, WritableImage};
use image::{beyond_end, check_range};
pub use new_image::{Backed, NewImage, Preallocation, Run, smaller_than_input};
pub use probe::probe;
pub use reservation::{Packed, PackedPart, Reservation};
pub use status::Status;
pub use zero::ZeroImage;

use crate::crypto::Secret;
use crate::error::Result;
use crate::storage::Storage;

/// The formats that this version reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk, one after the other.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// All formats, in the order in which help lists them.
    pub const ALL: [Self; 2] = [Self::Qcow2, Self::Raw];

    /// The name by which users and `qemu-img` know the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Opens an image for reading, without its backing file. `secret` is the password, for images that
/// are encrypted.
///
/// # Errors
/// Whatever keeps the image from being read correctly: not of that format, damaged, encrypted
/// without a password, or using something that this version doesn't have.
pub fn open(
    storage: Arc<dyn Storage>,
    format: Format,
    secret: Option<&Secret>,
) -> Result<Arc<dyn Image>> {
    match format {
        Format::Raw => Ok(Arc::new(raw::RawImage::open(storage)?)),
        Format::Qcow2 => {
            let header = qcow2::Header::read(storage.as_ref())?;
            let image = qcow2::Qcow2Image::open_with(storage, None, header, secret)?;
            Ok(Arc::new(image))
        }
    }
}
