//! The findings of a check, and their wording.
//!
//! A finding names the place in the file and the fault there. It is made of numbers and turned into
//! words only when somebody wants to read it, since a damaged image may have millions.

use std::fmt;

use crate::formats::check::CheckReport;
use crate::formats::qcow2::entries::EntryError;
use crate::formats::qcow2::snapshots::SnapshotTable;
use crate::units::{GuestOffset, HostOffset};

/// One thing that is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A refcount is higher than the number of references: space is wasted.
    Leak {
        /// The cluster's number in the file.
        cluster: u64,
        /// The refcount that the image stores.
        refcount: u64,
        /// The number of references to it.
        references: u64,
    },
    /// A refcount is lower than the number of references.
    RefcountTooLow {
        /// The cluster's number in the file.
        cluster: u64,
        /// The refcount that the image stores.
        refcount: u64,
        /// The number of references to it.
        references: u64,
    },
    /// More references than a refcount of this image can count.
    TooManyReferences {
        /// The cluster's number in the file.
        cluster: u64,
        /// The number of references to it.
        references: u64,
        /// The highest refcount.
        most: u64,
    },
    /// A table entry that can't be right.
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
    /// A COPIED flag that doesn't agree with the refcount.
    Copied {
        /// The entry's place.
        place: EntryPlace,
        /// The entry as stored.
        entry: u64,
        /// The refcount of the cluster that it leads to.
        refcount: u64,
        /// The number of times that the active L1 table leads to the entry.
        times: u64,
    },
    /// The refcount table isn't where the header says.
    RefcountTable {
        /// The place that the header names.
        host: HostOffset,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Something other than an entry that can't be right; the text says what and why.
    Structure {
        /// The text.
        what: String,
        /// The number of times that it counts.
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
        /// The entry's own position in the file.
        host: HostOffset,
    },
    /// In an L2 table.
    L2 {
        /// The offset at which the table starts.
        table: HostOffset,
        /// Its index.
        index: u64,
        /// The part of the active disk that it maps; `None` in tables that only snapshots use.
        guest: Option<GuestOffset>,
    },
    /// In the refcount table.
    RefcountTable {
        /// Its index.
        index: u64,
    },
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

/// QEMU's words for a file that is cut off, which scripts look for.
const CUT_OFF: &str =
    "counting reference for region exceeding the end of the file by one cluster or more";

/// A part of the file that something leads to and that isn't all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The offset at which it starts.
    pub host: HostOffset,
    /// Its length in bytes.
    pub bytes: u64,
    /// The length of the file in bytes.
    pub file: u64,
    /// The length of a cluster in bytes.
    pub cluster: u64,
}

impl Region {
    /// Returns the words for it, where as much as a cluster is missing.
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
    /// Its bits are wrong.
    Bits(EntryError),
    /// It leads beyond the end of the file.
    BeyondTheEnd(Region),
    /// A cluster that is only kept and reads as zeroes is not cluster-aligned.
    UnalignedZero(HostOffset),
    /// A compressed cluster has the COPIED flag.
    CompressedCopied,
    /// A compressed cluster in an image whose data is in another file.
    CompressedWithDataFile,
    /// A cluster of an external data file isn't where the guest has it.
    ElsewhereInDataFile,
    /// A compressed cluster has subclusters.
    CompressedSubclusters,
    /// Subclusters are stored and read as zeroes at once.
    Subclusters,
    /// Subclusters are stored where there is no cluster.
    SubclustersWithoutCluster,
    /// A refcount block that so many things refer to.
    SharedBlock(u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(error) => error.fmt(f),
            Self::BeyondTheEnd(region) => {
                let length = region.file;
                write!(f, "it leads beyond the end of the file ({length} bytes)")
            }
            Self::UnalignedZero(host) => {
                write!(f, "preallocated offset {host} is not cluster-aligned")
            }
            Self::CompressedCopied => {
                f.write_str("a compressed cluster must not have the COPIED flag")
            }
            Self::CompressedWithDataFile => {
                f.write_str("a compressed cluster in an image with a data file")
            }
            Self::ElsewhereInDataFile => {
                f.write_str("it leads to another place of the data file than the guest's own")
            }
            Self::CompressedSubclusters => f.write_str("a compressed cluster has subclusters"),
            Self::Subclusters => f.write_str("the bits of its subclusters contradict each other"),
            Self::SubclustersWithoutCluster => {
                f.write_str("subclusters are stored, but no cluster is")
            }
            Self::SharedBlock(references) => {
                write!(f, "the refcount block is referred to {references} times")
            }
        }
    }
}

impl Finding {
    /// Makes the finding for a snapshot's entry that lacks data that the image's version asks for.
    pub(super) fn incomplete_snapshot(index: usize) -> Self {
        Self::Structure {
            what: format!("snapshot table entry {index} is incomplete"),
            times: 1,
        }
    }

    /// Makes the finding for entries of the snapshot table that the file doesn't have.
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

    /// Adds the finding to the numbers of a report.
    pub(super) fn count_in(&self, report: &mut CheckReport) {
        let sum = if self.is_leak() {
            &mut report.leaks
        } else {
            &mut report.corruptions
        };
        *sum = sum.saturating_add(self.times());
    }

    /// Returns true for a mere leak.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::Leak { .. })
    }

    /// Returns the number that it adds to the leaks or corruptions.
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

    /// Writes the finding without the word in front that says what becomes of it.
    fn body(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leak {
                cluster,
                refcount,
                references,
            }
            | Self::RefcountTooLow {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "cluster {cluster} refcount={refcount} reference={references}"
            ),
            Self::TooManyReferences {
                cluster,
                references,
                most,
            } => write!(
                f,
                "cluster {cluster}: {references} references, but refcounts end at {most}"
            ),
            Self::BadEntry {
                place,
                entry,
                problem,
                times,
            } => {
                write!(f, "{place} ({entry:#x}): {problem}")?;
                shared(f, *times)
            }
            Self::Copied {
                place,
                entry,
                refcount,
                times,
            } => {
                write!(f, "OFLAG_COPIED {place} ({entry:#x}) refcount={refcount}")?;
                shared(f, *times)
            }
            Self::RefcountTable { host, bytes } => write!(
                f,
                "refcount table at {host} ({bytes} bytes) is beyond the end of the file"
            ),
            Self::Structure { what, .. } => f.write_str(what),
        }
    }
}

fn shared(f: &mut fmt::Formatter<'_>, times: u64) -> fmt::Result {
    if times > 1 {
        write!(f, " (counted {times} times: tables share it)")?;
    }
    Ok(())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::BadEntry {
            place,
            problem: Problem::BeyondTheEnd(region),
            times,
            ..
        } = self
        {
            match (place, region.cut_off()) {
                (EntryPlace::RefcountTable { index }, _) => {
                    return write!(f, "ERROR refcount block {index} is outside image");
                }
                (_, Some(words)) => {
                    write!(f, "ERROR: {words} ({place})")?;
                    return shared(f, *times);
                }
                _ => {}
            }
        }
        f.write_str(match self {
            Self::Leak { .. } => "Leaked ",
            Self::Structure { what, .. } if what.starts_with(CUT_OFF) => "ERROR: ",
            Self::RefcountTable { host, bytes } => {
                let host = host.0;
                return write!(
                    f,
                    "ERROR: {CUT_OFF}: offset {host:#x} size {bytes:#x} (refcount table)"
                );
            }
            _ => "ERROR ",
        })?;
        self.body(f)
    }
}

/// A line that a check or a repair says while it works.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Something is wrong, and is left as it is.
    Found(&'a Finding),
    /// Something is wrong, and is being repaired.
    Repairing(&'a Finding),
    /// The refcount structures are being made anew.
    Rebuilding,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(finding) => finding.fmt(f),
            Self::Repairing(finding) => {
                f.write_str("Repairing ")?;
                finding.body(f)
            }
            Self::Rebuilding => f.write_str("Rebuilding refcount structure"),
        }
    }
}
