//! Do the refcounts agree with what refers to what?
//!
//! One walk over header, L1 table, L2 tables and refcount structures counts how often each cluster
//! is referred to; then the counts are held against the refcounts that the image stores. A refcount
//! that is too low is a corruption (a writer would hand out a cluster in use), one that is too high
//! a leak (space is wasted, nothing else). On the way every entry is checked: its reserved bits, its
//! alignment, whether it leads into the file, and whether its COPIED flag tells the truth.
//!
//! Data isn't read, so an encrypted image needs no password. Nothing is written.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{
    CompressedRange, EntryError, L1Entry, L1Target, L2Entry, L2Target, RefcountTableEntry,
    refcount_at,
};
use crate::formats::qcow2::features;
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::{Header, TablePlace, Version};
use crate::formats::qcow2::tables::{decode, read_table};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// One thing that is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A refcount is higher than the number of references: space is wasted.
    Leak {
        /// The cluster's number in the file.
        cluster: u64,
        /// What the image stores.
        refcount: u64,
        /// What refers to it.
        references: u64,
    },
    /// A refcount is lower than the number of references.
    RefcountTooLow {
        /// The cluster's number in the file.
        cluster: u64,
        /// What the image stores.
        refcount: u64,
        /// What refers to it.
        references: u64,
    },
    /// A table entry that can't be right; the text says which and why.
    BadEntry(String),
    /// A COPIED flag that doesn't agree with the refcount.
    Copied {
        /// Which entry.
        entry: String,
        /// The refcount of what it leads to.
        refcount: u64,
    },
}

impl Finding {
    /// Whether this is a mere leak.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::Leak { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leak {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "Leaked cluster {cluster} refcount={refcount} reference={references}"
            ),
            Self::RefcountTooLow {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "ERROR cluster {cluster} refcount={refcount} reference={references}"
            ),
            Self::BadEntry(what) => write!(f, "ERROR {what}"),
            Self::Copied { entry, refcount } => {
                write!(f, "ERROR OFLAG_COPIED {entry} refcount={refcount}")
            }
        }
    }
}

/// What a check found, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many things are wrong.
    pub corruptions: u64,
    /// How many clusters are counted too often.
    pub leaks: u64,
    /// Where the last cluster in use ends, in bytes.
    pub image_end_offset: u64,
    /// How many clusters the virtual disk has.
    pub total_clusters: u64,
    /// How many of them are stored.
    pub allocated_clusters: u64,
    /// How many of those don't stand right behind the one before.
    pub fragmented_clusters: u64,
    /// How many of those are compressed.
    pub compressed_clusters: u64,
}

/// Checks an image and reports each finding as it is found.
///
/// # Errors
/// The system's error; features whose references this version doesn't count (it would report what
/// they use as leaked).
pub fn check(
    storage: &dyn Storage,
    header: &Header,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<CheckReport> {
    refuse_unsupported(header)?;
    let geometry = header.geometry();
    let refcounts = Refcounts::open(storage, header)?;
    let mut walk = Walk {
        storage,
        geometry,
        zero_flag: header.version() == Version::V3,
        length: storage.len()?,
        references: References::default(),
        refcounts,
        report: CheckReport {
            total_clusters: geometry.clusters(header.size()),
            ..CheckReport::default()
        },
        on_finding,
    };
    walk.count(HostOffset(0), geometry.cluster_size());
    walk.l1(header.l1())?;
    walk.refcount_structures(header.refcount_table())?;
    walk.compare()?;
    Ok(walk.report)
}

fn refuse_unsupported(header: &Header) -> Result<()> {
    for (present, what) in [
        (header.snapshots() != 0, "internal snapshots"),
        (
            header.any_autoclear(),
            "persistent bitmaps or raw external data",
        ),
        (
            header.has_incompatible(features::DATA_FILE),
            "an external data file",
        ),
        (
            header.has_incompatible(features::EXTENDED_L2),
            "extended L2 entries",
        ),
        (
            header.encryption() == crate::formats::qcow2::EncryptionMethod::Luks,
            "a LUKS header",
        ),
    ] {
        if present {
            return Err(Error::unsupported(format!(
                "the image has {what}, which this version can't check"
            )));
        }
    }
    Ok(())
}

/// How often each cluster is referred to, in pages that exist only where something is.
#[derive(Debug, Default)]
struct References {
    pages: BTreeMap<u64, Vec<u16>>,
}

impl References {
    const PAGE: u64 = 2048;
    const PAGE_LEN: usize = 2048;

    /// Counts one more reference; at 65535 the count stays.
    fn add(&mut self, cluster: u64) {
        let page = self
            .pages
            .entry(cluster / Self::PAGE)
            .or_insert_with(|| vec![0; Self::PAGE_LEN]);
        let index = usize::try_from(cluster % Self::PAGE).unwrap_or(0);
        if let Some(count) = page.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    fn get(&self, cluster: u64) -> u64 {
        let index = usize::try_from(cluster % Self::PAGE).unwrap_or(0);
        self.pages
            .get(&(cluster / Self::PAGE))
            .and_then(|page| page.get(index))
            .copied()
            .map_or(0, u64::from)
    }

    /// The number behind that of the last cluster in a page, 0 without any.
    fn end(&self) -> u64 {
        let last = self.pages.last_key_value();
        last.map_or(0, |(number, _)| (number + 1) * Self::PAGE)
    }

    /// Every cluster that is referred to, in order, with its count.
    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.iter().flat_map(|(number, page)| {
            page.iter().enumerate().filter_map(move |(index, count)| {
                let cluster = number * Self::PAGE + index as u64;
                (*count != 0).then_some((cluster, u64::from(*count)))
            })
        })
    }
}

/// The refcounts that the image stores. Blocks are read when asked for, and the last one is kept:
/// a walk asks for neighbours.
struct Refcounts<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    length: u64,
    table: Vec<RefcountTableEntry>,
    last: Option<(u64, Option<Vec<u8>>)>,
}

impl<'a> Refcounts<'a> {
    fn open(storage: &'a dyn Storage, header: &Header) -> Result<Self> {
        let table = read_table(storage, header.refcount_table(), "the refcount table")?;
        Ok(Self {
            storage,
            geometry: header.geometry(),
            length: storage.len()?,
            table: table.into_iter().map(RefcountTableEntry).collect(),
            last: None,
        })
    }

    /// Refcount block `index`, or `None` where there is none that can be read: its entry is empty,
    /// invalid, or leads beyond the end of the file. (The walk reports which.)
    fn block(&mut self, index: u64) -> Result<Option<&[u8]>> {
        if self.last.as_ref().map(|(last, _)| *last) != Some(index) {
            let entry = usize::try_from(index)
                .ok()
                .and_then(|index| self.table.get(index));
            let host = entry
                .and_then(|entry| entry.block(self.geometry).ok().flatten())
                .filter(|host| host.0 < self.length);
            let block = match host {
                Some(host) => {
                    let mut block = vec![0; self.geometry.cluster_len()];
                    let read = self.storage.read_at(host.0, &mut block)?;
                    // QEMU writes the last block of a file only as far as it is used.
                    (read > 0).then_some(block)
                }
                None => None,
            };
            self.last = Some((index, block));
        }
        Ok(self.last.as_ref().and_then(|(_, block)| block.as_deref()))
    }

    fn get(&mut self, cluster: u64) -> Result<u64> {
        let per_block = self.geometry.refcount_block_entries();
        let bits = self.geometry.refcount_bits();
        let index = usize::try_from(cluster % per_block).unwrap_or(0);
        let block = self.block(cluster / per_block)?;
        Ok(block
            .and_then(|block| refcount_at(block, bits, index))
            .unwrap_or(0))
    }
}

struct Walk<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    zero_flag: bool,
    length: u64,
    references: References,
    refcounts: Refcounts<'a>,
    report: CheckReport,
    on_finding: &'a mut dyn FnMut(&Finding),
}

impl Walk<'_> {
    fn found(&mut self, finding: &Finding) {
        if finding.is_leak() {
            self.report.leaks += 1;
        } else {
            self.report.corruptions += 1;
        }
        (self.on_finding)(finding);
    }

    fn bad_entry(&mut self, entry: &str, why: &dyn fmt::Display) {
        self.found(&Finding::BadEntry(format!("{entry}: {why}")));
    }

    /// Counts a reference to every cluster that `bytes` bytes from `host` on touch.
    fn count(&mut self, host: HostOffset, bytes: u64) {
        let first = self.geometry.host_cluster(host);
        let end = host.0.saturating_add(bytes.max(1) - 1);
        for cluster in first..=self.geometry.host_cluster(HostOffset(end)) {
            self.references.add(cluster);
        }
    }

    /// Whether `host` is inside the file; where not, that is a finding.
    fn inside(&mut self, entry: &str, host: HostOffset, bytes: u64) -> bool {
        let end = host.0.checked_add(bytes);
        if end.is_some_and(|end| end <= self.length) {
            return true;
        }
        let why = format!(
            "offset {host} is beyond the end of the file ({} bytes)",
            self.length
        );
        self.bad_entry(entry, &why);
        false
    }

    fn copied(&mut self, entry: &str, host: HostOffset, copied: bool) -> Result<()> {
        let refcount = self.refcounts.get(self.geometry.host_cluster(host))?;
        if copied != (refcount == 1) {
            self.found(&Finding::Copied {
                entry: entry.to_owned(),
                refcount,
            });
        }
        Ok(())
    }

    fn l1(&mut self, place: TablePlace) -> Result<()> {
        if place.entries == 0 {
            return Ok(());
        }
        if !self.inside("L1 table", place.host, place.entries * ENTRY_SIZE) {
            return Ok(());
        }
        self.count(place.host, place.entries * ENTRY_SIZE);
        let table = read_table(self.storage, place, "the L1 table")?;
        for (l1_index, entry) in (0u64..).zip(table) {
            let name = || format!("L1 entry {l1_index} ({entry:#x})");
            match L1Entry(entry).target(self.geometry) {
                Ok(L1Target::Unallocated) => {}
                Ok(L1Target::Table { host, copied }) => {
                    if self.inside(&name(), host, self.geometry.cluster_size()) {
                        self.count(host, self.geometry.cluster_size());
                        self.copied(&name(), host, copied)?;
                        self.l2(l1_index, host)?;
                    }
                }
                Err(why) => self.bad_entry(&name(), &why),
            }
        }
        Ok(())
    }

    fn l2(&mut self, l1_index: u64, host: HostOffset) -> Result<()> {
        let mut table = vec![0; self.geometry.cluster_len()];
        let what = format!("the L2 table of L1 entry {l1_index}");
        self.storage.read_exact_at(host.0, &mut table, &what)?;
        let guest_start = self.geometry.guest_start_of_l1(l1_index);
        let cluster_size = self.geometry.cluster_size();
        let mut expected = None;
        for (l2_index, entry) in (0u64..).zip(decode(&table)) {
            let entry = L2Entry(entry);
            let name = || {
                let guest = l2_index.saturating_mul(cluster_size);
                let guest = GuestOffset(guest_start.0.saturating_add(guest));
                let entry = entry.0;
                format!(
                    "L2 entry {l2_index} of L1 entry {l1_index} ({entry:#x}, guest offset {guest})"
                )
            };
            match entry.target(self.geometry, self.zero_flag) {
                Ok(L2Target::Unallocated | L2Target::Zero { kept: None }) => {}
                Ok(
                    L2Target::Data { host, copied }
                    | L2Target::Zero {
                        kept: Some((host, copied)),
                    },
                ) => {
                    let name = name();
                    if self.stored(&name, host, &mut expected) {
                        self.copied(&name, host, copied)?;
                    }
                }
                Ok(L2Target::Compressed(range)) => self.compressed(&name(), entry, range),
                Err(why @ EntryError::Unaligned(host)) => {
                    // It counts where it leads all the same: that is where a reader would go.
                    self.bad_entry(&name(), &why);
                    self.stored(&name(), host, &mut expected);
                }
                Err(why) => self.bad_entry(&name(), &why),
            }
        }
        Ok(())
    }

    /// Counts a cluster of data; `expected` is where the one after it would stand if it weren't
    /// fragmented. `false` when it isn't inside the file.
    fn stored(&mut self, name: &str, host: HostOffset, expected: &mut Option<HostOffset>) -> bool {
        let size = self.geometry.cluster_size();
        self.report.allocated_clusters += 1;
        if expected.is_some_and(|expected| expected != host) {
            self.report.fragmented_clusters += 1;
        }
        *expected = Some(HostOffset(host.0 + size));
        // The file's last cluster may be cut short.
        let inside = self.inside(name, host, 1);
        if inside {
            self.count(host, size);
        }
        inside
    }

    fn compressed(&mut self, name: &str, entry: L2Entry, range: CompressedRange) {
        self.report.allocated_clusters += 1;
        self.report.compressed_clusters += 1;
        self.report.fragmented_clusters += 1;
        if entry.is_copied() {
            self.bad_entry(name, &"a compressed cluster must not have the COPIED flag");
        }
        if self.inside(name, range.host, 1) {
            self.count(range.host, range.length);
        }
    }

    fn refcount_structures(&mut self, place: TablePlace) -> Result<()> {
        self.count(place.host, place.entries * ENTRY_SIZE);
        let table = read_table(self.storage, place, "the refcount table")?;
        let mut blocks = HashSet::new();
        for (index, entry) in (0u64..).zip(table) {
            let name = || format!("refcount table entry {index} ({entry:#x})");
            match RefcountTableEntry(entry).block(self.geometry) {
                Ok(None) => {}
                Ok(Some(host)) => {
                    if self.inside(&name(), host, 1) {
                        self.count(host, self.geometry.cluster_size());
                        if !blocks.insert(host) {
                            self.bad_entry(&name(), &"the block is in the table twice");
                        }
                    }
                }
                Err(why) => self.bad_entry(&name(), &why),
            }
        }
        Ok(())
    }

    /// Holds the counted references against the stored refcounts.
    fn compare(&mut self) -> Result<()> {
        let mut highest = None;
        let in_file = self.geometry.clusters(self.length);
        let per_block = self.geometry.refcount_block_entries();
        let bits = self.geometry.refcount_bits();
        // Beyond the file's end and the last reference there is nothing that could be reported.
        let end = in_file.max(self.references.end());
        let blocks = self.refcounts.table.len() as u64;
        for index in 0..blocks.min(end.div_ceil(per_block)) {
            let Some(block) = self.refcounts.block(index)?.map(<[u8]>::to_vec) else {
                continue;
            };
            for within in 0..per_block.min(end - index * per_block) {
                let cluster = index * per_block + within;
                let position = usize::try_from(within).unwrap_or(usize::MAX);
                let refcount = refcount_at(&block, bits, position).unwrap_or(0);
                let references = self.references.get(cluster);
                // A refcount of what isn't there wastes nothing.
                if references != 0 || (refcount != 0 && cluster < in_file) {
                    highest = highest.max(Some(cluster));
                    self.compare_one(cluster, refcount, references);
                }
            }
        }
        // What is referred to and has no refcount block at all.
        let mut uncounted = Vec::new();
        for (cluster, references) in self.references.iter() {
            if self.refcounts.block(cluster / per_block)?.is_none() {
                uncounted.push((cluster, references));
            }
        }
        for (cluster, references) in uncounted {
            highest = highest.max(Some(cluster));
            self.compare_one(cluster, 0, references);
        }
        let end = highest.map_or(0, |cluster| cluster + 1);
        let end = self.geometry.host_offset(end);
        self.report.image_end_offset = end.map_or(u64::MAX, |end| end.0);
        Ok(())
    }

    fn compare_one(&mut self, cluster: u64, refcount: u64, references: u64) {
        if refcount > references {
            self.found(&Finding::Leak {
                cluster,
                refcount,
                references,
            });
        } else if refcount < references {
            self.found(&Finding::RefcountTooLow {
                cluster,
                refcount,
                references,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// An empty version 3 image with clusters of 2 MiB and refcounts of 1 bit, whose refcount table
    /// of 8 MiB is full of `entry`.
    fn image(entry: u64) -> MemoryStorage {
        let cluster = 2 << 20;
        let mut bytes = vec![0; 6 * cluster];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&21u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&(cluster as u64).to_be_bytes());
        bytes[56..60].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        for slot in bytes[cluster..5 * cluster].chunks_exact_mut(8) {
            slot.copy_from_slice(&entry.to_be_bytes());
        }
        MemoryStorage::new(bytes)
    }

    fn corruptions(storage: &MemoryStorage) -> u64 {
        let header = Header::read(storage).unwrap();
        check(storage, &header, &mut |_| {}).unwrap().corruptions
    }

    #[test]
    fn a_table_that_names_one_block_a_million_times_ends() {
        // Counted out, it would be 2^44 refcounts: a day and more.
        assert!(corruptions(&image(5 * (2 << 20))) > 1_000_000);
    }

    #[test]
    fn a_block_beyond_the_file_is_a_finding_and_not_a_failure() {
        assert!(corruptions(&image(0xffff_ffff_ffe0_0000)) > 1_000_000);
    }
}
