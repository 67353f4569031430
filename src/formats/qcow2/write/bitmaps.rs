//! The update of the enabled bitmaps of an image that is written to.
//!
//! An enabled bitmap (flag `auto`) records every part of the disk that is written, zeroed or discarded. The changed
//! ranges are kept in memory, and the bits are stored when the image is closed. Before the first change, the bitmaps
//! are marked as in use on stable storage. A program that finds that mark in an image that isn't open knows that the
//! bits are outdated. Bitmaps that are disabled, or that another program left in use, aren't updated.
//!
//! Closing the image writes in this order: all of the guest's changes; the refcounts of clusters for bits; the bits
//! and the bitmap tables; *flush*; the bitmaps without the mark; *flush*. The bits of a marked bitmap are invalid, so
//! they are overwritten in place.

use std::ops::Range;
use std::sync::Arc;

use super::super::bitmaps::{Bitmap, read_bitmaps};
use super::super::entries::{BitmapTableEntry, BitmapTarget, set_bitmap_bits};
use super::super::geometry::{ENTRY_SIZE, Geometry};
use super::super::header::Header;
use super::metadata::Metadata;
use super::metadata_map::{MetadataMap, Structure};
use crate::error::{Error, Result, printable};
use crate::formats::dirty_ranges::DirtyRanges;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The enabled bitmaps, and the written ranges of the disk.
#[derive(Debug)]
pub(super) struct EnabledBitmaps {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    size: u64,
    enabled: Vec<Bitmap>,
    /// True if the bitmaps are marked as in use.
    in_use: bool,
    written: DirtyRanges,
}

/// A cluster of bits to be changed.
#[derive(Debug)]
struct ChangedBits<'a> {
    bitmap: &'a Bitmap,
    /// Its index in the bitmap table.
    index: u64,
    old: BitmapTarget,
    /// The host offset for the new bits.
    host: HostOffset,
}

impl EnabledBitmaps {
    /// Reads the directory, and adds it and the bitmap tables to `map`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the directory or a table is invalid.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        header: &Header,
        map: &mut MetadataMap,
    ) -> Result<Self> {
        let geometry = header.geometry();
        let bitmaps = read_bitmaps(storage.as_ref(), header)?;
        let mut enter = |host, bytes, kind| {
            let first = geometry.host_cluster(host);
            map.insert(first..first + geometry.clusters(bytes), kind)
        };
        if let Some(place) = header.bitmaps() {
            enter(place.directory, place.length, Structure::BitmapDirectory)?;
        }
        for bitmap in &bitmaps {
            let bytes = bitmap.table.entries * ENTRY_SIZE;
            enter(bitmap.table.host, bytes, Structure::BitmapTable)?;
        }
        let mut enabled = bitmaps;
        enabled.retain(|bitmap| bitmap.auto && !bitmap.in_use);
        let length = storage.len()?;
        for bitmap in &enabled {
            for (index, entry) in bitmap.read_table(storage.as_ref())?.into_iter().enumerate() {
                let target = target_of(bitmap, index as u64, entry, geometry)?;
                if let BitmapTarget::Stored(host) = target
                    && host.0.saturating_add(geometry.cluster_size()) > length
                {
                    let why = format!("bits at {host} are beyond the end of the file");
                    return Err(bad_entry(bitmap, index as u64, &why));
                }
            }
        }
        let finest = enabled.iter().map(|bitmap| bitmap.granularity).min();
        Ok(Self {
            storage,
            geometry,
            size: header.size(),
            enabled,
            in_use: false,
            written: DirtyRanges::new(finest.unwrap_or(1)),
        })
    }

    /// Stops recording changes, since the caller stores the bitmaps itself.
    pub(super) fn stop_recording(&mut self) {
        self.enabled.clear();
    }

    /// Records that a part of the disk is about to change.
    ///
    /// # Errors
    /// Returns the system's error; the part must not change then.
    pub(super) fn will_change(&mut self, metadata: &Metadata, part: &Range<u64>) -> Result<()> {
        if self.enabled.is_empty() {
            return Ok(());
        }
        if !self.in_use {
            self.mark(true)?;
            metadata.flush()?;
            self.in_use = true;
        }
        self.written.add(part);
        Ok(())
    }

    fn mark(&self, in_use: bool) -> Result<()> {
        self.enabled.iter().try_for_each(|bitmap| {
            let (at, flags) = bitmap.flags(in_use);
            self.storage.write_at(at, &flags)
        })
    }

    /// Stores the bits. Everything else must have been stored before.
    ///
    /// # Errors
    /// Returns an error if metadata is damaged or clusters can't be allocated, or the system's error. The bitmaps
    /// stay marked then.
    pub(super) fn store(&mut self, metadata: &mut Metadata) -> Result<()> {
        if !self.in_use {
            return Ok(());
        }
        let mut changes = Vec::new();
        for bitmap in &self.enabled {
            self.place(bitmap, metadata, &mut changes)?;
        }
        // Refcounts are stored before any reference to their clusters.
        metadata.commit()?;
        for change in &changes {
            self.write(change)?;
        }
        metadata.flush()?;
        self.mark(false)?;
        metadata.flush()?;
        self.in_use = false;
        Ok(())
    }

    /// Returns the number of bytes of the disk that a cluster of a bitmap's bits covers.
    fn span(&self, bitmap: &Bitmap) -> u64 {
        let bits = self.geometry.cluster_size() * 8;
        bits.saturating_mul(bitmap.granularity)
    }

    /// Allocates space for a bitmap's new bits.
    fn place<'a>(
        &self,
        bitmap: &'a Bitmap,
        metadata: &mut Metadata,
        changes: &mut Vec<ChangedBits<'a>>,
    ) -> Result<()> {
        let table = bitmap.read_table(self.storage.as_ref())?;
        let span = self.span(bitmap);
        let mut next = 0;
        for part in self.written.within(0..self.size) {
            for index in next.max(part.start / span)..part.end.div_ceil(span) {
                next = index + 1;
                let entry = usize::try_from(index).ok().and_then(|at| table.get(at));
                let entry = entry.copied();
                let entry = entry.ok_or_else(|| bad_entry(bitmap, index, "there is none"))?;
                let old = target_of(bitmap, index, entry, self.geometry)?;
                let host = match old {
                    BitmapTarget::Uniform(true) => continue,
                    BitmapTarget::Uniform(false) => metadata.allocate_cluster()?,
                    BitmapTarget::Stored(host) => {
                        if metadata.owns(host)? {
                            host
                        } else {
                            let cluster = self.geometry.host_cluster(host);
                            metadata.free(cluster..cluster + 1, false)?;
                            metadata.allocate_cluster()?
                        }
                    }
                };
                changes.push(ChangedBits {
                    bitmap,
                    index,
                    old,
                    host,
                });
            }
        }
        Ok(())
    }

    /// Writes a cluster of bits, and the table entry that refers to it.
    fn write(&self, change: &ChangedBits<'_>) -> Result<()> {
        let ChangedBits {
            bitmap,
            index,
            old,
            host,
        } = change;
        let mut bytes = vec![0; self.geometry.cluster_len()];
        if let BitmapTarget::Stored(host) = old {
            self.storage.read_exact_at(host.0, &mut bytes, "a bitmap")?;
        }
        let span = self.span(bitmap);
        let start = index * span;
        for part in self.written.within(start..self.size.min(start + span)) {
            let first = (part.start - start) / bitmap.granularity;
            let end = (part.end - start).div_ceil(bitmap.granularity);
            set_bitmap_bits(&mut bytes, first..end);
        }
        self.storage.write_at(host.0, &bytes)?;
        if *old != BitmapTarget::Stored(*host) {
            let entry = BitmapTableEntry::to_cluster(*host).0.to_be_bytes();
            let at = bitmap.table.host.0 + index * ENTRY_SIZE;
            self.storage.write_at(at, &entry)?;
        }
        Ok(())
    }
}

fn target_of(
    bitmap: &Bitmap,
    index: u64,
    entry: BitmapTableEntry,
    geometry: Geometry,
) -> Result<BitmapTarget> {
    let target = entry.target(geometry);
    target.map_err(|why| bad_entry(bitmap, index, &why.to_string()))
}

fn bad_entry(bitmap: &Bitmap, index: u64, why: &str) -> Error {
    let name = String::from_utf8_lossy(&bitmap.name);
    let name = printable(&name);
    Error::corrupt(format!(
        "entry {index} of the table of bitmap '{name}': {why}"
    ))
}
