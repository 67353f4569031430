//! The repair of an extent's grain tables, with those of the second grain directory.
//!
//! An entry may refer to a grain beyond the end of the file. It is replaced by that of the second grain table, if the
//! grain of that entry isn't used otherwise. Else the grain becomes unallocated, since nothing of it is in the file.
//! A grain table beyond the end is replaced by the second one. Without one it stays, since all of its grains may be
//! in the file. Two references to one grain also stay, since nothing says which is right.

use std::collections::HashSet;

use byteorder::{ByteOrder as _, LittleEndian};

use super::check::{self, Damage, TakenPlaces};
use super::grains::{EntryKind, Grain, GrainMap, GrainTableState};
use crate::error::{Error, Result};
use crate::formats::block_map::BlockAllocator as _;
use crate::formats::check::CheckEvent;
use crate::units::SECTOR_SIZE;

/// Repairs the findings, and returns the number of repairs.
///
/// # Errors
/// Returns the system's error. Returns an error if there is no space for a grain table.
pub(super) fn repair(
    map: &GrainMap,
    found: &Damage,
    on_event: &mut dyn FnMut(&CheckEvent<'_>),
) -> Result<u64> {
    let is_plain = matches!(
        map.layout.kind,
        EntryKind::Sectors {
            is_compressed: false,
            ..
        }
    );
    if !is_plain || (found.lost_tables.is_empty() && found.lost_grains.is_empty()) {
        return Ok(0);
    }
    map.find_space(true)?;
    let mut fixed = 0;
    for table in &found.lost_tables {
        let mut state = map.lock();
        let index = usize::try_from(*table).unwrap_or(usize::MAX);
        let Some(bytes) = second_table(map, &state, index)? else {
            continue;
        };
        map.replace_table(&mut state, *table, bytes)?;
        on_event(&format!(
            "Repairing grain table {table} from the second directory"
        ));
        fixed += 1;
    }
    let taken = TakenPlaces::of(map, &map.lock())?;
    let mut used = used(map)?;
    for grain in &found.lost_grains {
        let mut state = map.lock();
        let sector = grain * (map.layout.grain / SECTOR_SIZE);
        let place = second_entry(map, &state, *grain)?.filter(|place| {
            let range = *place..place.saturating_add(map.stored_length(*grain));
            range.end <= map.file_length(&state) && !taken.overlap(&range) && used.insert(*place)
        });
        let entry = place.and_then(|place| u32::try_from(place / SECTOR_SIZE).ok());
        map.set_entry(&mut state, *grain, entry.unwrap_or(0))?;
        on_event(&match entry {
            Some(_) => format!("Repairing the grain of sector {sector} from the second directory"),
            None => format!("Repairing the grain of sector {sector}, which the file hasn't got"),
        });
        fixed += 1;
    }
    map.file.flush()?;
    map.commit()?;
    map.file.flush()?;
    Ok(fixed)
}

/// Checks an extent again after a repair, and returns the number of corruptions that are left.
///
/// # Errors
/// Returns the errors of [`check::find`].
pub(super) fn left_over(map: &GrainMap) -> Result<u64> {
    Ok(check::find(map, &mut |_| {})?.corruptions)
}

/// Returns the bytes of the second grain table with an index, if it is in the file.
fn second_table(map: &GrainMap, state: &GrainTableState, index: usize) -> Result<Option<Vec<u8>>> {
    let place = state.second.get(index).copied().unwrap_or(0);
    let length = map.layout.table_length();
    if place == 0 || place.saturating_add(length) > map.file_length(state) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    map.file.read_exact_at(place, &mut bytes, "a grain table")?;
    Ok(Some(bytes))
}

/// Returns the offset of a grain according to its second grain table, in bytes.
fn second_entry(map: &GrainMap, state: &GrainTableState, grain: u64) -> Result<Option<u64>> {
    let index = usize::try_from(grain / map.layout.entries).unwrap_or(usize::MAX);
    let Some(bytes) = second_table(map, state, index)? else {
        return Ok(None);
    };
    let at = usize::try_from(grain % map.layout.entries * 4).unwrap_or(usize::MAX);
    let entry = bytes
        .get(at..at.saturating_add(4))
        .map(LittleEndian::read_u32);
    let sector = entry.ok_or_else(|| Error::invalid("a grain table is too short"))?;
    Ok((sector > 1).then(|| u64::from(sector) * SECTOR_SIZE))
}

/// Returns the offsets of all grains, in bytes.
fn used(map: &GrainMap) -> Result<HashSet<u64>> {
    let mut used = HashSet::new();
    let mut state = map.lock();
    for grain in 0..map.layout.grains() {
        if let Grain::At(host) = map.entry(&mut state, grain)? {
            used.insert(host);
        }
    }
    Ok(used)
}
