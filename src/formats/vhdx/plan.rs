//! The plan of a new VHDX image, whose options have been checked.

use std::sync::Arc;

use super::header::VhdxHeader;
use super::layout::{HEADERS_END, MIB};
use super::metadata::{DiskMetadata, LONGEST, LONGEST_BLOCK};
use super::regions::Regions;
use super::table::{Places, VhdxTable, ZERO};
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::formats::block_map::NewBlocks;
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::formats::zeroes::make_zero;
use crate::options::values::not_accepted;
use crate::units::SECTOR_SIZE;

/// The default length of the log in bytes.
const LOG_LENGTH: u64 = MIB;
/// The space from the BAT to the first block in bytes, of which the metadata has a fifth.
const ROOM: u64 = 5 * MIB;

/// The plan of a new image.
pub(super) struct VhdxPlan {
    places: Places,
    log_length: u32,
    data_offset: u64,
    /// The state of blocks that aren't allocated.
    state: u64,
}

impl VhdxPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if the format doesn't support a disk of that size, or if options are out of range.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let is_fixed = match new.options.text("subformat") {
            None | Some("dynamic") => false,
            Some("fixed") => true,
            Some(other) => return Err(not_accepted("subformat", other)),
        };
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let size = size.unwrap_or(u64::MAX);
        if size > LONGEST {
            return Err(Error::invalid("Image size too large; max of 64TB"));
        }
        let log = new.options.number("log_size").unwrap_or(LOG_LENGTH);
        if log == 0 {
            return Err(Error::invalid("Log size must be a multiple of 1 MB"));
        }
        let log = log.checked_next_multiple_of(MIB);
        let log_length = log.and_then(|log| u32::try_from(log).ok());
        let log_length =
            log_length.ok_or_else(|| Error::invalid("Log size must be smaller than 4 GB"))?;
        let block_size = match new.options.number("block_size").unwrap_or(0) {
            0 => block_size_for(size),
            given => given
                .checked_next_multiple_of(MIB)
                .unwrap_or(u64::MAX)
                .min(LONGEST_BLOCK),
        };
        if !block_size.is_power_of_two() {
            return Err(Error::invalid("Block size must be a power of two"));
        }
        let state = match new.options.switch("block_state_zero") {
            Some(false) => 0,
            _ => ZERO,
        };
        let log_end = HEADERS_END + u64::from(log_length);
        let disk = DiskMetadata {
            size,
            block_size,
            is_fixed,
            locator: None,
        };
        let mut places = Places {
            disk,
            regions: Regions {
                blocks: log_end..log_end,
                metadata: 0..0,
            },
            log_end,
        };
        let table_end = log_end + places.new_table_length().next_multiple_of(MIB);
        places.regions = Regions {
            blocks: log_end..table_end,
            metadata: table_end..table_end + MIB,
        };
        Ok(Self {
            places,
            log_length,
            data_offset: table_end + ROOM,
            state,
        })
    }
}

/// Returns QEMU's block size for a disk of `size` bytes.
fn block_size_for(size: u64) -> u64 {
    if size > 32 << 40 {
        64 * MIB
    } else if size > 100 << 30 {
        32 * MIB
    } else if size > 1 << 30 {
        16 * MIB
    } else {
        8 * MIB
    }
}

impl Plan for VhdxPlan {
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let file = parts.file;
        // A device may have an older image, whose structures must not be used with the new data, and whose log must
        // not be replayed.
        if !file.starts_as_zeroes() {
            make_zero(file.as_ref(), 0..self.data_offset)?;
        }
        let header = VhdxHeader::new(HEADERS_END, self.log_length);
        let table = VhdxTable::new(
            Arc::clone(&file),
            self.places.clone(),
            header,
            self.data_offset,
            self.state,
        );
        let is_fixed = self.places.disk.is_fixed;
        Ok(Box::new(NewBlocks::new(table, file, is_fixed, parts.flush)))
    }
}
