//! The check of the tables, and their repair.
//!
//! Every entry must refer to a cluster of the file that nothing else uses. QEMU's check only counts the other
//! entries, and its repair clears those outside the file. This check reports each entry. The repair also copies a
//! cluster that is used twice, so that both owners keep their data.

use std::collections::BTreeMap;

use super::header::QedHeader;
use super::table::{ABSENT, QedTable, ZERO};
use crate::error::Result;
use crate::formats::block_map::{ClusterSet, copy_block};
use crate::formats::check::{CheckEvent, CheckReport};
use crate::storage::Storage;

/// An invalid entry of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WrongEntry {
    /// There can't be an L2 table at the offset in the L1 entry with this index.
    Table(u64),
    /// There can't be a cluster at the offset of this cluster of the disk.
    Cluster(u64),
    /// This cluster of the disk overlaps with something else.
    SharedCluster(u64),
}

/// The findings of a check of the tables.
#[derive(Debug, Default)]
pub(super) struct TableFindings {
    /// The counts.
    pub(super) report: CheckReport,
    /// The entries that can be repaired, with the host offset of the shared ones.
    pub(super) wrong: BTreeMap<WrongEntry, u64>,
}

/// The state of the check.
struct TableWalk<'a> {
    table: &'a QedTable,
    header: &'a QedHeader,
    /// The length of the file in bytes, rounded down to whole clusters.
    length: u64,
    used: ClusterSet,
    found: TableFindings,
    on_event: &'a mut dyn FnMut(&CheckEvent<'_>),
}

/// Checks every entry.
///
/// # Errors
/// Returns an error if a table can't be read.
pub(super) fn walk(
    table: &QedTable,
    file: &dyn Storage,
    on_event: &mut dyn FnMut(&CheckEvent<'_>),
) -> Result<TableFindings> {
    let header = table.header();
    let length = file.len()? / header.cluster_size * header.cluster_size;
    let mut walk = TableWalk {
        table,
        header,
        length,
        used: ClusterSet::default(),
        found: TableFindings::default(),
        on_event,
    };
    if walk.header_is_table() {
        walk.corruption("the L1 table lies over the header");
        walk.found.report.total_clusters = header.clusters();
        return Ok(walk.found);
    }
    walk.use_clusters(0, header.header_size, "the header");
    walk.use_clusters(header.l1_offset, header.table_size, "the L1 table");
    for number in 0..header.table_entries() {
        walk.l1_entry(number)?;
    }
    let report = &mut walk.found.report;
    report.total_clusters = header.clusters();
    report.leaks = (length / header.cluster_size).saturating_sub(walk.used.count());
    Ok(walk.found)
}

impl TableWalk<'_> {
    /// Returns true if the L1 table overlaps with the header, so that storing an entry would change the header. The
    /// header may have a length of 0 clusters.
    fn header_is_table(&self) -> bool {
        self.header.l1_offset < self.header.cluster_size * self.header.header_size.max(1)
    }

    fn corruption(&mut self, text: &str) {
        self.found.report.corruptions += 1;
        (self.on_event)(&format!("ERROR: {text}"));
    }

    /// Records that clusters of the file are used. Returns false if one of them was used already.
    fn use_clusters(&mut self, offset: u64, count: u64, what: &str) -> bool {
        let first = offset / self.header.cluster_size;
        let shared = self.used.insert_all(first..first + count);
        if shared > 0 {
            // Each cluster counts as a corruption.
            self.found.report.corruptions += shared - 1;
            self.corruption(&format!(
                "{what} at offset {offset:#x} is where something else is"
            ));
        }
        shared == 0
    }

    fn l1_entry(&mut self, number: u64) -> Result<()> {
        let offset = self.table.tables().l1_entry(number)?;
        if offset == ABSENT {
            return Ok(());
        }
        if !self.header.is_table_offset(offset, self.length) {
            self.corruption(&format!(
                "L1 entry {number} leads to offset {offset:#x}, where no table can be"
            ));
            self.found.wrong.insert(WrongEntry::Table(number), offset);
            return Ok(());
        }
        let what = format!("the L2 table of L1 entry {number}");
        if !self.use_clusters(offset, self.header.table_size, &what) {
            return Ok(());
        }
        let entries = self.header.table_entries();
        let mut last = None;
        for block in (number * entries..).take(usize::try_from(entries).unwrap_or_default()) {
            match self.table.tables().get(block)? {
                ABSENT | ZERO => {}
                entry => self.l2_entry(block, entry, &mut last),
            }
        }
        Ok(())
    }

    fn l2_entry(&mut self, block: u64, offset: u64, last: &mut Option<u64>) {
        let size = self.header.cluster_size;
        let report = &mut self.found.report;
        report.allocated_clusters += 1;
        let is_next = last.is_none_or(|last: u64| last.checked_add(size) == Some(offset));
        report.fragmented_clusters += u64::from(!is_next);
        *last = Some(offset);
        if !self.header.is_cluster_offset(offset, self.length) {
            self.corruption(&format!(
                "cluster {block} of the disk is at offset {offset:#x}, where none can be"
            ));
            self.found.wrong.insert(WrongEntry::Cluster(block), offset);
        } else if !self.use_clusters(offset, 1, &format!("cluster {block} of the disk")) {
            let entry = WrongEntry::SharedCluster(block);
            self.found.wrong.insert(entry, offset);
        }
    }
}

/// Repairs entries: clears those outside the file, and copies clusters that are used twice. Everything is on stable
/// storage afterwards.
///
/// # Errors
/// Returns the system's error.
pub(super) fn repair(
    table: &QedTable,
    file: &dyn Storage,
    wrong: &BTreeMap<WrongEntry, u64>,
) -> Result<()> {
    for (entry, offset) in wrong {
        match *entry {
            WrongEntry::Table(number) => table.tables().set_l1(number, ABSENT)?,
            WrongEntry::Cluster(block) => table.tables().set(block, ABSENT)?,
            WrongEntry::SharedCluster(block) => {
                let copy = table.take_cluster()?;
                copy_block(file, *offset, copy, table.header().cluster_size)?;
                // The copies are flushed first, so that no entry refers to unwritten data.
                file.flush()?;
                table.tables().set(block, copy)?;
            }
        }
    }
    table.tables().store(true)?;
    file.flush()
}
