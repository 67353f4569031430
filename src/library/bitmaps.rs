//! Persistent bitmaps: the changed parts of a disk, for backup programs, and changes of the bitmaps.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::image::DiskImage;
use super::open::OpenOptions;
use crate::commands::bitmap::{BitmapChange, BitmapRequest, run};
use crate::error::{Error, Result};
use crate::formats::bitmaps::BitmapBits;

/// The number of bytes of a bitmap that are read at once.
const PIECE: usize = 4096;

/// A change of a persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskBitmapChange {
    /// Adds the bitmap, which is enabled, with a granularity in bytes: a power of two from 512 bytes to 2 GiB. `None`
    /// is the image's default.
    Add(Option<u64>),
    /// Removes it.
    Remove,
    /// Clears all its bits.
    Clear,
    /// Enables it: from now on, writes by QEMU and by this library set its bits.
    Enable,
    /// Disables it, so that writes don't change it any more.
    Disable,
    /// Sets the bits that the bitmap of that name in the same image has.
    Merge(String),
}

impl OpenOptions {
    /// Changes a persistent bitmap. Makes all of the changes, in order, or none. No other process may have the image
    /// open.
    ///
    /// ```
    /// use cowhide::DiskBitmapChange;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("disk.qcow2");
    /// # cowhide::CreateOptions::new("qcow2", 1 << 30).create(&path)?;
    /// let options = cowhide::OpenOptions::new().format("qcow2");
    /// options.change_bitmap(&path, "since monday", &[DiskBitmapChange::Add(None)])?;
    /// let disk = options.open_to_write(&path)?;
    /// disk.write_at(1 << 20, &[1; 512])?;
    /// disk.close()?;
    /// let image = options.open(&path)?;
    /// let changed: Vec<_> = image.bitmap_ranges("since monday")?.collect::<Result<_, _>>()?;
    /// assert_eq!(changed, [1 << 20..(1 << 20) + (64 << 10)]);
    /// # Ok::<(), cowhide::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the image can't be opened for writing, or if it has no bitmaps or not this one. Returns an
    /// error if the name of an added bitmap exists, or if a granularity is out of range. Nothing has changed then,
    /// unless it is the system's error.
    pub fn change_bitmap(
        &self,
        path: impl AsRef<Path>,
        name: &str,
        changes: &[DiskBitmapChange],
    ) -> Result<()> {
        let granularity = changes.iter().find_map(|change| match change {
            DiskBitmapChange::Add(granularity) => *granularity,
            _ => None,
        });
        let change = |change: &DiskBitmapChange| match change {
            DiskBitmapChange::Add(_) => BitmapChange::Add,
            DiskBitmapChange::Remove => BitmapChange::Remove,
            DiskBitmapChange::Clear => BitmapChange::Clear,
            DiskBitmapChange::Enable => BitmapChange::Enable,
            DiskBitmapChange::Disable => BitmapChange::Disable,
            DiskBitmapChange::Merge(source) => BitmapChange::Merge(source.clone().into_bytes()),
        };
        let request = BitmapRequest {
            image: self.node(path.as_ref())?,
            name: name.as_bytes().to_vec(),
            changes: changes.iter().map(change).collect(),
            granularity: granularity.unwrap_or(0),
            source: None,
        };
        run(&request, &|_| {})
    }
}

impl DiskImage {
    /// Returns the parts of the disk whose bits are set in a bitmap, in bytes and in guest order.
    ///
    /// # Errors
    /// Returns an error if the image has no such bitmap, or if it is inconsistent because a program that used it
    /// didn't store it.
    pub fn bitmap_ranges(&self, name: &str) -> Result<BitmapRanges> {
        let mut all = self.stored_bitmaps.iter();
        let found = all.find(|bitmap| bitmap.name == name.as_bytes());
        let bitmap = found.ok_or_else(|| Error::invalid(format!("no bitmap '{name}'")))?;
        if bitmap.in_use {
            return Err(Error::invalid(format!(
                "Bitmap '{name}' is inconsistent: it was in use and wasn't stored"
            )));
        }
        Ok(BitmapRanges {
            bits: Arc::clone(&bitmap.bits),
            granularity: bitmap.granularity,
            size: self.size(),
            bit: 0,
            piece: Vec::new(),
            first: 0,
            is_over: false,
        })
    }
}

/// An iterator over the parts of a disk whose bits are set in a bitmap, in bytes. It ends after an error.
pub struct BitmapRanges {
    bits: Arc<dyn BitmapBits>,
    granularity: u64,
    /// The size of the disk in bytes.
    size: u64,
    /// The next bit.
    bit: u64,
    /// The bytes of the bitmap that were read. `first` is the number of the first one.
    piece: Vec<u8>,
    first: u64,
    is_over: bool,
}

impl BitmapRanges {
    /// Returns the number of the next bit from `self.bit` on that is set, or clear. Returns the number of bits if
    /// there is none.
    fn find(&mut self, set: bool) -> Result<u64> {
        let count = self.size.div_ceil(self.granularity);
        let uniform = if set { 0 } else { 0xff };
        while self.bit < count {
            let byte = self.bit / 8;
            if byte < self.first || byte - self.first >= self.piece.len() as u64 {
                self.piece.resize(PIECE, 0);
                self.first = byte;
                self.bits.read(byte, &mut self.piece)?;
            }
            let at = usize::try_from(byte - self.first).unwrap_or(usize::MAX);
            let bits = self.piece.get(at).copied().unwrap_or_default();
            if bits == uniform {
                self.bit = (byte + 1) * 8;
            } else if (bits >> (self.bit % 8) & 1 != 0) == set {
                break;
            } else {
                self.bit += 1;
            }
        }
        self.bit = self.bit.min(count);
        Ok(self.bit)
    }

    fn next_range(&mut self) -> Result<Option<Range<u64>>> {
        let start = self.find(true)?.saturating_mul(self.granularity);
        if start >= self.size {
            return Ok(None);
        }
        let end = self.find(false)?.saturating_mul(self.granularity);
        Ok(Some(start..end.min(self.size)))
    }
}

impl fmt::Debug for BitmapRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BitmapRanges")
            .field("granularity", &self.granularity)
            .field("bit", &self.bit)
            .finish_non_exhaustive()
    }
}

impl Iterator for BitmapRanges {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.next_range().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}
