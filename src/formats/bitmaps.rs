//! The interface of persistent bitmaps, which record the parts of a disk that changed since a backup.

use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;

/// The persistent bitmaps of an image.
pub trait Bitmaps {
    /// Reads the list. The bits are read later, with [`BitmapBits::read`].
    ///
    /// # Errors
    /// Returns an error if the list can't be read or is invalid.
    fn list(&self) -> Result<Vec<PersistentBitmap>>;

    /// Reads the list of the bitmaps whose bits can be merged into those of other images.
    ///
    /// # Errors
    /// Returns an error as [`list`](Self::list) does.
    fn to_merge(&self) -> Result<Vec<PersistentBitmap>> {
        self.list()
    }

    /// Adds copies of another image's bitmaps to the image, which must not be open elsewhere. With `flush`, the
    /// changes are flushed to stable storage.
    ///
    /// # Errors
    /// Returns an error if a name is taken or if there is no space; nothing is written then. Returns an error if the
    /// metadata of either image is damaged, or the system's error.
    fn add(&self, copied: &[PersistentBitmap], flush: bool) -> Result<()>;

    /// Returns the granularity of a new bitmap for which the user gives none, in bytes.
    fn default_granularity(&self) -> u64;

    /// Checks that a new bitmap with this name and granularity could be stored beside the existing ones. The
    /// granularity is a power of two from 512 bytes to 2 GiB.
    ///
    /// # Errors
    /// Returns the reason if the bitmap can't be stored, or an error if the list can't be read.
    fn check_new(&self, name: &[u8], granularity: u64) -> Result<()>;

    /// Stores the outcome of changes of the bitmap called `name`. The image must be
    /// [prepared](super::ImageFile::prepare_to_change), and must not be open elsewhere. With `flush`, the changes are
    /// flushed to stable storage.
    ///
    /// # Errors
    /// Returns an error if there is no space; nothing has changed then. Returns an error if the metadata is damaged,
    /// or the system's error.
    fn replace(&self, name: &[u8], with: Replacement, flush: bool) -> Result<()>;
}

/// The outcome of changes of the bitmap with one name.
pub enum Replacement {
    /// The bitmap is removed.
    Nothing,
    /// The bitmap has other flags and the same bits.
    Flags(PersistentBitmap),
    /// The bitmap has other bits and keeps its position in the list.
    Bits(PersistentBitmap),
    /// The bitmap is new. It goes to the end of the list, and any other of its name is removed.
    New(PersistentBitmap),
}

/// The bits of a bitmap: eight in a byte, the first one in the least significant bit.
pub trait BitmapBits: Send + Sync {
    /// Reads bytes of bits from byte `offset` on, and returns `false` if none is set. Bits beyond the bitmap's end
    /// read as 0.
    ///
    /// # Errors
    /// Returns an error if the bits, or the tables that lead to them, can't be read.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;
}

/// Reads bytes of bits that are stored in clusters. Calls `read` for each cluster in the range, with its index, the
/// first byte in it, and the part of `buf` for it.
///
/// # Errors
/// Returns the error of `read`.
pub(super) fn by_clusters(
    cluster_size: u64,
    offset: u64,
    buf: &mut [u8],
    mut read: impl FnMut(u64, u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let (mut offset, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let within = offset % cluster_size;
        let length = usize::try_from(cluster_size - within).unwrap_or(usize::MAX);
        let (part, after) = rest.split_at_mut(length.min(rest.len()));
        read(offset / cluster_size, within, part)?;
        offset += part.len() as u64;
        rest = after;
    }
    Ok(())
}

/// A persistent bitmap.
#[derive(Clone)]
pub struct PersistentBitmap {
    /// Its name.
    pub name: Vec<u8>,
    /// The number of bytes of the disk that one bit covers: a power of two from 512 bytes to 2 GiB.
    pub granularity: u64,
    /// True if a program opened the bitmap for updates and didn't store it afterwards, so that the bits are out of
    /// date.
    pub in_use: bool,
    /// True if QEMU updates the bitmap from the time it opens the image.
    pub auto: bool,
    /// Its bits.
    pub bits: Arc<dyn BitmapBits>,
}

impl PersistentBitmap {
    /// Returns the bitmap in the form that reports have.
    pub fn info(&self) -> BitmapInfo {
        let flags = [(self.in_use, "in-use"), (self.auto, "auto")];
        BitmapInfo {
            flags: flags
                .into_iter()
                .filter_map(|(set, flag)| set.then_some(flag))
                .collect(),
            name: String::from_utf8_lossy(&self.name).into_owned(),
            granularity: self.granularity,
        }
    }
}

/// A persistent bitmap in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BitmapInfo {
    /// The names of its flags: `in-use`, `auto`.
    pub flags: Vec<&'static str>,
    /// Its name.
    pub name: String,
    /// The number of bytes of the disk that one bit covers.
    pub granularity: u64,
}
