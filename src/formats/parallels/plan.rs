//! The plan of a new Parallels image, whose options have been checked.

use std::sync::Arc;

use super::header::{LENGTH, MOST_ENTRIES, ParallelsHeader};
use super::table::AllocationTable;
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::formats::block_map::NewBlocks;
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::formats::new_image::start_with_zeroes;
use crate::units::SECTOR_SIZE;

/// The default cluster size in bytes.
const CLUSTER_SIZE: u64 = 1 << 20;
/// The limit of the cluster size in bytes, which must be less.
const TOO_LARGE: u64 = 1 << 31;

/// The plan of a new image.
pub(super) struct ParallelsPlan {
    header: ParallelsHeader,
}

impl ParallelsPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if the cluster size is out of range, or if the BAT can't map a disk of that size.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let asked = new.options.number("cluster_size").unwrap_or(CLUSTER_SIZE);
        let cluster_size = asked.checked_next_multiple_of(SECTOR_SIZE);
        let cluster_size = cluster_size.filter(|size| *size < TOO_LARGE);
        let cluster_size =
            cluster_size.ok_or_else(|| Error::invalid("Cluster size is too large"))?;
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let size = size.filter(|size| {
            let clusters = size.checked_div(cluster_size);
            clusters.is_some_and(|clusters| clusters < MOST_ENTRIES)
        });
        let size =
            size.ok_or_else(|| Error::invalid("Image size is too large for this cluster size"))?;
        Ok(Self {
            header: ParallelsHeader::new(size, cluster_size),
        })
    }
}

impl Plan for ParallelsPlan {
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let file = &parts.file;
        let end = self.header.stated_data_offset;
        start_with_zeroes(file.as_ref(), LENGTH, end)?;
        let table = AllocationTable::fresh(Arc::clone(file), self.header);
        let image = NewBlocks::new(table, parts.file, false, parts.flush);
        Ok(Box::new(image))
    }
}
