//! The bitmaps of a disk that is resized.
//!
//! Bits for the part that both sizes have are kept, and the others are cleared. Bits, tables and a directory are
//! written to new clusters, and the bitmaps extension then refers to them. Only the offset in the extension changes,
//! which is 8 bytes within one sector. So the image has the old or the new directory.

use std::sync::Arc;

use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::BitmapBits;
use crate::formats::qcow2::bitmaps::{Bitmap, read_bitmaps};
use crate::formats::qcow2::entries::BitmapTarget;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::extension_slot::ExtensionSlot;
use crate::formats::qcow2::header::{BitmapsPlace, Header, extensions};
use crate::formats::qcow2::write::bitmap_directory::{check_length_for, store_bits};
use crate::formats::qcow2::write::metadata::Metadata;
use crate::storage::Storage;

/// The bitmaps of a disk, and its old and new size.
pub(super) struct ResizedBitmaps {
    bitmaps: Vec<Bitmap>,
    place: Option<BitmapsPlace>,
    geometry: Geometry,
    /// The old size of the disk in bytes.
    old: u64,
    /// The new size of the disk in bytes.
    new: u64,
}

/// The first `count` bits of a bitmap; the others read as 0.
struct FirstBits<'a> {
    bits: &'a dyn BitmapBits,
    count: u64,
}

impl BitmapBits for FirstBits<'_> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.bits.read(offset, buf)?;
        for (byte, at) in buf.iter_mut().zip(offset..) {
            let left = self.count.saturating_sub(at.saturating_mul(8));
            if let Ok(left @ 0..8) = u32::try_from(left) {
                *byte &= !(0xff << left);
            }
        }
        Ok(buf.iter().any(|byte| *byte != 0))
    }
}

impl ResizedBitmaps {
    /// Reads the bitmap directory of the image with this header. `new` is the new size of the disk in bytes.
    ///
    /// # Errors
    /// Returns an error if bitmaps are inconsistent, or would be too large. Returns an error if the directory can't
    /// be read or is invalid.
    pub(super) fn read(storage: &dyn Storage, header: &Header, new: u64) -> Result<Self> {
        let bitmaps = read_bitmaps(storage, header)?;
        if let Some(bitmap) = bitmaps.iter().find(|bitmap| bitmap.in_use) {
            let name = String::from_utf8_lossy(&bitmap.name);
            return Err(Error::invalid(format!(
                "Bitmap '{}' is inconsistent and cannot be used",
                printable(&name)
            ))
            .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"));
        }
        for bitmap in &bitmaps {
            let name = String::from_utf8_lossy(&bitmap.name);
            let name = printable(&name);
            check_length_for(bitmap.granularity, (header.geometry(), new))
                .map_err(|error| error.context(format!("bitmap '{name}'")))?;
        }
        Ok(Self {
            bitmaps,
            place: header.bitmaps(),
            geometry: header.geometry(),
            old: header.size(),
            new,
        })
    }

    /// Marks the bitmaps as in use, so that no program uses them with another size.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn mark(&self, storage: &dyn Storage, metadata: &Metadata) -> Result<()> {
        if self.bitmaps.is_empty() {
            return Ok(());
        }
        for bitmap in &self.bitmaps {
            let (at, flags) = bitmap.flags(true);
            storage.write_at(at, &flags)?;
        }
        metadata.flush()
    }

    /// Stores the bitmaps for the new size, without the mark.
    ///
    /// # Errors
    /// Returns an error if there is no space, if metadata is damaged, or the system's error. The bitmaps stay marked
    /// then.
    pub(super) fn store(
        &self,
        storage: &Arc<dyn Storage>,
        header: &Header,
        metadata: &mut Metadata,
    ) -> Result<()> {
        let Some(old) = self.place else {
            return Ok(());
        };
        metadata.will_write();
        let mut stored = self.bitmaps.clone();
        for bitmap in &mut stored {
            let bits = bitmap.persistent(storage, self.geometry).bits;
            let bits = FirstBits {
                bits: bits.as_ref(),
                count: self.old.min(self.new).div_ceil(bitmap.granularity),
            };
            bitmap.table = store_bits(
                storage.as_ref(),
                (self.geometry, self.new),
                bitmap,
                &bits,
                metadata,
            )?;
        }
        let directory: Vec<u8> = stored.iter().flat_map(Bitmap::directory_entry).collect();
        let place = BitmapsPlace {
            directory: metadata.allocate_run(directory.len() as u64)?,
            length: directory.len() as u64,
            ..old
        };
        storage.write_at(place.directory.0, &directory)?;
        let kind = extensions::BITMAPS;
        let slot = ExtensionSlot::find(storage.as_ref(), header, kind, place.bytes().len())?;
        // The commit stores the refcounts, and flushes all that was written, before the header refers to it.
        metadata.commit()?;
        slot.fill(storage.as_ref(), kind, &place.bytes(), &|| metadata.flush())?;
        self.free_old(storage.as_ref(), old, metadata)?;
        metadata.commit()
    }

    /// Frees the old directory, tables and bits, to which nothing refers any more.
    fn free_old(
        &self,
        storage: &dyn Storage,
        place: BitmapsPlace,
        metadata: &mut Metadata,
    ) -> Result<()> {
        let clusters_of = |host, bytes| {
            let first = self.geometry.host_cluster(host);
            first..first + self.geometry.clusters(bytes)
        };
        for bitmap in &self.bitmaps {
            for entry in bitmap.read_table(storage)? {
                if let Ok(BitmapTarget::Stored(host)) = entry.target(self.geometry) {
                    metadata.free(clusters_of(host, 1), true)?;
                }
            }
            let table = bitmap.table;
            metadata.free_structure(clusters_of(table.host, table.entries * ENTRY_SIZE))?;
        }
        metadata.free_structure(clusters_of(place.directory, place.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct AllSet;

    impl BitmapBits for AllSet {
        fn read(&self, _offset: u64, buf: &mut [u8]) -> Result<bool> {
            buf.fill(0xff);
            Ok(true)
        }
    }

    #[test]
    fn bits_behind_the_last_one_are_clear() {
        let read = |count, offset| {
            let mut buf = [9; 3];
            let bits = &AllSet;
            let any = FirstBits { bits, count }.read(offset, &mut buf).unwrap();
            assert_eq!(any, buf != [0; 3]);
            buf
        };
        assert_eq!(read(24, 0), [0xff; 3]);
        assert_eq!(read(23, 0), [0xff, 0xff, 0x7f]);
        assert_eq!(read(9, 0), [0xff, 1, 0]);
        assert_eq!(read(8, 0), [0xff, 0, 0]);
        assert_eq!(read(0, 0), [0; 3]);
        assert_eq!(read(8008 + 3, 1000), [0xff, 7, 0]);
        assert_eq!(read(u64::MAX, 1000), [0xff; 3]);
    }
}
