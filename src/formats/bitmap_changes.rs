//! Changes of one bitmap, one after the other, before anything is stored.
//!
//! All changes of one call are made here first, and the outcome is stored once. So a change that is refused
//! leaves the image as it was, whatever came before it. A bitmap that is added, filled and disabled never lacks
//! half of that. Bits aren't read here: a bitmap's bits are those of others, put together.

use std::sync::Arc;

use super::bitmaps::{Bitmaps, PersistentBitmap, Replacement};
use super::driver::ImageFile;
use super::merged_bits::{BitsSource, MergedBits};
use crate::error::{Error, Result, printable};

/// The least and the largest granularity, in bytes.
const GRANULARITIES: std::ops::RangeInclusive<u64> = 512..=1 << 31;

/// The changes of the bitmap of one name.
pub struct BitmapChanges<'a> {
    name: Vec<u8>,
    /// The size of the disk in bytes.
    size: u64,
    bitmaps: Option<&'a dyn Bitmaps>,
    /// The bitmaps of the image as they are stored.
    stored: Vec<PersistentBitmap>,
    now: Option<ChangedBitmap>,
}

/// The bitmap as it has become.
#[derive(Clone)]
struct ChangedBitmap {
    /// The bitmap; its bits are in `sources`.
    bitmap: PersistentBitmap,
    sources: Vec<BitsSource>,
    /// True if it isn't the one that is stored by its name.
    is_new: bool,
    /// True if its bits are other ones.
    has_other_bits: bool,
}

impl<'a> BitmapChanges<'a> {
    /// Makes no change yet to the bitmap of that name; `bitmaps` are those of an image of `size` bytes, `None`
    /// where it can have none.
    ///
    /// # Errors
    /// Returns an error if the list can't be read.
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

    /// Adds a bitmap without a bit, which is enabled. The granularity is in bytes; 0 is the image's own.
    ///
    /// # Errors
    /// Returns an error if there is one of that name, if the granularity or the name isn't one, or if there
    /// is no room. Returns an error if the image can have none; `place` is the name that messages have for it.
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

    /// Removes the bitmap, which may be inconsistent.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn remove(&mut self) -> Result<()> {
        let removed = self.now.take();
        removed.map(drop).ok_or_else(|| not_found(&self.name))
    }

    /// Takes all bits away.
    ///
    /// # Errors
    /// Returns an error if there is no such bitmap, or if it is inconsistent.
    pub fn clear(&mut self) -> Result<()> {
        let now = self.usable()?;
        now.sources.clear();
        now.has_other_bits = true;
        Ok(())
    }

    /// Lets QEMU keep the bitmap up to date from when it opens the image, or not.
    ///
    /// # Errors
    /// Returns an error if there is no such bitmap, or if it is inconsistent.
    pub fn enable(&mut self, enabled: bool) -> Result<()> {
        self.usable()?.bitmap.auto = enabled;
        Ok(())
    }

    /// Adds the bits of another bitmap: of the same image, or of one whose disk has so many bytes and which
    /// has these bitmaps.
    ///
    /// # Errors
    /// Returns an error if either bitmap isn't there or is inconsistent, or if the disks are of different
    /// sizes.
    pub fn merge(
        &mut self,
        source: &[u8],
        other: Option<&(u64, Vec<PersistentBitmap>)>,
    ) -> Result<()> {
        let size = self.size;
        self.usable()?;
        let (source_size, bitmaps) = match other {
            // It has these bits.
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

    /// Stores the outcome, where anything has changed. `flush` says that flushes reach the storage.
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

    /// Returns the bitmap, whose bits can be relied on.
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
