//! The places of metadata and of compressed grains in the file of an extent, for pictures of it.

use std::ops::Range;

use super::check::TakenPlaces;
use super::grains::{EntryKind, Grain, GrainMap, MARKER_LENGTH};
use super::new_stream::{marker, marker_of};
use super::sparse_header;
use crate::error::Result;
use crate::formats::fields::u32_le;
use crate::storage::Storage;
use crate::units::{SECTOR_LEN, SECTOR_SIZE};

/// The number of bytes by which a stream and its marker may exceed a grain: no encoder adds more.
const MOST_ADDED: u64 = 1024;

/// Passes the byte ranges of an extent's metadata to `each`, without those of an embedded descriptor.
///
/// # Errors
/// Returns an error if the second grain directory, a marker or the footer can't be read.
pub(super) fn metadata(map: &GrainMap, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
    let layout = map.layout;
    let file = map.file.as_ref();
    // All other metadata of an SEsparse extent precedes the grains. The header of a COWD extent has several sectors.
    let header = match layout.kind {
        EntryKind::SeSparse { grains, .. } => grains,
        EntryKind::Sectors { .. } if layout.next_free.is_some() => layout.directory,
        EntryKind::Sectors { .. } => SECTOR_SIZE,
    };
    each(0..header);
    let places = TakenPlaces::of(map, &map.lock())?;
    for place in places.ranges() {
        let end = place.end.next_multiple_of(SECTOR_SIZE);
        let start = match has_marker(file, map, place)? {
            true => place.start - SECTOR_SIZE,
            false => place.start.max(header),
        };
        if start < end {
            each(start..end);
        }
    }
    if let Some(start) = sparse_header::footer_marker(file)? {
        each(start..file.len()?);
    }
    Ok(())
}

/// Returns true if the sector before a table is its marker. QEMU writes tables without markers.
fn has_marker(file: &dyn Storage, map: &GrainMap, place: &Range<u64>) -> Result<bool> {
    let EntryKind::Sectors { has_markers, .. } = map.layout.kind else {
        return Ok(false);
    };
    let before = place.start.checked_sub(SECTOR_SIZE);
    let Some(before) = before.filter(|before| has_markers && *before > 0) else {
        return Ok(false);
    };
    let mut sector = [0; SECTOR_LEN];
    file.read_padded_at(before, &mut sector, file.len()?)?;
    let sectors = (place.end - place.start).div_ceil(SECTOR_SIZE);
    let kinds = [marker::TABLE, marker::DIRECTORY];
    Ok(kinds.iter().any(|kind| sector == marker_of(sectors, *kind)))
}

/// Passes the byte ranges of an extent's compressed grains to `each`, with their markers.
///
/// # Errors
/// Returns an error if a grain table or the marker of a grain can't be read.
pub(super) fn compressed(map: &GrainMap, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
    let layout = map.layout;
    if !layout.is_compressed() {
        return Ok(());
    }
    for table in 0..layout.tables() {
        let first = table * layout.entries;
        let grains = first..(first + layout.entries).min(layout.grains());
        let mut hosts = Vec::new();
        let mut state = map.lock();
        if map.table(&mut state, table)?.is_none() {
            continue;
        }
        for grain in grains {
            if let Grain::At(host) = map.entry(&mut state, grain)? {
                hosts.push(host);
            }
        }
        hosts.sort_unstable();
        // A marker is read only where no other grain follows.
        let nexts = hosts.iter().skip(1).map(Some).chain([None]);
        for (host, next) in hosts.iter().zip(nexts) {
            let most = host.saturating_add(layout.grain + MOST_ADDED);
            let end = match next {
                Some(next) if *next <= most => *next,
                _ => end_of_grain(map, *host, most)?,
            };
            each(*host..end);
        }
    }
    Ok(())
}

/// Returns the end of the compressed grain at byte `host`, which is at most `most`.
fn end_of_grain(map: &GrainMap, host: u64, most: u64) -> Result<u64> {
    let length = map.file.len()?;
    let has_markers = matches!(
        map.layout.kind,
        EntryKind::Sectors {
            has_markers: true,
            ..
        }
    );
    if !has_markers {
        return Ok(most.min(length).max(host));
    }
    let mut marker = [0; MARKER_LENGTH];
    map.file.read_padded_at(host, &mut marker, length)?;
    let stream = u64::from(u32_le(&marker, 8));
    let end = host.saturating_add(MARKER_LENGTH as u64 + stream);
    let end = end.next_multiple_of(SECTOR_SIZE).min(most);
    Ok(end.min(length).max(host))
}
