//! The replacement of an image's bitmap directory.
//!
//! Bits, bitmap tables and the directory are written to new clusters. The bitmaps extension of the header changes
//! last. Its data is nearly always within one sector. Then one write changes it, and a power cut leaves the old or
//! the new bitmaps. Otherwise, or if the extension doesn't exist yet, the autoclear bit is cleared meanwhile, so that
//! no bitmap is valid after a power cut. Removing the last bitmap clears that bit, and then removes the extension.

use std::sync::Arc;

use super::super::bitmaps::{Bitmap, MAX_BITMAP_BYTES};
use super::super::entries::{BitmapTableEntry, BitmapTarget};
use super::super::geometry::{ENTRY_SIZE, Geometry};
use super::super::header::{
    BitmapsPlace, Header, MAX_BITMAPS, TablePlace, Version, extensions, features, fields,
};
use super::metadata::Metadata;
use super::open::open_state;
use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::BitmapBits;
use crate::formats::qcow2::header::extension_slot::ExtensionSlot;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The length of the extension's data in bytes.
const EXTENSION_LENGTH: usize = 24;

/// An image whose bitmap directory is replaced.
pub(super) struct DirectoryChange<'a> {
    storage: &'a Arc<dyn Storage>,
    header: &'a Header,
    /// The place of the bitmaps extension, or `None` if the last bitmap is removed.
    slot: Option<ExtensionSlot>,
    metadata: Metadata,
    autoclear: u64,
}

impl<'a> DirectoryChange<'a> {
    /// Begins a change of the image with this header, after which it has `count` bitmaps. With `flush`, the changes
    /// are flushed to stable storage.
    ///
    /// # Errors
    /// Returns an error if the version has no bitmaps, if there are too many, or if the header has no space; nothing
    /// was written then. Returns an error if metadata is damaged, or the system's error.
    pub(super) fn begin(
        storage: &'a Arc<dyn Storage>,
        header: &'a Header,
        count: usize,
        flush: bool,
    ) -> Result<Self> {
        check_count(header, count)?;
        let kind = extensions::BITMAPS;
        let find = || ExtensionSlot::find(storage.as_ref(), header, kind, EXTENSION_LENGTH);
        let slot = (count > 0).then(find).transpose()?;
        let (state, autoclear) = open_state(storage, None, header, flush)?;
        Ok(Self {
            storage,
            header,
            slot,
            metadata: state.metadata,
            autoclear,
        })
    }

    /// Writes the bits and the table of a bitmap to new clusters, to which nothing refers yet. Returns the place of
    /// the table.
    ///
    /// # Errors
    /// Returns an error if clusters can't be allocated or bits can't be read, or the system's error.
    pub(super) fn store_bits(
        &mut self,
        bitmap: &Bitmap,
        bits: &dyn BitmapBits,
    ) -> Result<TablePlace> {
        let disk = (self.header.geometry(), self.header.size());
        store_bits(
            self.storage.as_ref(),
            disk,
            bitmap,
            bits,
            &mut self.metadata,
        )
    }

    /// Makes `all` the image's bitmaps, and frees the clusters of `gone`: bitmaps that are removed or have other bits
    /// now.
    ///
    /// # Errors
    /// Returns an error if metadata is damaged or clusters can't be allocated, or the system's error.
    pub(super) fn finish(mut self, all: &[Bitmap], gone: &[Bitmap]) -> Result<()> {
        let given_back = self.clusters_of(gone)?;
        match self.slot.take() {
            None => self.clear()?,
            Some(slot) => self.switch(&slot, all)?,
        }
        let geometry = self.header.geometry();
        let old = self.header.bitmaps().map(|old| (old.directory, old.length));
        for (host, bytes) in given_back.into_iter().chain(old) {
            let first = geometry.host_cluster(host);
            self.metadata
                .free(first..first + geometry.clusters(bytes), false)?;
        }
        self.metadata.close()
    }

    /// Returns the clusters of bitmaps, as host offsets and lengths in bytes.
    fn clusters_of(&self, bitmaps: &[Bitmap]) -> Result<Vec<(HostOffset, u64)>> {
        let geometry = self.header.geometry();
        let mut clusters = Vec::new();
        for bitmap in bitmaps {
            for entry in bitmap.read_table(self.storage.as_ref())? {
                match entry.target(geometry) {
                    Ok(BitmapTarget::Uniform(_)) => {}
                    Ok(BitmapTarget::Stored(host)) => clusters.push((host, 1)),
                    Err(why) => {
                        let name = printable(&String::from_utf8_lossy(&bitmap.name));
                        let what = format!("an entry of the table of bitmap '{name}': {why}");
                        return Err(Error::corrupt(what));
                    }
                }
            }
            let bytes = bitmap.table.entries * ENTRY_SIZE;
            clusters.push((bitmap.table.host, bytes));
        }
        Ok(clusters)
    }

    /// Makes the header refer to a new directory.
    fn switch(&mut self, slot: &ExtensionSlot, all: &[Bitmap]) -> Result<()> {
        let storage = self.storage.as_ref();
        let directory: Vec<u8> = all.iter().flat_map(Bitmap::directory_entry).collect();
        let place = BitmapsPlace {
            count: u32::try_from(all.len()).unwrap_or(u32::MAX),
            directory: self.metadata.allocate_run(directory.len() as u64)?,
            length: directory.len() as u64,
        };
        // Refcounts are stored before any reference to their clusters.
        self.metadata.commit()?;
        storage.write_at(place.directory.0, &directory)?;
        self.metadata.flush()?;
        let metadata = &self.metadata;
        let fill = || {
            let kind = extensions::BITMAPS;
            slot.fill(storage, kind, &place.bytes(), &|| metadata.flush())
        };
        let counts = self.autoclear & features::BITMAPS != 0;
        if counts && slot.is_in_one_sector() {
            return fill();
        }
        let others = self.autoclear & !features::BITMAPS;
        if counts {
            fields::set_autoclear(storage, others)?;
            metadata.flush()?;
        }
        fill()?;
        fields::set_autoclear(storage, others | features::BITMAPS)?;
        metadata.flush()
    }

    /// Removes the last bitmaps.
    fn clear(&mut self) -> Result<()> {
        let storage = self.storage.as_ref();
        fields::set_autoclear(storage, self.autoclear & !features::BITMAPS)?;
        self.metadata.flush()?;
        if end_extensions(storage, self.header)? {
            self.metadata.flush()?;
        }
        Ok(())
    }
}

/// Removes the extension. Returns `false` if other extensions follow it, so that it must stay.
fn end_extensions(storage: &dyn Storage, header: &Header) -> Result<bool> {
    let kinds = header.extensions().iter().map(|extension| extension.kind);
    if kinds.rev().position(|kind| kind == extensions::BITMAPS) != Some(0) {
        return Ok(false);
    }
    ExtensionSlot::find(storage, header, extensions::BITMAPS, EXTENSION_LENGTH)?.end_here(storage)
}

/// Checks that an image can have `count` bitmaps.
///
/// # Errors
/// Returns an error if the version has no bitmaps, or if there are too many.
pub(super) fn check_count(header: &Header, count: usize) -> Result<()> {
    if header.version() != Version::V3 {
        return Err(Error::unsupported(
            "Cannot store dirty bitmaps in qcow2 v2 files",
        ));
    }
    if u32::try_from(count).is_ok_and(|count| count <= MAX_BITMAPS) {
        return Ok(());
    }
    Err(Error::invalid(
        "Maximum number of persistent bitmaps is already reached",
    ))
}

/// Checks that a new bitmap of this granularity isn't too large.
///
/// # Errors
/// Returns an error if it is.
pub(super) fn check_length(granularity: u64, header: &Header) -> Result<()> {
    check_length_for(granularity, (header.geometry(), header.size()))
}

/// Checks as [`check_length`] does, for a geometry and a size of the disk in bytes.
///
/// # Errors
/// Returns an error if the bitmap is too large.
pub(super) fn check_length_for(granularity: u64, disk: (Geometry, u64)) -> Result<()> {
    let (_, entries) = lengths(granularity, disk);
    if entries.saturating_mul(disk.0.cluster_size()) > MAX_BITMAP_BYTES {
        return Err(Error::invalid(
            "Too much space will be occupied by the bitmap. Use larger granularity",
        ));
    }
    Ok(())
}

/// Returns the length of a bitmap's bits in bytes, and the number of entries of its table.
fn lengths(granularity: u64, (geometry, size): (Geometry, u64)) -> (u64, u64) {
    let bytes = size.div_ceil(granularity).div_ceil(8);
    (bytes, geometry.clusters(bytes).max(1))
}

/// Writes the bits and the table of a bitmap to new clusters, to which nothing refers yet. Returns the place of the
/// table. `disk` is the geometry of the image and the size of its disk in bytes.
///
/// # Errors
/// Returns an error if the bits can't be read or clusters can't be allocated, or the system's error.
pub(super) fn store_bits(
    storage: &dyn Storage,
    disk: (Geometry, u64),
    bitmap: &Bitmap,
    bits: &dyn BitmapBits,
    metadata: &mut Metadata,
) -> Result<TablePlace> {
    let (geometry, _) = disk;
    let (bytes, entries) = lengths(bitmap.granularity, disk);
    let mut table = Vec::new();
    let mut buffer = vec![0; geometry.cluster_len()];
    for index in 0..entries {
        let start = index * geometry.cluster_size();
        let length = bytes.saturating_sub(start).min(geometry.cluster_size());
        let length = usize::try_from(length).unwrap_or(buffer.len());
        let (part, rest) = buffer.split_at_mut(length);
        rest.fill(0);
        let entry = if bits.read(start, part)? {
            let host = metadata.allocate_cluster()?;
            storage.write_at(host.0, &buffer)?;
            BitmapTableEntry::to_cluster(host)
        } else {
            BitmapTableEntry::default()
        };
        table.extend(entry.0.to_be_bytes());
    }
    let place = TablePlace {
        host: metadata.allocate_run(entries * ENTRY_SIZE)?,
        entries,
    };
    storage.write_at(place.host.0, &table)?;
    Ok(place)
}

/// Returns a bitmap whose table isn't stored yet.
pub(super) fn without_table(name: &[u8], granularity: u64, auto: bool) -> Bitmap {
    Bitmap {
        name: name.to_vec(),
        granularity,
        in_use: false,
        auto,
        table: TablePlace {
            host: HostOffset(0),
            entries: 0,
        },
        entry: HostOffset(0),
    }
}
