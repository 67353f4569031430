//! The check of an extent's tables: no grain may be beyond the end of the file, over the tables, or used twice.
//!
//! QEMU stops at the first grain beyond the end, and looks at nothing else.

use std::ops::Range;

use super::grains::{Grain, GrainMap, read_directory};
use crate::error::Result;
use crate::formats::check::CheckEvent;
use crate::units::SECTOR_SIZE;

/// Looks at every entry, and says what is wrong. Returns the number of findings.
///
/// # Errors
/// Returns an error if a directory or a table can't be read.
pub(super) fn count(map: &GrainMap, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<u64> {
    let mut corruptions = 0;
    let mut wrong = |text: String| {
        corruptions += 1;
        on_event(&text);
    };
    let layout = map.layout;
    let mut state = map.lock();
    let end = map.file_length(&state);
    let taken = TakenPlaces::of(map, &state.directory)?;
    let mut used = Vec::new();
    for table in 0..layout.tables() {
        if map.table(&mut state, table)?.is_none() {
            continue;
        }
        let first = table * layout.entries;
        for grain in first..(first + layout.entries).min(layout.grains()) {
            let Grain::At(host) = map.entry(&mut state, grain)? else {
                continue;
            };
            let sector = grain * (layout.grain / SECTOR_SIZE);
            let needed = match layout.is_compressed() {
                true => 1,
                false => (layout.size - grain * layout.grain).min(layout.grain),
            };
            if host.saturating_add(needed) > end {
                wrong(format!(
                    "ERROR: cluster offset for sector {sector} points after EOF"
                ));
            } else if taken.overlap(host..host + needed) {
                wrong(format!(
                    "ERROR: the grain of sector {sector} lies over the header or the tables"
                ));
            } else {
                used.push(host);
            }
        }
    }
    if taken.overlap_each_other() {
        wrong("ERROR: the header and the tables lie over each other".into());
    }
    used.sort_unstable();
    let length = match layout.is_compressed() {
        true => 1,
        false => layout.grain,
    };
    for pair in used.windows(2) {
        if let [one, other] = pair
            && other - one < length
        {
            wrong(format!(
                "ERROR: the grain at offset {other:#x} is used by more than one sector"
            ));
        }
    }
    Ok(corruptions)
}

/// The places of the header, the directories and the tables, in bytes.
struct TakenPlaces(Vec<Range<u64>>);

impl TakenPlaces {
    fn of(map: &GrainMap, directory: &[u64]) -> Result<Self> {
        let layout = map.layout;
        let length = layout.tables() * layout.entry_length();
        let table = |start: &u64| *start..start.saturating_add(layout.table_length());
        let whole = |start: u64| start..start.saturating_add(length);
        let mut places = vec![0..SECTOR_SIZE, whole(layout.directory)];
        places.extend(directory.iter().filter(|start| **start > 0).map(table));
        if let Some(start) = layout.second_directory {
            let end = map.file.len()?;
            let second = read_directory(map.file.as_ref(), &layout, start, end)?;
            places.push(whole(start));
            places.extend(second.iter().filter(|start| **start > 0).map(table));
        }
        places.retain(|place| !place.is_empty());
        places.sort_by_key(|place| place.start);
        Ok(Self(places))
    }

    fn overlap_each_other(&self) -> bool {
        let mut pairs = self.0.windows(2);
        pairs.any(|pair| matches!(pair, [one, other] if one.end > other.start))
    }

    fn overlap(&self, range: Range<u64>) -> bool {
        // The places don't overlap each other, so that the last one which starts before the range's end tells.
        let next = self.0.partition_point(|place| place.start < range.end);
        let last = next.checked_sub(1).and_then(|last| self.0.get(last));
        last.is_some_and(|place| place.end > range.start)
    }
}
