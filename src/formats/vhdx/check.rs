//! The check of the BAT: no block may be used twice, overlap with the metadata, or end beyond the end of the file.

use std::ops::Range;

use super::layout::HEADERS_END;
use super::regions::overlap;
use super::table::{BlockState, Places, VhdxTable};
use crate::error::Result;
use crate::formats::check::CheckEvent;

/// The findings of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TableState {
    /// The number of invalid entries.
    pub(super) corruptions: u64,
    /// The first finding about a block beyond the end of the file or in the metadata.
    pub(super) misplaced: Option<String>,
    /// The end of the last block in bytes, or 0 without blocks.
    pub(super) end: u64,
}

/// Checks every entry. Calls `on_event` with each finding, in QEMU's words where it has any. `length` is the length
/// of the file in bytes, and `log` the range of the log.
///
/// # Errors
/// Returns an error if the BAT can't be read.
pub(super) fn look_at(
    table: &VhdxTable,
    places: &Places,
    log: &Range<u64>,
    length: u64,
    on_event: &mut dyn FnMut(&CheckEvent<'_>),
) -> Result<TableState> {
    let regions = [
        0..HEADERS_END,
        log.clone(),
        places.regions.blocks.clone(),
        places.regions.metadata.clone(),
    ];
    let mut found = TableState::default();
    let mut stored = Vec::new();
    let mut misplaced = None;
    let mut wrong = |text: &str| {
        found.corruptions += 1;
        on_event(&text);
    };
    for block in 0..places.blocks() {
        let start = match table.state(block)? {
            BlockState::Zero => continue,
            BlockState::At(start) => start,
            BlockState::Invalid(state) => {
                // QEMU doesn't report this, and can't read the block.
                wrong(&format!(
                    "ERROR: VHDX BAT entry {} has state {state}",
                    places.index(block)
                ));
                continue;
            }
        };
        let end = places.stored_end(block, start);
        let entry = places.index(block);
        for text in misplacements(entry, &(start..end), length, &regions) {
            wrong(&text);
            misplaced.get_or_insert(text);
        }
        stored.push((start, end, entry));
    }
    stored.sort_unstable();
    for (one, other) in stored.iter().zip(stored.iter().skip(1)) {
        if one.1 > other.0 {
            wrong(&format!(
                "ERROR: VHDX BAT entries {} and {} lead to one block",
                one.2, other.2
            ));
        }
    }
    found.end = stored.last().map_or(0, |(_, end, _)| *end);
    found.misplaced = misplaced;
    Ok(found)
}

/// Returns the findings about a block that is beyond the end of the file, or in one of `regions`.
fn misplacements(
    entry: u64,
    block: &Range<u64>,
    length: u64,
    regions: &[Range<u64>],
) -> Vec<String> {
    let beyond = |what: &str, place: u64| {
        format!(
            "VHDX BAT entry {entry} {what} offset {place} points after end of file ({length}). Image has \
             probably been truncated."
        )
    };
    let mut found = Vec::new();
    if block.start >= length {
        found.push(beyond("start", block.start));
    } else if block.end > length {
        found.push(beyond("end", block.end.saturating_sub(1)));
    }
    let mut regions = regions.iter();
    let overlapped = regions.find(|region| block.start < region.end && region.start < block.end);
    found.extend(overlapped.map(|region| overlap(block, region).to_string()));
    found
}
