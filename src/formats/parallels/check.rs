//! The check of the BAT, and its repair.
//!
//! No cluster may be used twice, overlap with the BAT, or be beyond the end of the file. QEMU's check aborts at a
//! cluster beyond the end. QEMU's repair drops a cluster that is before the header's data offset, whereas this one
//! copies it. A truncated cluster still has some of its data, so it isn't dropped.

use super::extension::FormatExtension;
use super::header::ParallelsHeader;
use super::table::AllocationTable;
use crate::error::Result;
use crate::formats::block_map::{BlockAllocator as _, ClusterSet, copy_block};
use crate::formats::check::{CheckEvent, CheckReport};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The words at the start of a finding.
#[derive(Debug, Clone, Copy)]
pub(super) struct FindingWords {
    /// The word for a corruption.
    pub(super) corruption: &'static str,
    /// The word for a leak.
    pub(super) leak: &'static str,
}

impl FindingWords {
    /// The words of a check.
    pub(super) const ERRORS: Self = Self {
        corruption: "ERROR",
        leak: "ERROR",
    };
    /// The words of a repair.
    pub(super) const REPAIRS: Self = Self {
        corruption: "Repairing",
        leak: "Repairing",
    };
}

/// The findings of a check of the BAT.
#[derive(Debug, Default)]
pub(super) struct BatFindings {
    /// The counts.
    pub(super) report: CheckReport,
    /// The clusters of the disk whose entries are outside the file.
    pub(super) outside: Vec<u64>,
    /// The clusters of the disk that overlap with another one, or are before the data offset.
    pub(super) shared: Vec<u64>,
    /// The correct data offset in bytes, if that in the header is wrong.
    pub(super) data_offset: Option<u64>,
    /// The number of clusters of the disk that the end of the file truncates.
    cut: u64,
}

impl BatFindings {
    /// Returns the number of findings that prevent writing: all except for the mark of an image in use.
    pub(super) fn damages(&self) -> u64 {
        let count = self.outside.len() + self.shared.len();
        count as u64 + self.cut + u64::from(self.data_offset.is_some())
    }
}

/// Checks every entry. Calls `on_event` with each finding, in QEMU's words, which start with `words`.
///
/// # Errors
/// Returns an error if the BAT can't be read.
pub(super) fn walk(
    table: &AllocationTable,
    extension: Option<&FormatExtension>,
    file: &dyn Storage,
    words: FindingWords,
    on_event: &mut dyn FnMut(&CheckEvent<'_>),
) -> Result<BatFindings> {
    let said = words.corruption;
    let header = table.header();
    let length = file.len()?;
    let mut found = BatFindings::default();
    if header.is_in_use {
        on_event(&format!("{said} image was not closed correctly"));
        found.report.corruptions += 1;
    }
    let (start, is_stated) = header.data_offset(length);
    if !is_stated {
        on_event(&format!("{said} data_off field has incorrect value"));
        found.report.corruptions += 1;
        found.data_offset = Some(start);
    }
    let size = header.cluster_size;
    let mut used = ClusterSet::default();
    let mut end = start;
    if let Some(extension) = extension {
        for place in std::iter::once(header.extension).chain(extension.clusters()) {
            occupy(&mut used, header, place);
            end = end.max(place + size);
        }
    }
    let mut last = None;
    for block in 0..u64::from(header.entries) {
        let host = table.stated(block)?;
        if host == 0 {
            last = None;
            continue;
        }
        let report = &mut found.report;
        let rest = header.size.saturating_sub(block * size).min(size);
        if host < start || host >= length {
            on_event(&format!("{said} cluster {block} is outside image"));
            report.corruptions += 1;
            // A readable cluster is kept, since the data offset may be wrong instead.
            let is_readable = host >= header.table_end() && host < length;
            let list = match is_readable {
                true => &mut found.shared,
                false => &mut found.outside,
            };
            list.push(block);
            continue;
        }
        report.allocated_clusters += 1;
        let is_next = last.is_none_or(|last: u64| last + size == host);
        report.fragmented_clusters += u64::from(!is_next);
        last = Some(host);
        end = end.max(host + size);
        if host + rest > length {
            // QEMU reports it as outside the image.
            on_event(&format!(
                "ERROR cluster {block} is cut off by the end of the file"
            ));
            report.corruptions += 1;
            found.cut += 1;
        }
        if !occupy(&mut used, header, host) {
            on_event(&format!("{said} duplicate offset in BAT entry {block}"));
            report.corruptions += 1;
            found.shared.push(block);
        }
    }
    let report = &mut found.report;
    report.total_clusters = header.entries.into();
    report.image_end_offset = end;
    let length = length.next_multiple_of(SECTOR_SIZE);
    if length > end {
        let leaked = length - end;
        on_event(&format!(
            "{} space leaked at the end of the image {leaked}",
            words.leak
        ));
        report.leaks = leaked.div_ceil(size);
    }
    Ok(found)
}

/// Records that a cluster of the file is used. Returns false if a part of it was used already.
fn occupy(used: &mut ClusterSet, header: &ParallelsHeader, host: u64) -> bool {
    let unit = header.entry_unit();
    let first = host / unit;
    let end = first.saturating_add(header.cluster_size / unit);
    used.insert_all(first..end) == 0
}

/// Repairs the findings: clears entries outside the file, copies clusters that are used twice, and corrects the data
/// offset in the header. Everything is on stable storage afterwards.
///
/// # Errors
/// Returns the system's error.
pub(super) fn repair(
    table: &AllocationTable,
    file: &dyn Storage,
    found: &BatFindings,
) -> Result<u64> {
    let header = table.header();
    for block in &found.outside {
        table.deallocate(*block)?;
    }
    for block in &found.shared {
        let from = table.stated(*block)?;
        let to = table.take_cluster()?;
        copy_block(file, from, to, header.cluster_size)?;
        // The copies are flushed first, so that no entry refers to unwritten data.
        file.flush()?;
        table.refer(*block, to)?;
    }
    table.commit()?;
    if let Some(offset) = found.data_offset {
        ParallelsHeader::write_data_offset(file, offset)?;
    }
    file.flush()?;
    Ok(found.damages() - found.cut)
}
