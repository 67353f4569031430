//! The check of a block map: no block may be used twice, or be beyond the end of the disk or of the file. The
//! header's count must be correct.

use super::map::{BlockMap, Entry};
use crate::error::Result;
use crate::formats::block_map::ClusterSet;
use crate::formats::check::{CheckEvent, CheckReport};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    /// The number of invalid entries and of an invalid place of the block map.
    pub(super) corruptions: u64,
    /// True if the header's number of allocated blocks is wrong, which is harmless for programs that don't use it.
    pub(super) is_miscounted: bool,
    /// The number of allocated blocks.
    pub(super) allocated: u32,
}

impl Count {
    /// Returns the result as a report.
    pub(super) fn report(&self) -> CheckReport {
        CheckReport {
            corruptions: self.corruptions + u64::from(self.is_miscounted),
            ..CheckReport::default()
        }
    }
}

/// Checks every entry. Calls `on_event` with each finding, in QEMU's words.
///
/// # Errors
/// Returns an error if the block map can't be read.
pub(super) fn count(map: &BlockMap, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<Count> {
    let header = map.header();
    let end = map.file().len()?;
    let mut used = ClusterSet::default();
    let mut found = Count::default();
    let mut wrong = |corruptions: &mut u64, text: String| {
        *corruptions += 1;
        on_event(&text);
    };
    if header.overlaps() {
        // QEMU doesn't check this, and would overwrite the block map with a block.
        let text = "ERROR: block map overlaps the header or the blocks".to_owned();
        wrong(&mut found.corruptions, text);
    }
    for block in 0..header.blocks {
        let Entry::At(index) = map.entry(block)? else {
            continue;
        };
        if index >= header.blocks {
            let text = format!("ERROR: block index {block} too large, is {index}");
            wrong(&mut found.corruptions, text);
            continue;
        }
        found.allocated += 1;
        if map.stored_end(block, index) > end {
            // QEMU doesn't check this, and reads zeroes.
            let text = format!("ERROR: block index {block} points after the end of the file");
            wrong(&mut found.corruptions, text);
        }
        if !used.insert(index.into()) {
            let text = format!("ERROR: block index {index} also used by {index}");
            wrong(&mut found.corruptions, text);
        }
    }
    if found.allocated != header.allocated {
        let text = format!(
            "ERROR: allocated blocks mismatch, is {}, should be {}",
            found.allocated, header.allocated
        );
        on_event(&text);
        found.is_miscounted = true;
    }
    Ok(found)
}
