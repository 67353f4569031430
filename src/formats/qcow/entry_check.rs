//! The check before an image is written to: each entry must refer to a place of its own inside the file.
//!
//! `qemu-img` has no check of this format, so nothing is printed. But a write through an invalid entry could destroy
//! another cluster's data or a table.

use super::table::{ABSENT, QcowTable};
use crate::error::{ErrorKind, Result};
use crate::formats::block_map::{Block, ClusterSet};
use crate::units::SECTOR_SIZE;

/// Returns the number of entries that refer to a place outside the file or to one in use. A compressed cluster counts
/// only if it starts beyond the end of the file, since it is never written to in place.
///
/// # Errors
/// Returns an error if a table can't be read.
pub(super) fn wrong_entries(table: &QcowTable, length: u64) -> Result<u64> {
    let header = table.header();
    let shape = header.shape();
    let mut used = ClusterSet::default();
    let mut wrong = 0;
    if header.l1_end() > length {
        return Ok(1);
    }
    occupy(&mut used, 0, header.l1_end());
    for number in 0..shape.l1_entries {
        match table.tables().l2_offset(number) {
            Ok(None) => {}
            Ok(Some(offset)) => {
                wrong += u64::from(!occupy(&mut used, offset, shape.l2_length()));
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => wrong += 1,
            Err(error) => return Err(error),
        }
    }
    for number in 0..shape.l1_entries {
        if !matches!(table.tables().l2_offset(number), Ok(Some(_))) {
            continue;
        }
        let blocks = usize::try_from(shape.l2_entries).unwrap_or_default();
        for block in (number * shape.l2_entries..).take(blocks) {
            let entry = table.tables().get(block)?;
            if entry == ABSENT {
                continue;
            }
            let is_right = match table.place_of(block, entry) {
                Ok(Block::At(host)) => {
                    host.0 < length && occupy(&mut used, host.0, header.cluster_size())
                }
                Ok(Block::Compressed { host, .. }) => host.0 < length,
                Ok(Block::Absent | Block::Zero) => true,
                Err(_) => false,
            };
            wrong += u64::from(!is_right);
        }
    }
    Ok(wrong)
}

/// Records that bytes of the file are used, in sectors. Returns false if some were used already. A table may start
/// inside the sector in which the one before ends, so that sector isn't recorded.
fn occupy(used: &mut ClusterSet, offset: u64, length: u64) -> bool {
    let first = offset.div_ceil(SECTOR_SIZE);
    let end = offset.saturating_add(length).div_ceil(SECTOR_SIZE);
    used.insert_all(first..end) == 0
}
