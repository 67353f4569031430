//! The repair of COPIED flags that disagree with the refcounts.
//!
//! The flag says that the cluster's refcount is exactly 1, so that a writer needn't read the refcount. If it is
//! missing, a writer copies the cluster without need. If it is set by mistake, a writer overwrites data that a
//! snapshot still uses.

use super::finding::{EntryPlace, Finding};
use super::rebuild::Rebuilt;
use super::repair::Work;
use super::walk::{L2Place, Walk, Walked};
use crate::error::Result;
use crate::formats::check::Repair;
use crate::formats::qcow2::entries::{L1Entry, L2Entry, L2Lead};
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::qcow2::header::TablePlace;
use crate::units::{GuestOffset, HostOffset};

/// An incorrect flag in an L1 entry.
struct L1Flag {
    index: u64,
    finding: Finding,
    is_repaired: bool,
}

impl Work<'_> {
    /// Checks the flags of the active L1 table and of its L2 tables. [`Repair::All`] repairs incorrect flags.
    /// [`Repair::Leaks`] does so only if all refcounts are correct. Otherwise they are reported like other findings.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn copied_flags(
        &mut self,
        walk: &Walk<'_>,
        walked: &Walked,
        rebuilt: &Rebuilt,
    ) -> Result<()> {
        let repair = match self.what {
            Some(Repair::All) => true,
            Some(Repair::Leaks) => self.report.corruptions == 0 && self.report.leaks == 0,
            None => false,
        };
        // The findings are in QEMU's order: the finding for an L1 entry is followed by those for its L2 table.
        let of_l1 = self.l1_flags(walk, walked.active_l1, repair, rebuilt)?;
        let mut of_l1 = of_l1.into_iter().peekable();
        let active = walked.l2_tables.iter().filter(|place| place.active > 0);
        let mut tables: Vec<L2Place> = active.copied().collect();
        tables.sort_unstable_by_key(|place| place.l1_index);
        let mut buffer = vec![0; walk.geometry.cluster_len()];
        for place in tables {
            let before = |flag: &L1Flag| Some(flag.index) <= place.l1_index.map(u64::from);
            while let Some(flag) = of_l1.next_if(before) {
                self.report_flag(&flag);
            }
            let may_write = repair && walk.is_only_l2(walked, place.host, rebuilt);
            self.l2_flags(walk, place, may_write, rebuilt, &mut buffer)?;
        }
        of_l1.for_each(|flag| self.report_flag(&flag));
        Ok(())
    }

    fn report_flag(&mut self, flag: &L1Flag) {
        if flag.is_repaired {
            self.fixed(&flag.finding);
        } else {
            self.left(&flag.finding);
        }
    }

    fn l1_flags(
        &self,
        walk: &Walk<'_>,
        l1: TablePlace,
        repair: bool,
        rebuilt: &Rebuilt,
    ) -> Result<Vec<L1Flag>> {
        let bytes = l1.entries * ENTRY_SIZE;
        // A table that isn't in the file wasn't counted, so the bytes at its offset belong to something else.
        if !walk.is_inside(l1.host, bytes) {
            return Ok(Vec::new());
        }
        let bytes = bytes.min(walk.length.saturating_sub(l1.host.0));
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let first = walk.geometry.host_cluster(l1.host);
        let clusters = first..first + walk.geometry.clusters(bytes);
        let is_only_l1 = |cluster| rebuilt.references(cluster, walk.references.get(cluster)) == 1;
        let may_write = repair && clusters.into_iter().all(is_only_l1);
        let mut table = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.storage
            .read_padded_at(l1.host.0, &mut table, walk.length)?;
        let mut changed = Changed::default();
        let mut flags = Vec::new();
        let (entries, _) = table.as_chunks_mut::<8>();
        for (index, slot) in (0u64..).zip(entries) {
            let entry = L1Entry(u64::from_be_bytes(*slot));
            if entry.host().0 == 0 {
                continue;
            }
            let cluster = walk.geometry.host_cluster(entry.host());
            let refcount = walk.will_be(cluster, self.what, rebuilt)?;
            if entry.is_copied() == (refcount == 1) {
                continue;
            }
            let finding = Finding::Copied {
                place: EntryPlace::L1 { index },
                entry: entry.0,
                refcount,
                times: 1,
            };
            if may_write {
                *slot = entry.with_copied(refcount == 1).0.to_be_bytes();
                changed.note(index);
            }
            flags.push(L1Flag {
                index,
                finding,
                is_repaired: may_write,
            });
        }
        changed.write(self, l1.host, &table)?;
        Ok(flags)
    }

    fn l2_flags(
        &mut self,
        walk: &Walk<'_>,
        place: L2Place,
        may_write: bool,
        rebuilt: &Rebuilt,
        table: &mut [u8],
    ) -> Result<()> {
        let geometry = walk.geometry;
        self.storage
            .read_padded_at(place.host.0, table, walk.length)?;
        let start = place.l1_index.map(u64::from);
        let start = start.map(|index| geometry.guest_start_of_l1(index));
        let mut changed = Changed::default();
        let words_per_entry = geometry.l2_entry_size() / ENTRY_SIZE;
        let (words, _) = table.as_chunks_mut::<8>();
        let step = usize::try_from(words_per_entry).unwrap_or(1);
        for (index, slot) in (0u64..).zip(words.iter_mut().step_by(step)) {
            let entry = L2Entry(u64::from_be_bytes(*slot));
            let L2Lead::Stored { host, copied, .. } = entry.lead(geometry, walk.data_file) else {
                continue;
            };
            let refcount = if walk.data_file {
                1
            } else {
                walk.will_be(geometry.host_cluster(host), self.what, rebuilt)?
            };
            if copied == (refcount == 1) {
                continue;
            }
            let within = index.saturating_mul(geometry.cluster_size());
            let finding = Finding::Copied {
                place: EntryPlace::L2 {
                    table: place.host,
                    index,
                    guest: start.map(|start| GuestOffset(start.0.saturating_add(within))),
                },
                entry: entry.0,
                refcount,
                times: u64::from(place.active),
            };
            if may_write {
                *slot = entry.with_copied(refcount == 1).0.to_be_bytes();
                changed.note(index * words_per_entry);
                self.fixed(&finding);
            } else {
                self.left(&finding);
            }
        }
        changed.write(self, place.host, table)
    }
}

/// The range of table entries that have changed.
#[derive(Default)]
struct Changed(Option<(u64, u64)>);

impl Changed {
    fn note(&mut self, word: u64) {
        let first = self.0.map_or(word, |(first, _)| first);
        self.0 = Some((first, word));
    }

    /// Writes the table from the first to the last changed entry.
    fn write(&self, work: &Work<'_>, host: HostOffset, table: &[u8]) -> Result<()> {
        let Some((first, last)) = self.0 else {
            return Ok(());
        };
        let at = |word: u64| usize::try_from(word * ENTRY_SIZE).unwrap_or(usize::MAX);
        let bytes = table.get(at(first)..at(last + 1)).unwrap_or_default();
        work.storage.write_at(host.0 + first * ENTRY_SIZE, bytes)
    }
}
