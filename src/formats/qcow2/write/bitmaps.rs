//! Keeping the bitmaps of an image in use true.
//!
//! A bitmap that is enabled (`auto`) says of every part of the disk that is written, zeroed or discarded that
//! it has changed. Changed parts are noted in memory; the bits are stored when the image is closed. Meanwhile
//! the bitmaps are marked as in use, on stable storage before anything else is written. A program that finds
//! that mark in an image that nobody has open knows that the bits are out of date. Bitmaps that aren't
//! enabled, and those that somebody else left in use, stay as they are.
//!
//! The order when the image is closed: all of the guest's changes; the refcounts of clusters for
//! bits; the bits and the tables that lead to them; *flush*; the marks are taken away; *flush*. While
//! a bitmap is marked nobody looks at its bits, so they are written in place.

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

/// The bitmaps that are enabled, and the parts of the disk that were written.
#[derive(Debug)]
pub(super) struct EnabledBitmaps {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    size: u64,
    enabled: Vec<Bitmap>,
    /// True if they are marked as in use.
    in_use: bool,
    written: DirtyRanges,
}

/// A cluster of bits that changes.
#[derive(Debug)]
struct ChangedBits<'a> {
    bitmap: &'a Bitmap,
    /// Its index in the bitmap's table.
    index: u64,
    old: BitmapTarget,
    /// The offset at which the bits go.
    host: HostOffset,
}

impl EnabledBitmaps {
    /// Reads the directory, and enters it and the bitmaps' tables into `map`.
    /// # Errors
    /// Returns the system's error, or an error if a directory or table can't be right.
    /// A directory or table that can't be right; the system's error.
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

    /// Stops noting what changes: the caller stores the bitmaps itself.
    pub(super) fn set_aside(&mut self) {
        self.enabled.clear();
    }

    /// Notes that a part of the disk is about to change.
    ///
    /// # Errors
    /// Returns the system's error: then the part must not change.
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

    /// Stores the bits; everything else must have been stored.
    ///
    /// # Errors
    /// Returns an error if metadata is damaged or clusters can't be had, or the system's error. Then the
    /// bitmaps stay marked.
    pub(super) fn store(&mut self, metadata: &mut Metadata) -> Result<()> {
        if !self.in_use {
            return Ok(());
        }
        let mut changes = Vec::new();
        for bitmap in &self.enabled {
            self.place(bitmap, metadata, &mut changes)?;
        }
        // Refcounts are stored before the tables that refer to what they count.
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

    /// Returns the number of bytes of the disk that a cluster of a bitmap's bits is about.
    fn span(&self, bitmap: &Bitmap) -> u64 {
        let bits = self.geometry.cluster_size() * 8;
        bits.saturating_mul(bitmap.granularity)
    }

    /// Finds room for a bitmap's new bits.
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

    /// Writes the bits of a cluster, and the entry that leads to them.
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
