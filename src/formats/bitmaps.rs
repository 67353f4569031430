//! Persistent bitmaps, whatever the format: the parts of a disk that changed since somebody last looked.

use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;

/// The persistent bitmaps of an image.
pub trait Bitmaps {
    /// Reads the list. Bits are read when they are asked for.
    ///
    /// # Errors
    /// Returns an error if the list can't be read or makes no sense.
    fn list(&self) -> Result<Vec<PersistentBitmap>>;

    /// Reads the list of bitmaps whose bits can be merged into those of other images.
    ///
    /// # Errors
    /// Returns an error as [`list`](Self::list) does.
    fn to_merge(&self) -> Result<Vec<PersistentBitmap>> {
        self.list()
    }

    /// Adds copies of another image's bitmaps to the image, which nobody else may have open. `flush` says that
    /// flushes reach the storage.
    ///
    /// # Errors
    /// Returns an error if a name is taken or there is no room, and nothing was written then. Returns an
    /// error if the metadata of either image is damaged, or the system's error.
    fn add(&self, copied: &[PersistentBitmap], flush: bool) -> Result<()>;

    /// Returns the granularity of a new bitmap of which nothing else is said, in bytes.
    fn default_granularity(&self) -> u64;

    /// Checks whether a bitmap of that name and granularity, a power of two from 512 bytes to 2 GiB, could be
    /// stored beside those that there are.
    ///
    /// # Errors
    /// Returns the reason if it couldn't, or an error if the list can't be read.
    fn check_new(&self, name: &[u8], granularity: u64) -> Result<()>;

    /// Stores what has become of the bitmap of a name. The image must be
    /// [fit for it](super::ImageFile::prepare_to_change), and open nowhere else. `flush` says that flushes
    /// reach the storage.
    ///
    /// # Errors
    /// Returns an error if there is no room: nothing has changed then. Returns an error if metadata is
    /// damaged, or the system's error.
    fn replace(&self, name: &[u8], with: Replacement, flush: bool) -> Result<()>;
}

/// The change of the bitmap of a name.
pub enum Replacement {
    /// There is none of that name any more.
    Nothing,
    /// It has other flags, and the same bits.
    Flags(PersistentBitmap),
    /// It has other bits, and its place in the list.
    Bits(PersistentBitmap),
    /// It is another one, and the last one of the list.
    New(PersistentBitmap),
}

/// The bits of a bitmap, eight in a byte, the first one in the lowest place.
pub trait BitmapBits: Send + Sync {
    /// Reads bytes of bits from byte `offset` on and returns `false` if none is set. Beyond the bitmap's end
    /// there are none.
    ///
    /// # Errors
    /// Returns an error if the bits can't be read or found.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;
}

/// Reads bytes of bits that are kept in clusters: calls `read` for each cluster that they touch, with its number, the
/// first byte in it, and the part of `buf` that it has.
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
    /// The number of bytes of the disk that one bit stands for: a power of two from 512 bytes to 2 GiB.
    pub granularity: u64,
    /// True if a program had it in use and didn't store it, so that the bits are out of date.
    pub in_use: bool,
    /// True if QEMU keeps it up to date from when it opens the image.
    pub auto: bool,
    /// Its bits.
    pub bits: Arc<dyn BitmapBits>,
}

impl PersistentBitmap {
    /// Returns the bitmap as reports have it.
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
    /// The number of bytes of the disk that one bit stands for.
    pub granularity: u64,
}
