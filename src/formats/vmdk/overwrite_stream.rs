//! A conversion into an existing streamOptimized image without grains.
//!
//! Grains of such an image are never overwritten, so one that has any is refused. One without grains is replaced by a
//! new one with its size, its options and its descriptor, except for the content id. The file isn't a valid image
//! until the new one is complete.

use std::sync::Arc;

use super::descriptor;
use super::file::{DiskExtent, VmdkFile};
use super::grains::{Grain, GrainLayout, GrainMap};
use super::new_sparse::{DESCRIPTOR_LENGTH, GRAIN};
use super::new_stream::{self, NewStream};
use super::sparse_header::{SparseHeader, flag};
use super::text::new_cid;
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::units::SECTOR_SIZE;

impl DiskExtent {
    /// Refuses a streamOptimized extent that has grains.
    ///
    /// # Errors
    /// Returns an error if it has any, or if its tables can't be read.
    pub(super) fn refuse_written(&self, layout: GrainLayout) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let map = GrainMap::open(Arc::clone(file), layout)?;
        let mut state = map.lock();
        for table in 0..layout.tables() {
            if map.table(&mut state, table)?.is_none() {
                continue;
            }
            let first = table * layout.entries;
            for grain in first..(first + layout.entries).min(layout.grains()) {
                if let Grain::At(_) = map.entry(&mut state, grain)? {
                    return Err(Error::unsupported(
                        "Could not write to allocated cluster for streamOptimized",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl VmdkFile {
    /// Returns the extent of a streamOptimized image, or `None` for any other image.
    pub(super) fn stream(&self) -> Option<&DiskExtent> {
        let [extent] = self.extents.as_slice() else {
            return None;
        };
        Some(extent).filter(|extent| extent.is_compressed() && self.is_embedded)
    }

    /// Starts a new streamOptimized image in place of this one. `flush` says if flushes reach stable storage.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the image has a backing file, or if its descriptor has an
    /// unsupported form.
    pub(super) fn write_stream(&self, flush: bool) -> Result<Box<dyn NewImage>> {
        if self.descriptor.parent.is_some() {
            return Err(Error::unsupported(
                "a streamOptimized image with a backing file is written when it is made",
            ));
        }
        let file = Arc::clone(&self.file);
        let (start, space) = self.text;
        let old = SparseHeader::read(file.as_ref())?;
        let mut text = vec![0; usize::try_from(space).unwrap_or(0)];
        file.read_padded_at(start, &mut text, file.len()?)?;
        let end = text.iter().position(|byte| *byte == 0);
        text.truncate(end.unwrap_or(text.len()));
        let place = descriptor::place_of_id(&text, "CID").ok_or_else(descriptor::invalid)?;
        text.splice(place, format!("{:x}", new_cid()).into_bytes());
        if old.grain != GRAIN || text.len() as u64 > DESCRIPTOR_LENGTH * SECTOR_SIZE {
            return Err(Error::unsupported(
                "this version doesn't write a streamOptimized image of this form",
            ));
        }
        let header = new_stream::header(self.size_of_disk(), old.flags & flag::ZERO_GRAINS != 0);
        file.set_len(0)?;
        let stream = NewStream::create(file, header, text, None, flush)?;
        Ok(Box::new(stream))
    }
}
