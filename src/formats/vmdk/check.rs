//! The check of an extent's grain tables: no grain may be beyond the end of the file, overlap with the tables, or be
//! used twice.
//!
//! QEMU stops at the first grain beyond the end, and checks nothing else.

use std::ops::Range;

use super::grains::{Grain, GrainMap, GrainTableState, read_directory};
use crate::error::Result;
use crate::formats::check::CheckEvent;
use crate::units::SECTOR_SIZE;

/// The findings of a check.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// The number of invalid entries and of invalid places of tables.
    pub(super) corruptions: u64,
    /// The indexes of the grain tables that are beyond the end of the file.
    pub(super) lost_tables: Vec<u64>,
    /// The indexes of the grains that are beyond the end of the file.
    pub(super) lost_grains: Vec<u64>,
}

/// Checks every entry. Calls `on_event` with each finding.
///
/// # Errors
/// Returns an error if a grain directory or a grain table can't be read.
pub(super) fn find(map: &GrainMap, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<Damage> {
    let mut found = Damage::default();
    let mut wrong = |corruptions: &mut u64, text: String| {
        *corruptions += 1;
        on_event(&text);
    };
    let layout = map.layout;
    let mut state = map.lock();
    let end = map.file_length(&state);
    let taken = TakenPlaces::of(map, &state)?;
    let mut used = Vec::new();
    for table in 0..layout.tables() {
        if !is_table_inside(map, &state, table) {
            let text = format!("ERROR: grain table {table} is beyond the end of the file");
            wrong(&mut found.corruptions, text);
            found.lost_tables.push(table);
            continue;
        }
        if map.table(&mut state, table)?.is_none() {
            continue;
        }
        let first = table * layout.entries;
        for grain in first..(first + layout.entries).min(layout.grains()) {
            let Grain::At(host) = map.entry(&mut state, grain)? else {
                continue;
            };
            let sector = grain * (layout.grain / SECTOR_SIZE);
            let place = host..host.saturating_add(map.stored_length(grain));
            if place.end > end {
                let text = format!("ERROR: cluster offset for sector {sector} points after EOF");
                wrong(&mut found.corruptions, text);
                found.lost_grains.push(grain);
            } else if taken.overlap(&place) {
                let text = format!(
                    "ERROR: the grain of sector {sector} lies over the header or the tables"
                );
                wrong(&mut found.corruptions, text);
            } else {
                used.push(host);
            }
        }
    }
    if taken.overlap_each_other() {
        let text = "ERROR: the header and the tables lie over each other".to_owned();
        wrong(&mut found.corruptions, text);
    }
    used.sort_unstable();
    let length = map.stored_length(0);
    for pair in used.windows(2) {
        if let [one, other] = pair
            && other - one < length
        {
            let text =
                format!("ERROR: the grain at offset {other:#x} is used by more than one sector");
            wrong(&mut found.corruptions, text);
        }
    }
    Ok(found)
}

/// Returns true if a grain table isn't allocated, or is inside the file.
fn is_table_inside(map: &GrainMap, state: &GrainTableState, table: u64) -> bool {
    let index = usize::try_from(table).unwrap_or(usize::MAX);
    let place = state.directory.get(index).copied().unwrap_or(0);
    place == 0 || place.saturating_add(map.layout.table_length()) <= map.file_length(state)
}

/// The ranges of the header, the grain directories and the grain tables, in bytes of the file.
pub(super) struct TakenPlaces(Vec<Range<u64>>);

impl TakenPlaces {
    /// Returns the ranges in the file of `map`.
    ///
    /// # Errors
    /// Returns an error if the second grain directory can't be read.
    pub(super) fn of(map: &GrainMap, state: &GrainTableState) -> Result<Self> {
        let layout = map.layout;
        let end = map.file_length(state);
        let length = layout.tables() * layout.entry_length();
        let table = |start: &u64| *start..start.saturating_add(layout.table_length());
        let whole = |start: u64| start..start.saturating_add(length);
        let mut places = vec![0..SECTOR_SIZE, whole(layout.directory)];
        places.extend(
            state
                .directory
                .iter()
                .filter(|start| **start > 0)
                .map(table),
        );
        if let Some(start) = layout.second_directory {
            let second = read_directory(map.file.as_ref(), &layout, start, map.file.len()?)?;
            places.push(whole(start));
            places.extend(second.iter().filter(|start| **start > 0).map(table));
        }
        // Ranges beyond the end of the file don't overlap with any grain.
        places.retain(|place| !place.is_empty() && place.end <= end);
        places.sort_by_key(|place| place.start);
        Ok(Self(places))
    }

    /// Returns the ranges, sorted by their start.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    fn overlap_each_other(&self) -> bool {
        let mut pairs = self.0.windows(2);
        pairs.any(|pair| matches!(pair, [one, other] if one.end > other.start))
    }

    /// Returns true if one of the ranges overlaps with `range`.
    pub(super) fn overlap(&self, range: &Range<u64>) -> bool {
        // The ranges are disjoint, so only the last one that starts before the end of `range` can overlap with it.
        let next = self.0.partition_point(|place| place.start < range.end);
        let last = next.checked_sub(1).and_then(|last| self.0.get(last));
        last.is_some_and(|place| place.end > range.start)
    }
}
