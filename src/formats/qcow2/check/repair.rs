//! The check itself, and the repair of its findings.
//!
//! A repair makes the stored refcounts and the COPIED flags agree with the counted references. Its order ensures that
//! a power cut never leaves the image worse than before, so that it can be repeated:
//!
//! 1. Entries at invalid offsets that read as zeroes become plain zero clusters. An incomplete snapshot table is
//!    rewritten ([`snapshot_table`]).
//! 2. Refcounts that are too low are raised.
//! 3. When all of that is on stable storage, refcounts that are too high are lowered.
//! 4. The COPIED flags are corrected.
//! 5. If no error is left, the header's dirty and corrupt bits are cleared.
//!
//! If the refcount structures can't be repaired, they are rebuilt; see [`rebuild`]. Everything else is reported and
//! left unchanged: if two owners share a cluster, nothing says which is the right one. Tables that overlap with
//! another structure are never written to.
//!
//! [`rebuild`]: mod@super::rebuild
//! [`snapshot_table`]: mod@super::snapshot_table

use std::borrow::Cow;

use super::finding::{EntryPlace, Event, Finding, Problem};
use super::rebuild::Rebuilt;
use super::walk::{Walk, Walked};
use crate::error::{Error, Result};
use crate::formats::check::{CheckReport, Repair};
use crate::formats::qcow2::entries::{L2Entry, set_refcount};
use crate::formats::qcow2::header::features;
use crate::formats::qcow2::header::fields::{AUTOCLEAR_FIELD, INCOMPATIBLE_FIELD};
use crate::formats::qcow2::header::{Header, Version};
use crate::storage::Storage;
use crate::units::HostOffset;

/// Checks an image and repairs it.
///
/// The report has the remaining findings and the numbers of repaired ones. The caller should check an image that was
/// changed again.
///
/// # Errors
/// Returns an error as [`check`](super::check()) does, or the system's error if a write fails. With
/// [`Repair::Leaks`], returns an error if the refcount structures have to be rebuilt.
pub fn repair(
    storage: &dyn Storage,
    header: &Header,
    what: Repair,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<CheckReport> {
    Work::new(storage, header, Some(what), on_event).run()
}

/// Repairs an image that wasn't closed properly, so that it can be written to: corrects its refcounts and clears its
/// dirty bit.
///
/// # Errors
/// Returns an error as [`repair`] does. Returns an error if unrepairable damage is left; the dirty bit stays set
/// then.
pub fn repair_dirty(storage: &dyn Storage, header: &Header) -> Result<()> {
    let report = repair(storage, header, Repair::All, &mut |_| {})?;
    if report.corruptions != 0 {
        return Err(Error::corrupt(format!(
            "Could not repair dirty image: {} errors are left",
            report.corruptions
        )));
    }
    Ok(())
}

/// Returns the header of an image that is about to be changed. Repairs the image first if it wasn't closed properly.
///
/// # Errors
/// Returns an error as [`repair_dirty`] does, or if the header can't be read again.
pub fn repaired_header<'h>(storage: &dyn Storage, header: &'h Header) -> Result<Cow<'h, Header>> {
    if !header.has_incompatible(features::DIRTY) {
        return Ok(Cow::Borrowed(header));
    }
    repair_dirty(storage, header)?;
    Header::read(storage).map(Cow::Owned)
}

pub(super) struct Work<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: Header,
    /// The findings to repair, or `None` for a check.
    pub(super) what: Option<Repair>,
    pub(super) report: CheckReport,
    pub(super) on_event: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Work<'a> {
    pub(super) fn new(
        storage: &'a dyn Storage,
        header: &Header,
        what: Option<Repair>,
        on_event: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        Self {
            storage,
            header: header.clone(),
            what,
            report: CheckReport::default(),
            on_event,
        }
    }

    /// Checks the image and makes the repairs.
    ///
    /// # Errors
    /// Returns an error as [`check`](super::check()) and [`repair`] do.
    pub(super) fn run(mut self) -> Result<CheckReport> {
        self.work()?;
        Ok(self.report)
    }

    pub(super) fn left(&mut self, finding: &Finding) {
        finding.count_in(&mut self.report);
        (self.on_event)(Event::Found(finding));
    }

    pub(super) fn fixed(&mut self, finding: &Finding) {
        finding.count_as_fixed(&mut self.report);
        (self.on_event)(Event::Repairing(finding));
    }

    fn found(&mut self, finding: &Finding) {
        (self.on_event)(Event::Found(finding));
    }

    fn work(&mut self) -> Result<()> {
        if self.what.is_some() {
            self.clear_unknown_autoclear()?;
        }
        if self.what == Some(Repair::All) {
            self.zero_entries()?;
            self.repair_snapshot_table()?;
        }
        let header = self.header.clone();
        let walk = Walk::open(self.storage, &header, self.what.is_some())?;
        let mut found = CheckReport::default();
        let mut of_refcounts = 0u64;
        let walked = walk.run(&header, &mut |finding| {
            self.found(&finding);
            if finding.is_of_refcount_structures() {
                of_refcounts = of_refcounts.saturating_add(finding.times());
            } else {
                finding.count_in(&mut found);
            }
        })?;
        let mut differ = CheckReport::default();
        let compared = walk.compare(&mut |finding| {
            self.found(&finding);
            finding.count_in(&mut differ);
            Ok(())
        })?;
        self.report = CheckReport {
            corruptions: found.corruptions,
            leaks: found.leaks,
            leaks_fixed: self.report.leaks_fixed,
            corruptions_fixed: self.report.corruptions_fixed,
            image_end_offset: compared.image_end(walk.geometry),
            ..walked.report
        };
        let rebuild = walked.rebuild || compared.rebuild;
        let Some(what) = self.what else {
            self.count_corruptions(of_refcounts);
            self.count_corruptions(differ.corruptions);
            self.report.leaks = self.report.leaks.saturating_add(differ.leaks);
            if walk.flags_differ() {
                self.copied_flags(&walk, &walked, &Rebuilt::default())?;
            }
            return Ok(());
        };
        let rebuilt = if rebuild {
            self.may_rebuild(what, &walked)?;
            self.report.corruptions_fixed =
                self.report.corruptions_fixed.saturating_add(of_refcounts);
            self.rebuild(&walk, &walked)?
        } else {
            self.count_corruptions(of_refcounts);
            self.refcounts(&walk, walked.unfollowed)?;
            Rebuilt::default()
        };
        self.copied_flags(&walk, &walked, &rebuilt)?;
        self.storage.flush()?;
        if self.report.corruptions == 0 {
            self.clear_marks()?;
        }
        Ok(())
    }

    fn count_corruptions(&mut self, count: u64) {
        self.report.corruptions = self.report.corruptions.saturating_add(count);
    }

    /// Returns an error if the refcount structures have to be rebuilt and can't be, or must not be.
    fn may_rebuild(&mut self, what: Repair, walked: &Walked) -> Result<()> {
        if what == Repair::Leaks {
            (self.on_event)(Event::NeedRebuild);
            return Err(Error::corrupt("Input/output error"));
        }
        if walked.unfollowed {
            return Err(Error::corrupt(
                "need to rebuild refcount structures, but what the missing part of a table leads to \
                 would count as free",
            ));
        }
        Ok(())
    }

    fn rebuild(&mut self, walk: &Walk<'_>, walked: &Walked) -> Result<Rebuilt> {
        (self.on_event)(Event::Rebuilding);
        let rebuilt = walk.rebuild(walked)?;
        walk.compare(&mut |finding| {
            if matches!(finding, Finding::TooManyReferences { .. }) {
                finding.count_in(&mut self.report);
            } else {
                finding.count_as_fixed(&mut self.report);
            }
            Ok(())
        })?;
        // The clusters of the old structures are free now.
        for (cluster, references) in rebuilt.freed() {
            (self.on_event)(Event::Repairing(&Finding::Leak {
                cluster,
                refcount: references,
                references: 0,
            }));
        }
        Ok(rebuilt)
    }

    /// Repairs refcounts one by one: first those that are too low, then those that are too high. The latter are
    /// repaired only if all references are known.
    fn refcounts(&mut self, walk: &Walk<'_>, unfollowed: bool) -> Result<()> {
        for leaks in [false, true] {
            let mut blocks = Blocks::new(walk);
            walk.compare(&mut |finding| {
                if finding.is_leak() != leaks {
                    return Ok(());
                }
                match finding {
                    Finding::Leak {
                        cluster,
                        references,
                        ..
                    } if !unfollowed => blocks.set(cluster, references)?,
                    Finding::RefcountTooLow {
                        cluster,
                        references,
                        ..
                    } if self.what == Some(Repair::All) => blocks.set(cluster, references)?,
                    _ => {
                        self.left(&finding);
                        return Ok(());
                    }
                }
                self.fixed(&finding);
                Ok(())
            })?;
            blocks.write()?;
            self.storage.flush()?;
        }
        Ok(())
    }

    /// Replaces entries with the zero flag and an invalid offset by plain zero clusters.
    fn zero_entries(&mut self) -> Result<()> {
        let header = self.header.clone();
        let walk = Walk::open(self.storage, &header, true)?;
        let mut findings = Vec::new();
        let walked = walk.run(&header, &mut |finding| {
            if finding.is_unaligned_zero() {
                findings.push(finding);
            }
        })?;
        if walked.zero_instead.is_empty() {
            return Ok(());
        }
        let geometry = walk.geometry;
        // The walk records the entries and their findings in the same order.
        for (entry, finding) in walked.zero_instead.iter().zip(&findings) {
            if !walk.is_only_l2(&walked, entry.table, &Rebuilt::default()) {
                continue;
            }
            let mut bytes = L2Entry::to_unallocated_zero(geometry)
                .0
                .to_be_bytes()
                .to_vec();
            if let Some(bitmap) = entry.bitmap {
                bytes.extend(bitmap.without_data().0.to_be_bytes());
            }
            let at = entry.table.0 + entry.index * geometry.l2_entry_size();
            self.storage.write_at(at, &bytes)?;
            self.fixed(finding);
        }
        self.storage.flush()
    }

    /// Clears the autoclear bits that this version doesn't know, as the specification requires of every writer.
    fn clear_unknown_autoclear(&self) -> Result<()> {
        let known = features::BITMAPS | features::DATA_FILE_RAW;
        if self.header.version() == Version::V3 {
            self.clear_bits(AUTOCLEAR_FIELD, !known)?;
        }
        Ok(())
    }

    /// Clears the header's dirty and corrupt bits.
    fn clear_marks(&self) -> Result<()> {
        if self.header.version() == Version::V3 {
            self.clear_bits(INCOMPATIBLE_FIELD, features::DIRTY | features::CORRUPT)?;
        }
        Ok(())
    }

    fn clear_bits(&self, at: u64, mask: u64) -> Result<()> {
        let mut field = [0; 8];
        self.storage.read_exact_at(at, &mut field, "the header")?;
        let bits = u64::from_be_bytes(field);
        if bits & mask != 0 {
            self.storage.write_at(at, &(bits & !mask).to_be_bytes())?;
            self.storage.flush()?;
        }
        Ok(())
    }
}

/// The refcount blocks, of which one at a time is changed in memory.
pub(super) struct Blocks<'a> {
    walk: &'a Walk<'a>,
    current: Option<(HostOffset, Vec<u8>)>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(walk: &'a Walk<'a>) -> Self {
        Self {
            walk,
            current: None,
        }
    }

    /// Changes a refcount. It is stored by [`write`](Self::write) or before.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the cluster has no refcount block, or if the value needs more
    /// bits.
    pub(super) fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        let geometry = self.walk.geometry;
        let per_block = geometry.refcount_block_entries();
        let index = usize::try_from(cluster / per_block).unwrap_or(usize::MAX);
        let entry = self.walk.stored.table().get(index);
        let host = entry.map_or(HostOffset(0), |entry| entry.host());
        let impossible = || Error::corrupt(format!("cluster {cluster} has no refcount block"));
        if host.0 == 0 {
            return Err(impossible());
        }
        if self.current.as_ref().is_none_or(|(at, _)| *at != host) {
            self.write()?;
            let mut block = vec![0; geometry.cluster_len()];
            let length = self.walk.length;
            self.walk
                .storage
                .read_padded_at(host.0, &mut block, length)?;
            self.current = Some((host, block));
        }
        let (_, block) = self.current.as_mut().ok_or_else(impossible)?;
        let within = usize::try_from(cluster % per_block).unwrap_or(usize::MAX);
        set_refcount(block, geometry.refcount_bits(), within, value).ok_or_else(impossible)
    }

    /// Stores the changed block.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write(&mut self) -> Result<()> {
        if let Some((host, block)) = self.current.take() {
            self.walk.storage.write_at(host.0, &block)?;
        }
        Ok(())
    }
}

impl Walk<'_> {
    /// Returns true if a cluster holds an L2 table and nothing else, so that it can be written to.
    pub(super) fn is_only_l2(&self, walked: &Walked, table: HostOffset, rebuilt: &Rebuilt) -> bool {
        let found = walked
            .l2_tables
            .binary_search_by_key(&table, |place| place.host);
        let times = found.ok().and_then(|index| walked.l2_tables.get(index));
        let cluster = self.geometry.host_cluster(table);
        let references = rebuilt.references(cluster, self.references.get(cluster));
        self.geometry.is_aligned(table) && times.is_some_and(|place| place.times == references)
    }

    /// Returns the refcount of a cluster after the repair of the refcounts.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn will_be(
        &self,
        cluster: u64,
        what: Option<Repair>,
        rebuilt: &Rebuilt,
    ) -> Result<u64> {
        // Clusters beyond the file's end aren't counted, and only a rebuild changes their refcounts.
        if cluster > self.clusters {
            return if rebuilt.is_done() {
                Ok(0)
            } else {
                self.stored.get(cluster)
            };
        }
        let references = rebuilt.references(cluster, self.references.get(cluster));
        let references = references.min(self.geometry.max_refcount());
        match what {
            Some(Repair::All) => Ok(references),
            Some(Repair::Leaks) => Ok(self.stored.get(cluster)?.min(references)),
            None => self.stored.get(cluster),
        }
    }
}

impl Finding {
    fn is_unaligned_zero(&self) -> bool {
        matches!(
            self,
            Self::BadEntry {
                problem: Problem::UnalignedZero(_),
                ..
            }
        )
    }

    fn is_of_refcount_structures(&self) -> bool {
        matches!(
            self,
            Self::BadEntry {
                place: EntryPlace::RefcountTable { .. },
                ..
            } | Self::RefcountTable { .. }
        )
    }
}
