//! qcow2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! An image is a file cut into clusters. A header names three tables. The L1 table's entries lead to L2
//! tables, whose entries lead to the clusters that hold the guest's data. The refcount table's entries lead
//! to refcount blocks that count the uses of each cluster. The third is the snapshot table. All numbers are
//! big-endian. The rules are those of QEMU's specification `docs/interop/qcow2`, which the comments here call
//! "the specification".
//!
//! From bytes to data, in the order in which to read the files:
//!
//! - [`geometry`]: the only place that turns offsets into indices and back;
//! - [`entries`]: the only place that knows the bits of table entries;
//! - [`header`]: untrusted bytes into a checked [`Header`];
//! - [`snapshots`], [`bitmaps`]: the other structures that an image may hold;
//! - [`read`]: the guest's data, out of an image open for reading;
//! - [`create_options`]: the options of a new image, which `create_check` checks;
//! - [`new`]: a new image, laid out front to back as its data comes, preallocated, or compressed;
//! - [`write`](mod@write): an image in use, written anywhere;
//! - [`mod@check`]: the check of refcounts against references, and repairs.
//!
//! Encrypted images: each 512-byte sector is encrypted by itself, by a cipher that
//! [`crate::formats::encryption`] makes. The cipher gets a sector's place on the disk and its place in the
//! file. It uses the one that its encryption format asks for.

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

/// Makes the cipher of an image's data, of which only the header is read: none when it isn't encrypted.
///
/// # Errors
/// Returns an error as [`LuksHeader::read`] does, if the image is encrypted and there is no password, or if that is
/// known to be wrong.
pub fn reading_cipher(
    storage: &Arc<dyn Storage>,
    header: &Header,
    secret: Option<&Secret>,
) -> Result<Option<Cipher>> {
    cipher_of(header, luks_header(storage, header)?.as_ref(), secret)
}

/// Makes the cipher of an image's data, whose LUKS header is read where it has one.
///
/// # Errors
/// Returns an error if the image is encrypted and there is no password, or if that is known to be wrong.
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

/// Reads the LUKS header inside of an image, where there is one. What lies outside of its part of the file is
/// never read.
///
/// # Errors
/// Returns the system's error, or an error in QEMU's words if anything is wrong with it.
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
