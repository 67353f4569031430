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
//! - [`codec`]: one compressed cluster, read and made;
//! - [`read`]: the guest's data, out of an image open for reading;
//! - [`create_options`]: the options of a new image, which `create_check` checks;
//! - [`new`]: a new image, laid out front to back as its data comes, preallocated, or compressed;
//! - [`write`](mod@write): an image in use, written anywhere;
//! - [`mod@check`]: the check of refcounts against references, and repairs.
//!
//! Encrypted images: each 512-byte sector is encrypted by itself, by a cipher that
//! [`crate::formats::encryption`] makes. The cipher gets a sector's place on the disk and its place in the
//! file. It uses the one that its encryption format asks for.

pub mod bitmaps;
pub mod check;
pub mod codec;
mod create_check;
pub mod create_options;
mod driver;
#[cfg(test)]
mod encryption_tests;
pub mod entries;
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

pub use check::{CheckReport, Repair, check, repair, repair_dirty};
pub use create_options::{Backing, CreateOptions};
pub use driver::Qcow2;
pub use geometry::Geometry;
pub use header::{CompressionType, Header, Version, extensions, features, until_zero};
pub use new::{NewFiles, NewQcow2};
pub use read::{Qcow2Image, ReadOptions};
pub use write::WritableQcow2;

use crate::crypto::Secret;
use crate::error::{Error, Result};
pub use crate::formats::encryption::missing_secret;
use crate::formats::encryption::{Cipher, EncryptedHeader as _, EncryptionFormat, LegacyAes};

/// Makes the cipher for reading an image's data: none when it isn't encrypted.
///
/// # Errors
/// Returns an error if the image is encrypted and no password was given, or if this version doesn't have its
/// encryption method.
pub fn reading_cipher(header: &Header, secret: Option<&Secret>) -> Result<Option<Cipher>> {
    match header.encryption() {
        None => Ok(None),
        Some(EncryptionFormat::Aes) => match secret {
            Some(secret) => LegacyAes.unlock(secret).map(Some),
            None => Err(missing_secret()),
        },
        Some(EncryptionFormat::Luks) => Err(Error::unsupported(
            "the image is encrypted with 'luks', which this version doesn't support",
        )),
    }
}
