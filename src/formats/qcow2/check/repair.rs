//! Findings, then fixes.
//!
//! The walk of a check counts the references; a repair makes the stored refcounts and the COPIED flags agree
//! with them. Its order leaves the image no worse than it was whenever the power fails, so that it can be
//! repeated:
//!
//! 1. Entries that lead nowhere sensible become zero clusters, and a snapshot table that lacks something is
//!    written anew ([`snapshot_table`]).
//! 2. Refcounts that are too low are raised.
//! 3. When all of that is on stable storage, those that are too high are lowered.
//! 4. The COPIED flags follow.
//! 5. When nothing is wrong any more, the header's dirty and corrupt bits are cleared.
//!
//! Where the refcount structures themselves can't be trusted, they are made anew; see [`rebuild`]. Everything
//! else is said and left: nobody can know to which of two owners a cluster belongs. Tables that overlap with
//! something else are never written to.
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
/// The report is of findings that were not repaired, and of those that were; an image that was changed ought
/// to be checked again.
///
/// # Errors
/// Returns an error as [`check`](super::check()) does, or the system's error on writing. With
/// [`Repair::Leaks`], returns an error if refcount structures have to be made anew.
pub fn repair(
    storage: &dyn Storage,
    header: &Header,
    what: Repair,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<CheckReport> {
    Work::new(storage, header, Some(what), on_event).run()
}

/// Makes an image that wasn't closed properly fit for writing: its refcounts are made to agree with the
/// references, and its dirty bit is cleared.
///
/// # Errors
/// Returns an error as [`repair`] does. Returns an error if there is damage that can't be repaired, which
/// leaves the dirty bit as it is.
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

/// Returns the header of an image that is about to be changed. One that wasn't closed properly is repaired first.
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
    /// The findings that are repaired, if any are.
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

    /// Checks, and repairs.
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
            self.snapshot_table()?;
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

    /// Returns an error if refcount structures would have to be made anew and can't be, or aren't to be.
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
        // The old structures are free now.
        for (cluster, references) in rebuilt.freed() {
            (self.on_event)(Event::Repairing(&Finding::Leak {
                cluster,
                refcount: references,
                references: 0,
            }));
        }
        Ok(rebuilt)
    }

    /// Repairs refcounts one by one: first those that are too low, then, where all references are known,
    /// those that are too high.
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

    /// Makes plain zero clusters of those that are only kept, but in an impossible place.
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
        // Entries and findings were noted side by side.
        for (entry, finding) in walked.zero_instead.iter().zip(&findings) {
            if !walk.is_only_l2(&walked, entry.table, &Rebuilt::default()) {
                continue;
            }
            let mut bytes = L2Entry::zero(geometry).0.to_be_bytes().to_vec();
            if let Some(bitmap) = entry.bitmap {
                bytes.extend(bitmap.without_data().0.to_be_bytes());
            }
            let at = entry.table.0 + entry.index * geometry.l2_entry_size();
            self.storage.write_at(at, &bytes)?;
            self.fixed(finding);
        }
        self.storage.flush()
    }

    /// Clears bits of features that this version doesn't know, as every writer has to.
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

/// Refcount blocks, changed one after the other.
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

    /// Changes a refcount, which is stored no later than by [`write`](Self::write).
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
    pub(super) fn write(&mut self) -> Result<()> {
        if let Some((host, block)) = self.current.take() {
            self.walk.storage.write_at(host.0, &block)?;
        }
        Ok(())
    }
}

impl Walk<'_> {
    /// Returns true if a cluster holds an L2 table and nothing else, so that it may be changed.
    pub(super) fn is_only_l2(&self, walked: &Walked, table: HostOffset, rebuilt: &Rebuilt) -> bool {
        let found = walked
            .l2_tables
            .binary_search_by_key(&table, |place| place.host);
        let times = found.ok().and_then(|index| walked.l2_tables.get(index));
        let cluster = self.geometry.host_cluster(table);
        let references = rebuilt.references(cluster, self.references.get(cluster));
        self.geometry.is_aligned(table) && times.is_some_and(|place| place.times == references)
    }

    /// Returns the refcount that a cluster has when the refcounts have been repaired.
    pub(super) fn will_be(
        &self,
        cluster: u64,
        what: Option<Repair>,
        rebuilt: &Rebuilt,
    ) -> Result<u64> {
        // Beyond the file's end nothing is counted, and no refcount is changed but by making all anew.
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
