//! The plan of a new QED image, whose options have been checked.

use std::sync::Arc;

use super::header::{LENGTH, QedHeader, is_cluster_size, is_table_size, longest_new_disk};
use super::table::QedTable;
use crate::error::{Error, Result};
use crate::formats::block_map::NewBlocks;
use crate::formats::driver::{Backing, NewDisk, NewParts, Plan};
use crate::formats::new_image::start_with_zeroes;
use crate::formats::{NewImage, foreign};
use crate::options::values::not_accepted;
use crate::units::SECTOR_SIZE;

/// The default cluster size in bytes.
const CLUSTER_SIZE: u64 = 65536;
/// The default length of a table in clusters.
const TABLE_SIZE: u64 = 4;

/// The plan of a new image.
pub(super) struct QedPlan {
    header: QedHeader,
    /// The size of the backing file's disk in bytes.
    backing_size: Option<u64>,
}

impl QedPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if options are out of range, or if the format doesn't support a disk of that size.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        if let Some(format) = new.options.text("backing_fmt")
            && !foreign::QEMU_DRIVERS.contains(&format)
        {
            return Err(not_accepted("backing-fmt", format));
        }
        let backing = Backing::of(new.options)?;
        let size_of = |name, default| new.options.number(name).unwrap_or(default);
        let cluster_size = size_of("cluster_size", CLUSTER_SIZE);
        let table_size = size_of("table_size", TABLE_SIZE);
        if !is_cluster_size(cluster_size) {
            return Err(Error::invalid(
                "QED cluster size must be within range [4096, 67108864] and power of 2",
            ));
        }
        if !is_table_size(table_size) {
            return Err(Error::invalid(
                "QED table size must be within range [1, 16] and power of 2",
            ));
        }
        let longest = longest_new_disk(cluster_size, table_size);
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let fits = |size: &u64| *size <= longest && i64::try_from(*size).is_ok();
        let Some(size) = size.filter(fits) else {
            return Err(Error::invalid(format!(
                "QED image size must be a non-zero multiple of cluster size and less than {longest} \
                 bytes"
            )));
        };
        let is_raw = backing.as_ref().is_some_and(is_raw);
        let name = backing.as_ref().map(|backing| &*backing.name);
        let offset = u32::try_from(LENGTH).unwrap_or_default();
        let header = QedHeader::new(size, cluster_size, table_size);
        Ok(Self {
            header: header.with_backing(name, is_raw, offset),
            backing_size: backing.map(|_| new.backing_size.unwrap_or(u64::MAX)),
        })
    }
}

/// Returns true if a backing file's format is raw, which is all that the header stores of it.
pub(super) fn is_raw(backing: &Backing) -> bool {
    backing.format.as_deref() == Some("raw")
}

impl Plan for QedPlan {
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let file = &parts.file;
        let end = self.header.l1_offset + self.header.table_length();
        start_with_zeroes(file.as_ref(), LENGTH, end)?;
        let table = QedTable::fresh(Arc::clone(file), self.header.clone());
        let image = NewBlocks::new(table, parts.file, false, parts.flush);
        Ok(Box::new(image.with_backing(self.backing_size)))
    }
}
