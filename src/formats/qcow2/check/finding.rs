//! The findings of a check, and their text.
//!
//! A finding identifies the fault and its place in the file. It consists of numbers, and is formatted only when it is
//! printed, since a damaged image may have millions.

use std::fmt;

use crate::formats::check::CheckReport;
use crate::formats::qcow2::entries::EntryError;
use crate::formats::qcow2::snapshots::SnapshotTable;
use crate::units::{GuestOffset, HostOffset};

/// One inconsistency of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A refcount is higher than the number of references: the space is wasted.
    Leak {
        /// The cluster's index in the file.
        cluster: u64,
        /// The stored refcount.
        refcount: u64,
        /// The number of references to the cluster.
        references: u64,
    },
    /// A refcount is lower than the number of references.
    RefcountTooLow {
        /// The cluster's index in the file.
        cluster: u64,
        /// The stored refcount.
        refcount: u64,
        /// The number of references to the cluster.
        references: u64,
    },
    /// A cluster has more references than a refcount of this image can count.
    TooManyReferences {
        /// The cluster's index in the file.
        cluster: u64,
        /// The number of references to the cluster.
        references: u64,
        /// The highest refcount that the image can store.
        most: u64,
    },
    /// A table entry is invalid.
    BadEntry {
        /// Its place.
        place: EntryPlace,
        /// The entry as stored.
        entry: u64,
        /// The fault.
        problem: Problem,
        /// The number of tables that share it.
        times: u64,
    },
    /// A COPIED flag disagrees with the refcount.
    Copied {
        /// The entry's place.
        place: EntryPlace,
        /// The entry as stored.
        entry: u64,
        /// The refcount of the cluster that it refers to.
        refcount: u64,
        /// The number of entries of the active L1 table through which the entry is reached.
        times: u64,
    },
    /// The refcount table isn't at the place that the header gives.
    RefcountTable {
        /// The host offset according to the header.
        host: HostOffset,
        /// Its length in bytes.
        bytes: u64,
    },
    /// A structure other than an entry is invalid; the text says which, and why.
    Structure {
        /// The text.
        what: String,
        /// The number of corruptions that it counts as.
        times: u64,
    },
}

/// The place of a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryPlace {
    /// In the active L1 table.
    L1 {
        /// Its index.
        index: u64,
    },
    /// In the L1 table of a snapshot.
    SnapshotL1 {
        /// The host offset of the entry itself.
        host: HostOffset,
    },
    /// In an L2 table.
    L2 {
        /// The host offset of the table.
        table: HostOffset,
        /// Its index.
        index: u64,
        /// The guest offset that it maps, or `None` in tables that only snapshots use.
        guest: Option<GuestOffset>,
    },
    /// In the refcount table.
    RefcountTable {
        /// Its index.
        index: u64,
    },
}

impl EntryPlace {
    /// Returns the entry's index in its table, or the host offset of a snapshot's L1 entry.
    fn index(self) -> u64 {
        match self {
            Self::L1 { index } | Self::L2 { index, .. } | Self::RefcountTable { index } => index,
            Self::SnapshotL1 { host } => host.0,
        }
    }
}

impl fmt::Display for EntryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::L1 { index } => write!(f, "L1 entry {index}"),
            Self::SnapshotL1 { host } => write!(f, "snapshot's L1 entry at {host}"),
            Self::L2 {
                table,
                index,
                guest,
            } => {
                write!(f, "L2 entry {index} of the L2 table at {table}")?;
                match guest {
                    Some(guest) => write!(f, " (guest offset {guest})"),
                    None => Ok(()),
                }
            }
            Self::RefcountTable { index } => write!(f, "refcount table entry {index}"),
        }
    }
}

/// QEMU's message for a truncated file, which scripts search for.
const CUT_OFF: &str =
    "counting reference for region exceeding the end of the file by one cluster or more";

/// A referenced part of the file that isn't completely in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its host offset.
    pub host: HostOffset,
    /// Its length in bytes.
    pub bytes: u64,
    /// The length of the file in bytes.
    pub file: u64,
    /// The cluster size in bytes.
    pub cluster: u64,
}

impl Region {
    /// Returns the message for the region if at least a cluster of it is missing.
    pub(super) fn cut_off(self) -> Option<String> {
        let end = self.host.0.saturating_add(self.bytes);
        let missing = end.saturating_sub(self.file);
        (missing >= self.cluster).then(|| {
            format!(
                "{CUT_OFF}: offset {:#x} size {:#x}",
                self.host.0, self.bytes
            )
        })
    }
}

/// The fault of a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It has invalid bits.
    Bits(EntryError),
    /// It refers to a cluster beyond the end of the file.
    BeyondTheEnd(Region),
    /// The preallocated cluster of an entry with the zero flag isn't cluster-aligned.
    UnalignedZero(HostOffset),
    /// A compressed cluster has the COPIED flag.
    CompressedCopied(HostOffset),
    /// A compressed cluster in an image whose data is in another file.
    CompressedWithDataFile,
    /// A data cluster's offset in an external data file differs from its guest offset.
    ElsewhereInDataFile,
    /// A compressed cluster has subclusters.
    CompressedSubclusters,
    /// A subcluster is marked both as allocated and as reading as zeroes.
    Subclusters(HostOffset),
    /// A subcluster is marked as allocated in an unallocated cluster.
    SubclustersWithoutCluster,
    /// A refcount block has this number of references.
    SharedBlock(u64),
}

impl Finding {
    /// Returns the finding for a snapshot table entry that lacks extra data that version 3 requires.
    pub(super) fn incomplete_snapshot(index: usize) -> Self {
        Self::Structure {
            what: format!("snapshot table entry {index} is incomplete"),
            times: 1,
        }
    }

    /// Returns the finding for snapshot table entries that are beyond the end of the file.
    pub(super) fn missing_snapshots(table: &SnapshotTable) -> Self {
        let (count, first) = (table.missing, table.snapshots.len());
        Self::Structure {
            what: format!(
                "{count} entries of the snapshot table, from entry {first} on, are beyond the end of the \
                 file"
            ),
            times: count.into(),
        }
    }

    /// Adds the finding to the counts of a report.
    pub(super) fn count_in(&self, report: &mut CheckReport) {
        let sum = if self.is_leak() {
            &mut report.leaks
        } else {
            &mut report.corruptions
        };
        *sum = sum.saturating_add(self.times());
    }

    /// Adds the finding to the counts of a report as repaired.
    pub(super) fn count_as_fixed(&self, report: &mut CheckReport) {
        let sum = if self.is_leak() {
            &mut report.leaks_fixed
        } else {
            &mut report.corruptions_fixed
        };
        *sum = sum.saturating_add(self.times());
    }

    /// Returns true if the finding is a leak.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::Leak { .. })
    }

    /// Returns the number of leaks or corruptions that it counts as.
    pub fn times(&self) -> u64 {
        match self {
            Self::Leak { .. } | Self::RefcountTooLow { .. } | Self::RefcountTable { .. } => 1,
            Self::TooManyReferences {
                references, most, ..
            } => references.saturating_sub(*most),
            Self::BadEntry { times, .. }
            | Self::Copied { times, .. }
            | Self::Structure { times, .. } => *times,
        }
    }

    /// Writes the finding as a line, in QEMU's words where QEMU has a message for it, since its tests and scripts
    /// rely on them. `repairing` is true if the finding is being repaired.
    fn line(&self, f: &mut fmt::Formatter<'_>, repairing: bool) -> fmt::Result {
        let error = if repairing { "Repairing" } else { "ERROR" };
        match self {
            Self::Leak {
                cluster,
                refcount,
                references,
            } => {
                let leaked = if repairing { error } else { "Leaked" };
                refcounts(f, leaked, *cluster, *refcount, *references)
            }
            Self::RefcountTooLow {
                cluster,
                refcount,
                references,
            } => refcounts(f, error, *cluster, *refcount, *references),
            Self::TooManyReferences {
                cluster,
                references,
                most,
            } => write!(
                f,
                "{error} cluster {cluster}: {references} references, but refcounts end at {most}"
            ),
            Self::BadEntry {
                place,
                entry,
                problem,
                ..
            } => bad_entry(f, error, *place, *entry, *problem),
            Self::Copied {
                place,
                entry,
                refcount,
                ..
            } => match place {
                EntryPlace::L1 { index } => write!(
                    f,
                    "{error} OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={refcount}"
                ),
                _ => write!(
                    f,
                    "{error} OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}"
                ),
            },
            Self::RefcountTable { host, bytes } => write!(
                f,
                "{error}: {CUT_OFF}: offset {:#x} size {bytes:#x}",
                host.0
            ),
            Self::Structure { what, .. } if what.starts_with(CUT_OFF) => {
                write!(f, "{error}: {what}")
            }
            Self::Structure { what, .. } => write!(f, "{error} {what}"),
        }
    }
}

fn refcounts(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    cluster: u64,
    refcount: u64,
    references: u64,
) -> fmt::Result {
    write!(
        f,
        "{word} cluster {cluster} refcount={refcount} reference={references}"
    )
}

/// Writes the line for an invalid entry, with the place and the fault if QEMU has no message for it.
fn bad_entry(
    f: &mut fmt::Formatter<'_>,
    error: &str,
    place: EntryPlace,
    entry: u64,
    problem: Problem,
) -> fmt::Result {
    match (place, problem) {
        (EntryPlace::RefcountTable { index }, Problem::Bits(EntryError::Reserved)) => {
            write!(
                f,
                "{error} refcount table entry {index} has reserved bits set"
            )
        }
        (EntryPlace::RefcountTable { index }, Problem::Bits(EntryError::Unaligned(_))) => write!(
            f,
            "{error} refcount block {index} is not cluster aligned; refcount table entry corrupted"
        ),
        (EntryPlace::RefcountTable { index }, Problem::BeyondTheEnd(_)) => {
            write!(f, "{error} refcount block {index} is outside image")
        }
        (_, Problem::SharedBlock(references)) => {
            write!(
                f,
                "{error} refcount block {} refcount={references}",
                place.index()
            )
        }
        (EntryPlace::L2 { .. }, Problem::Bits(EntryError::Reserved)) => {
            write!(
                f,
                "{error} found l2 entry with reserved bits set: {entry:x}"
            )
        }
        (_, Problem::Bits(EntryError::Reserved)) => {
            write!(
                f,
                "{error} found L1 entry with reserved bits set: {entry:x}"
            )
        }
        (EntryPlace::L2 { .. }, Problem::Bits(EntryError::Unaligned(host))) => write!(
            f,
            "{error} offset={:x}: Data cluster is not properly aligned; L2 entry corrupted.",
            host.0
        ),
        (_, Problem::Bits(EntryError::Unaligned(host))) => write!(
            f,
            "{error} l2_offset={:x}: Table is not cluster aligned; L1 entry corrupted",
            host.0
        ),
        (_, Problem::Bits(fault)) => write!(f, "{error} {place} ({entry:#x}): {fault}"),
        (_, Problem::UnalignedZero(host)) => write!(
            f,
            "{error} offset={:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.",
            host.0
        ),
        (_, Problem::CompressedCopied(host)) => write!(
            f,
            "{error}: coffset={:#x}: copied flag must never be set for compressed clusters",
            host.0
        ),
        (_, Problem::CompressedWithDataFile) => write!(
            f,
            "{error} compressed cluster {} with data file, entry={entry:#x}",
            place.index()
        ),
        (_, Problem::CompressedSubclusters) => write!(
            f,
            "{error} compressed cluster {} with non-zero subcluster allocation bitmap, entry={entry:#x}",
            place.index()
        ),
        (_, Problem::Subclusters(host)) => write!(
            f,
            "{error} offset={:x}: Allocated cluster has corrupted subcluster allocation bitmap",
            host.0
        ),
        (_, Problem::SubclustersWithoutCluster) => write!(
            f,
            "{error}: Unallocated cluster has non-zero subcluster allocation map"
        ),
        (_, Problem::BeyondTheEnd(region)) => match region.cut_off() {
            Some(words) => write!(f, "{error}: {words}"),
            None => write!(
                f,
                "{error} {place} ({entry:#x}): it leads beyond the end of the file ({} bytes)",
                region.file
            ),
        },
        (_, Problem::ElsewhereInDataFile) => write!(
            f,
            "{error} {place} ({entry:#x}): it leads to another place of the data file than the guest's own"
        ),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(f, false)
    }
}

/// A line of output of a check or a repair in progress.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A finding. A repair reports it again when it repairs it.
    Found(&'a Finding),
    /// A finding that is being repaired.
    Repairing(&'a Finding),
    /// The refcount structures would have to be rebuilt, which
    /// [`Repair::Leaks`](crate::formats::check::Repair::Leaks) doesn't do.
    NeedRebuild,
    /// The refcount structures are being rebuilt.
    Rebuilding,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(finding) => finding.line(f, false),
            Self::Repairing(finding) => finding.line(f, true),
            Self::NeedRebuild => f.write_str("ERROR need to rebuild refcount structures"),
            Self::Rebuilding => f.write_str("Rebuilding refcount structure"),
        }
    }
}
