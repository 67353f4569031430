//! The bitmaps of a disk whose size changes.
//!
//! Bits of the part that both sizes have stay; the others are clear. All of it is stored anew: bits, tables and
//! a directory, to which the header's extension then leads. The extension has the offset in eight bytes of one
//! sector, and nothing else of it changes, so the image has the old directory or the new one.

use std::sync::Arc;

use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::BitmapBits;
use crate::formats::qcow2::bitmaps::{Bitmap, read_bitmaps};
use crate::formats::qcow2::entries::BitmapTarget;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::room::ExtensionRoom;
use crate::formats::qcow2::header::{BitmapsPlace, Header, extensions};
use crate::formats::qcow2::write::bitmap_directory::{check_length_for, store_bits};
use crate::formats::qcow2::write::metadata::Metadata;
use crate::storage::Storage;

/// The bitmaps of a disk, and the size that it is about to have.
pub(super) struct ResizedBitmaps {
    bitmaps: Vec<Bitmap>,
    place: Option<BitmapsPlace>,
    geometry: Geometry,
    /// The size of the disk until now, in bytes.
    old: u64,
    /// The size that it is to have, in bytes.
    new: u64,
}

/// The bits of a bitmap up to a number of them; the others are clear.
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
    /// Reads the directory of the image that `header` was read from.
    ///
    /// # Errors
    /// Returns an error if bitmaps are out of date, or would be too large. Returns an error if the directory
    /// can't be read or makes no sense.
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

    /// Marks them as in use, so that nobody takes them for bitmaps of another size.
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

    /// Stores them for the new size, and takes the marks away.
    ///
    /// # Errors
    /// Returns an error if there is no room, if metadata is damaged, or the system's error. Then they stay
    /// marked.
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
        let room = ExtensionRoom::find(storage.as_ref(), header, kind, place.bytes().len())?;
        // The refcounts, and with them all that was written, are stored before the header leads there.
        metadata.commit()?;
        room.fill(storage.as_ref(), kind, &place.bytes(), &|| metadata.flush())?;
        self.free_old(storage.as_ref(), old, metadata)?;
        metadata.commit()
    }

    /// Gives back the old directory, tables and bits, to which nothing leads any more.
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
