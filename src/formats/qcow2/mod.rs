//! qcow2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! An image is a file divided into clusters. The header refers to three tables. L1 entries point to L2 tables, whose
//! entries point to the clusters with the guest's data. The entries of the refcount table point to refcount blocks,
//! which count the references to each cluster. The third table lists the snapshots. All numbers are big-endian. The
//! rules are those of QEMU's specification `docs/interop/qcow2`, which the comments here call "the specification".
//!
//! The files, in the order in which to read them:
//!
//! - [`geometry`]: the conversion between offsets and indices;
//! - [`entries`]: the encoding of table entries;
//! - [`header`]: the parsing of untrusted bytes into a checked [`Header`];
//! - [`snapshots`], [`bitmaps`]: the optional structures of an image;
//! - [`read`]: reading the guest's data from an image;
//! - [`create_options`]: the options of a new image, which `create_check` checks;
//! - [`new`]: the layout and writing of a new image, which may be preallocated or compressed;
//! - [`write`](mod@write): writing to an existing image;
//! - [`mod@check`]: the consistency check, and repairs.
//!
//! In encrypted images each sector of 512 bytes is encrypted by itself, with a cipher from
//! [`crate::formats::encryption`]. The cipher gets the sector's guest offset and host offset, and uses the one that
//! the encryption format requires.

mod amend;
pub mod bitmaps;
pub mod check;
mod create_check;
pub mod create_options;
mod driver;
#[cfg(test)]
mod encryption_tests;
pub mod entries;
mod explain;
mod file;
pub mod geometry;
pub mod header;
mod info;
mod measure;
pub mod new;
mod options;
mod parts;
mod plan;
pub mod read;
pub mod snapshots;
pub mod write;

pub use check::{CheckReport, Repair, check, repair, repair_dirty, repaired_header};
pub use create_options::{Backing, NewQcow2Options};
pub use driver::Qcow2;
pub use geometry::Geometry;
pub use header::{CompressionType, Header, Version, extensions, features, until_zero};
pub use new::{NewFiles, NewQcow2};
pub use read::{Qcow2Image, ReadOptions};
pub use write::WritableQcow2;

use std::sync::Arc;

use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::formats::encryption::luks::{self, LuksHeader};
pub use crate::formats::encryption::missing_secret;
use crate::formats::encryption::{Cipher, EncryptedHeader, EncryptionFormat, LegacyAes, Numbering};
use crate::storage::{Storage, Window, WindowRange};

/// Returns the cipher of an image's data, or `None` if it isn't encrypted. `header` is the image's header.
///
/// # Errors
/// Returns an error as [`LuksHeader::read`] does. Returns an error if the image is encrypted and the password is
/// missing or known to be wrong.
pub fn reading_cipher(
    storage: &Arc<dyn Storage>,
    header: &Header,
    secret: Option<&Secret>,
) -> Result<Option<Cipher>> {
    cipher_of(header, luks_header(storage, header)?.as_ref(), secret)
}

/// Returns the cipher of an image's data, with the LUKS header if the image has one.
///
/// # Errors
/// Returns an error if the image is encrypted and the password is missing or known to be wrong.
fn cipher_of(
    header: &Header,
    luks: Option<&LuksHeader>,
    secret: Option<&Secret>,
) -> Result<Option<Cipher>> {
    let encrypted: &dyn EncryptedHeader = match (header.encryption(), luks) {
        (None, _) => return Ok(None),
        (Some(EncryptionFormat::Aes), _) => &LegacyAes,
        (Some(EncryptionFormat::Luks), Some(luks)) => luks,
        (Some(EncryptionFormat::Luks), None) => {
            return Err(Error::corrupt("Missing CRYPTO header for crypt method 2"));
        }
    };
    encrypted
        .unlock(secret.ok_or_else(missing_secret)?)
        .map(Some)
}

/// Reads the LUKS header inside an image, if there is one. Never reads outside its range of the file.
///
/// # Errors
/// Returns the system's error. Returns an error, in QEMU's words, if the LUKS header is invalid.
fn luks_header(storage: &Arc<dyn Storage>, header: &Header) -> Result<Option<LuksHeader>> {
    let Some(place) = header.luks() else {
        return Ok(None);
    };
    if place.length < luks::FIELDS_LENGTH as u64 {
        return Err(Error::corrupt(
            "Request for data outside of extension header",
        ));
    }
    let length = storage.len()?;
    let range = WindowRange {
        offset: place.host.0.min(length),
        size: Some(place.length.min(length.saturating_sub(place.host.0))),
    };
    let area = Arc::new(Window::open(Arc::clone(storage), range)?);
    LuksHeader::read(area, Numbering::Host).map(Some)
}
