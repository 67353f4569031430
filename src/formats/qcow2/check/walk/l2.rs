//! The check of one L2 table: the clusters that its entries refer to, and invalid entries.

use super::l1::L2Place;
use super::places::Walk;
use crate::error::Result;
use crate::formats::qcow2::check::finding::{EntryPlace, Finding, Problem};
use crate::formats::qcow2::check::references::{ReferenceRun, WORD};
use crate::formats::qcow2::entries::{EntryError, L2Entry, L2Lead, SubclusterBitmap};
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The counts and findings that one table adds to the report.
#[derive(Debug, Default)]
pub struct L2Walked {
    /// The number of allocated clusters, including compressed ones.
    pub allocated: u64,
    /// The number of allocated clusters that don't directly follow the one before.
    pub fragmented: u64,
    /// The number of compressed clusters.
    pub compressed: u64,
    /// The invalid entries and other findings.
    pub findings: Vec<Finding>,
    /// The entries with the zero flag and an invalid host offset. A repair can replace them by plain zero clusters
    /// without loss.
    pub zero_instead: Vec<ZeroInstead>,
}

/// An L2 entry to be replaced by a plain zero cluster.
#[derive(Debug, Clone, Copy)]
pub struct ZeroInstead {
    /// The L2 table.
    pub table: HostOffset,
    /// The index in it.
    pub index: u64,
    /// The subcluster bitmap, with extended L2 entries.
    pub bitmap: Option<SubclusterBitmap>,
}

/// The state of the check of one table.
struct L2Walk<'a> {
    walk: &'a Walk<'a>,
    place: L2Place,
    guest: Option<GuestOffset>,
    run: ReferenceRun<'a>,
    expected: Option<HostOffset>,
    /// The index of the last queried word of 64 clusters, and its bits: set for each refcount that is exactly 1.
    ones: (u64, u64),
    walked: L2Walked,
}

impl Walk<'_> {
    /// Checks the L2 table at `place`, whose bytes are `bytes`. Its own cluster is already counted.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn l2_table(&self, place: L2Place, bytes: &[u8]) -> Result<L2Walked> {
        let l1_index = place.l1_index.map(u64::from);
        let mut walk = L2Walk {
            walk: self,
            place,
            guest: l1_index.map(|index| self.geometry.guest_start_of_l1(index)),
            run: ReferenceRun::new(&self.references, place.times),
            expected: None,
            ones: (u64::MAX, 0),
            walked: L2Walked::default(),
        };
        let (words, _) = bytes.as_chunks();
        if self.geometry.has_subclusters() {
            let (pairs, _) = words.as_chunks();
            for (index, [entry, bitmap]) in (0u64..).zip(pairs) {
                let entry = u64::from_be_bytes(*entry);
                let bitmap = u64::from_be_bytes(*bitmap);
                if entry != 0 || bitmap != 0 {
                    let bitmap = Some(SubclusterBitmap(bitmap));
                    walk.entry(index, L2Entry(entry), bitmap)?;
                }
            }
        } else {
            for (index, entry) in (0u64..).zip(words) {
                let entry = u64::from_be_bytes(*entry);
                if entry != 0 {
                    walk.entry(index, L2Entry(entry), None)?;
                }
            }
        }
        walk.run.finish();
        Ok(walk.walked)
    }
}

impl L2Walk<'_> {
    /// Returns the guest offset that an entry of the active disk maps.
    fn guest_offset(&self, index: u64) -> Option<GuestOffset> {
        let cluster_size = self.walk.geometry.cluster_size();
        let within = index.saturating_mul(cluster_size);
        let start = self.guest?;
        Some(GuestOffset(start.0.saturating_add(within)))
    }

    #[cold]
    fn place(&self, index: u64) -> EntryPlace {
        EntryPlace::L2 {
            table: self.place.host,
            index,
            guest: self.guest_offset(index),
        }
    }

    #[cold]
    fn bad(&mut self, index: u64, entry: L2Entry, problem: Problem) {
        let finding = Finding::BadEntry {
            place: self.place(index),
            entry: entry.0,
            problem,
            times: self.place.times,
        };
        self.walked.findings.push(finding);
    }

    #[inline]
    fn entry(
        &mut self,
        index: u64,
        entry: L2Entry,
        bitmap: Option<SubclusterBitmap>,
    ) -> Result<()> {
        match entry.lead(self.walk.geometry, self.walk.data_file) {
            L2Lead::Compressed(range) => {
                self.compressed(index, entry, bitmap, range.host, range.length);
                return Ok(());
            }
            L2Lead::Stored { host, copied, zero } => {
                if entry.has_reserved_bits() {
                    self.bad(index, entry, Problem::Bits(EntryError::Reserved));
                }
                self.stored(index, entry, bitmap, host, zero);
                if self.place.active > 0 {
                    let one = self.is_one(self.walk.geometry.host_cluster(host));
                    self.walk.note_copied(copied, one);
                }
            }
            L2Lead::Zero | L2Lead::Nothing => {
                if entry.has_reserved_bits() {
                    self.bad(index, entry, Problem::Bits(EntryError::Reserved));
                }
                if bitmap.is_some_and(SubclusterBitmap::has_data) {
                    self.bad(index, entry, Problem::SubclustersWithoutCluster);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn is_one(&mut self, cluster: u64) -> bool {
        let word = cluster / WORD;
        if self.ones.0 != word {
            self.ones = (word, self.walk.stored.ones(word));
        }
        self.ones.1 >> (cluster % WORD) & 1 != 0 || self.walk.data_file
    }

    fn stored(
        &mut self,
        index: u64,
        entry: L2Entry,
        bitmap: Option<SubclusterBitmap>,
        host: HostOffset,
        zero: bool,
    ) {
        let walk = self.walk;
        if bitmap.is_some_and(SubclusterBitmap::contradicts_itself) {
            self.bad(index, entry, Problem::Subclusters(host));
        }
        let aligned = walk.geometry.is_aligned(host);
        if !aligned {
            if bitmap.map_or(zero, |bitmap| !bitmap.has_data()) {
                self.bad(index, entry, Problem::UnalignedZero(host));
                if walk.repairing {
                    self.walked.zero_instead.push(ZeroInstead {
                        table: self.place.host,
                        index,
                        bitmap,
                    });
                }
            } else {
                self.bad(index, entry, Problem::Bits(EntryError::Unaligned(host)));
            }
        }
        let cluster_size = walk.geometry.cluster_size();
        if self.place.active > 0 {
            self.walked.allocated += 1;
            if self.expected.is_some_and(|expected| expected != host) {
                self.walked.fragmented += 1;
            }
            self.expected = Some(HostOffset(host.0 + cluster_size));
        }
        if walk.data_file {
            let place = self.guest_offset(index);
            if place.is_some_and(|place| place.0 != host.0) {
                self.bad(index, entry, Problem::ElsewhereInDataFile);
            }
            return;
        }
        let cluster = walk.geometry.host_cluster(host);
        if !walk.is_inside(host, cluster_size) {
            let region = walk.missing(host, cluster_size);
            self.bad(index, entry, Problem::BeyondTheEnd(region));
        } else {
            self.run.add(cluster);
            if !aligned {
                self.run.add(cluster + 1);
            }
        }
    }

    fn compressed(
        &mut self,
        index: u64,
        entry: L2Entry,
        bitmap: Option<SubclusterBitmap>,
        host: HostOffset,
        length: u64,
    ) {
        if entry.is_copied() {
            self.bad(index, entry, Problem::CompressedCopied(host));
        }
        if self.walk.data_file {
            self.bad(index, entry, Problem::CompressedWithDataFile);
            return;
        }
        if bitmap.is_some_and(|bitmap| bitmap.0 != 0) {
            self.bad(index, entry, Problem::CompressedSubclusters);
            return;
        }
        let geometry = self.walk.geometry;
        let first = geometry.host_cluster(host);
        let last = geometry.host_cluster(HostOffset(host.0.saturating_add(length - 1)));
        let inside = self.walk.is_inside(host, length);
        if inside {
            for cluster in first..=last {
                self.run.add(cluster);
            }
        }
        // The file may end inside the last sector, which may also hold bytes of other clusters.
        let end = host.0.saturating_add(length);
        if !inside || end >= self.walk.length.saturating_add(SECTOR_SIZE) {
            let region = self.walk.missing(host, length);
            self.bad(index, entry, Problem::BeyondTheEnd(region));
        }
        if self.place.active > 0 {
            self.walked.allocated += 1;
            self.walked.compressed += 1;
            self.walked.fragmented += 1;
        }
    }
}
