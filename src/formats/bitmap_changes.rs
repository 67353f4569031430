//! The changes of one bitmap by one command, collected before any of them is stored.
//!
//! All changes of one call are made in memory first, and the outcome is stored once. If a later change is refused,
//! the image stays as it was. A bitmap is never stored half changed. The bits themselves aren't read here: the new
//! bitmap refers to the bits of the bitmaps that are merged into it.

use std::sync::Arc;

use super::bitmaps::{Bitmaps, PersistentBitmap, Replacement};
use super::driver::ImageFile;
use super::merged_bits::{BitsSource, MergedBits};
use crate::error::{Error, Result, printable};

/// The smallest and the largest granularity, in bytes.
const GRANULARITIES: std::ops::RangeInclusive<u64> = 512..=1 << 31;

/// The changes of the bitmap with one name.
pub struct BitmapChanges<'a> {
    name: Vec<u8>,
    /// The size of the disk in bytes.
    size: u64,
    bitmaps: Option<&'a dyn Bitmaps>,
    /// The bitmaps that the image stores.
    stored: Vec<PersistentBitmap>,
    now: Option<ChangedBitmap>,
}

/// The bitmap after the changes.
#[derive(Clone)]
struct ChangedBitmap {
    /// The bitmap; its bits are in `sources`.
    bitmap: PersistentBitmap,
    sources: Vec<BitsSource>,
    /// True if it replaces the stored bitmap of its name, or if there was none.
    is_new: bool,
    /// True if its bits differ from the stored ones.
    has_other_bits: bool,
}

impl<'a> BitmapChanges<'a> {
    /// Starts with the bitmap called `name` as it is stored. `bitmaps` are those of the image, or `None` if it can't
    /// have bitmaps. `size` is the size of its disk in bytes.
    ///
    /// # Errors
    /// Returns an error if the list of bitmaps can't be read.
    pub fn new(name: &[u8], size: u64, bitmaps: Option<&'a dyn Bitmaps>) -> Result<Self> {
        let stored = bitmaps.map_or(Ok(Vec::new()), Bitmaps::list)?;
        let now = stored.iter().find(|bitmap| bitmap.name == name);
        let now = now.map(|bitmap| ChangedBitmap {
            bitmap: bitmap.clone(),
            sources: vec![(Arc::clone(&bitmap.bits), bitmap.granularity)],
            is_new: false,
            has_other_bits: false,
        });
        Ok(Self {
            name: name.to_vec(),
            size,
            bitmaps,
            stored,
            now,
        })
    }

    /// Adds an empty, enabled bitmap. `granularity` is in bytes; 0 selects the image's default. `place` is the
    /// image's name in messages.
    ///
    /// # Errors
    /// Returns an error if the name is empty, too long or taken, or if the granularity is invalid. Returns an error
    /// if the image has no space for the bitmap, or can't have bitmaps.
    pub fn add(&mut self, granularity: u64, place: &str, image: &dyn ImageFile) -> Result<()> {
        if self.name.is_empty() {
            return Err(Error::invalid("Bitmap name cannot be empty"));
        }
        if granularity != 0
            && !(granularity.is_power_of_two() && GRANULARITIES.contains(&granularity))
        {
            return Err(Error::invalid(
                "Granularity must be power of 2 and at least 512",
            ));
        }
        let name = text(&self.name);
        let cannot = |error: Error| {
            error.context(format!(
                "Can't make bitmap '{name}' persistent in '{place}'"
            ))
        };
        let bitmaps = self.bitmaps.ok_or_else(|| match image.lacks_bitmaps() {
            Some(why) => cannot(why),
            None => Error::unsupported(format!(
                "Can't store persistent bitmaps to {place}: Operation not supported"
            )),
        })?;
        let granularity = match granularity {
            0 => bitmaps.default_granularity(),
            other => other,
        };
        bitmaps.check_new(&self.name, granularity).map_err(cannot)?;
        if self.now.is_some() {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        self.now = Some(ChangedBitmap {
            bitmap: PersistentBitmap {
                name: self.name.clone(),
                granularity,
                in_use: false,
                auto: true,
                bits: Arc::new(MergedBits::new(self.size, granularity, Vec::new())),
            },
            sources: Vec::new(),
            is_new: true,
            has_other_bits: true,
        });
        Ok(())
    }

    /// Removes the bitmap. It may be inconsistent.
    ///
    /// # Errors
    /// Returns an error if there is no such bitmap.
    pub fn remove(&mut self) -> Result<()> {
        let removed = self.now.take();
        removed.map(drop).ok_or_else(|| not_found(&self.name))
    }

    /// Clears all bits.
    ///
    /// # Errors
    /// Returns an error if there is no such bitmap, or if it is inconsistent.
    pub fn clear(&mut self) -> Result<()> {
        let now = self.usable()?;
        now.sources.clear();
        now.has_other_bits = true;
        Ok(())
    }

    /// Sets the flag `auto`, by which QEMU updates the bitmap from the time it opens the image.
    ///
    /// # Errors
    /// Returns an error if there is no such bitmap, or if it is inconsistent.
    pub fn enable(&mut self, enabled: bool) -> Result<()> {
        self.usable()?.bitmap.auto = enabled;
        Ok(())
    }

    /// Sets the bits that are set in the bitmap called `source`. That is a bitmap of the same image, or of `other`:
    /// the size in bytes of another disk, and its bitmaps.
    ///
    /// # Errors
    /// Returns an error if either bitmap is missing or inconsistent, or if the disks differ in size.
    pub fn merge(
        &mut self,
        source: &[u8],
        other: Option<&(u64, Vec<PersistentBitmap>)>,
    ) -> Result<()> {
        let size = self.size;
        self.usable()?;
        let (source_size, bitmaps) = match other {
            // The bitmap has its own bits already.
            None if source == self.name => return Ok(()),
            None => (size, &self.stored),
            Some((size, bitmaps)) => (*size, bitmaps),
        };
        let found = bitmaps.iter().find(|bitmap| bitmap.name == source);
        let found = found.ok_or_else(|| not_found(source))?;
        if found.in_use {
            return Err(inconsistent(&found.name));
        }
        if source_size != size {
            return Err(Error::invalid(format!(
                "Bitmaps are of different sizes (destination size is {size}, source size is \
                 {source_size}) and can't be merged"
            )));
        }
        let bits = (Arc::clone(&found.bits), found.granularity);
        let now = self.usable()?;
        now.sources.push(bits);
        now.has_other_bits = true;
        Ok(())
    }

    /// Stores the outcome if anything changed. With `flush`, the changes are flushed to stable storage.
    ///
    /// # Errors
    /// Returns an error as [`Bitmaps::replace`] does.
    pub fn store(self, flush: bool) -> Result<()> {
        let Some(bitmaps) = self.bitmaps else {
            return Ok(());
        };
        let stored = self.stored.iter().find(|bitmap| bitmap.name == self.name);
        let with = match (stored, self.now) {
            (None, None) => return Ok(()),
            (Some(_), None) => Replacement::Nothing,
            (stored, Some(now)) => {
                let (size, granularity) = (self.size, now.bitmap.granularity);
                let bitmap = PersistentBitmap {
                    bits: Arc::new(MergedBits::new(size, granularity, now.sources)),
                    ..now.bitmap
                };
                match stored {
                    Some(stored) if !now.is_new && !now.has_other_bits => {
                        if stored.auto == bitmap.auto {
                            return Ok(());
                        }
                        Replacement::Flags(bitmap)
                    }
                    Some(_) if !now.is_new => Replacement::Bits(bitmap),
                    _ => Replacement::New(bitmap),
                }
            }
        };
        bitmaps.replace(&self.name, with, flush)
    }

    /// Returns the bitmap if it is consistent.
    fn usable(&mut self) -> Result<&mut ChangedBitmap> {
        let now = self.now.as_mut().ok_or_else(|| not_found(&self.name))?;
        if now.bitmap.in_use {
            return Err(inconsistent(&self.name));
        }
        Ok(now)
    }
}

fn not_found(name: &[u8]) -> Error {
    Error::invalid(format!("Dirty bitmap '{}' not found", text(name)))
}

fn inconsistent(name: &[u8]) -> Error {
    Error::invalid(format!(
        "Bitmap '{}' is inconsistent and cannot be used",
        text(name)
    ))
    .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk")
}

fn text(name: &[u8]) -> String {
    printable(&String::from_utf8_lossy(name))
}
