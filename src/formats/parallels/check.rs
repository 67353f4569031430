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

/// The state of the check.
struct BatWalk<'a> {
    header: &'a ParallelsHeader,
    words: FindingWords,
    /// The length of the file in bytes.
    length: u64,
    /// The offset of the clusters in bytes.
    start: u64,
    /// The end of the last cluster in bytes.
    end: u64,
    used: ClusterSet,
    /// The offset of the cluster in the entry before, if it has one.
    last: Option<u64>,
    found: BatFindings,
    on_event: &'a mut dyn FnMut(&CheckEvent<'_>),
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
    let header = table.header();
    let length = file.len()?;
    let (start, is_stated) = header.data_offset(length);
    let mut walk = BatWalk {
        header,
        words,
        length,
        start,
        end: start,
        used: ClusterSet::default(),
        last: None,
        found: BatFindings::default(),
        on_event,
    };
    if header.is_in_use {
        walk.corruption("image was not closed correctly");
    }
    if !is_stated {
        walk.corruption("data_off field has incorrect value");
        walk.found.data_offset = Some(start);
    }
    if let Some(extension) = extension {
        for place in std::iter::once(header.extension).chain(extension.clusters()) {
            walk.occupy(place);
        }
    }
    for block in 0..u64::from(header.entries) {
        match table.stated(block)? {
            0 => walk.last = None,
            host => walk.entry(block, host),
        }
    }
    walk.found.report.total_clusters = header.entries.into();
    walk.found.report.image_end_offset = walk.end;
    walk.space_at_end();
    Ok(walk.found)
}

impl BatWalk<'_> {
    fn corruption(&mut self, text: &str) {
        self.found.report.corruptions += 1;
        (self.on_event)(&format!("{} {text}", self.words.corruption));
    }

    /// Checks the entry of a cluster of the disk, which is at `host`.
    fn entry(&mut self, block: u64, host: u64) {
        let size = self.header.cluster_size;
        if host < self.start || host >= self.length {
            self.corruption(&format!("cluster {block} is outside image"));
            // A readable cluster is kept, since the data offset may be wrong instead.
            let is_readable = host >= self.header.table_end() && host < self.length;
            let list = match is_readable {
                true => &mut self.found.shared,
                false => &mut self.found.outside,
            };
            list.push(block);
            return;
        }
        let report = &mut self.found.report;
        report.allocated_clusters += 1;
        let is_next = self.last.is_none_or(|last| last + size == host);
        report.fragmented_clusters += u64::from(!is_next);
        self.last = Some(host);
        let rest = self.header.size.saturating_sub(block * size).min(size);
        if host + rest > self.length {
            // QEMU reports it as outside the image.
            (self.on_event)(&format!(
                "ERROR cluster {block} is cut off by the end of the file"
            ));
            report.corruptions += 1;
            self.found.cut += 1;
        }
        if !self.occupy(host) {
            self.corruption(&format!("duplicate offset in BAT entry {block}"));
            self.found.shared.push(block);
        }
    }

    /// Records that a cluster of the file is used. Returns false if a part of it was used already.
    fn occupy(&mut self, host: u64) -> bool {
        let size = self.header.cluster_size;
        self.end = self.end.max(host + size);
        let unit = self.header.entry_unit();
        let first = host / unit;
        self.used
            .insert_all(first..first.saturating_add(size / unit))
            == 0
    }

    /// Reports the space of the file after the last cluster.
    fn space_at_end(&mut self) {
        let length = self.length.next_multiple_of(SECTOR_SIZE);
        if length > self.end {
            let leaked = length - self.end;
            (self.on_event)(&format!(
                "{} space leaked at the end of the image {leaked}",
                self.words.leak
            ));
            self.found.report.leaks = leaked.div_ceil(self.header.cluster_size);
        }
    }
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
