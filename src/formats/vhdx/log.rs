//! The log: changes of metadata that a writer may not have completed.
//!
//! It is a ring of entries, each of which has a checksum and whole sectors of 4096 bytes. Entries with consecutive
//! sequence numbers, up to one whose tail is among them, form a sequence. The sequence with the highest number is the
//! active one. For each change an entry has the new contents of a sector, or a range to be zeroed.

use super::checksum::is_right;
use super::header::VhdxHeader;
use crate::error::{Error, Result};
use crate::formats::fields::{u32_le, u64_le};
use crate::storage::Storage;

/// The sector size of the log in bytes: the unit of entries and of changes.
pub(super) const SECTOR: usize = 4096;
/// The largest log that is read, in bytes. Other programs make logs of 1 MiB.
const LONGEST: u64 = 256 << 20;
/// The limit of the offsets of changes, in bytes. No disk is that large.
const MOST_END: u64 = 1 << 47;
/// The limit of the search for the active sequence, in multiples of the log's length.
const MOST_LOOKS: usize = 16;
/// The length of the header of an entry, and of a descriptor, in bytes.
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// The offsets of the fields of an entry's header, in bytes.
mod at {
    pub(super) const LENGTH: usize = 8;
    pub(super) const TAIL: usize = 12;
    pub(super) const SEQUENCE: usize = 16;
    pub(super) const DESCRIPTORS: usize = 24;
    pub(super) const LOG_ID: usize = 32;
    pub(super) const FLUSHED: usize = 48;
    pub(super) const LAST: usize = 56;
}

/// A change of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogChange {
    /// A sector gets new contents.
    Data {
        /// Its offset in bytes, a multiple of 4096.
        offset: u64,
        /// Its 4096 bytes.
        bytes: Vec<u8>,
    },
    /// A range is zeroed.
    Zero {
        /// Its offset in bytes, a multiple of 4096.
        offset: u64,
        /// Its length in bytes, a multiple of 4096.
        length: u64,
    },
}

impl LogChange {
    /// Returns the end of the changed range, in bytes of the file.
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::Data { offset, .. } => offset.saturating_add(SECTOR as u64),
            Self::Zero { offset, length } => offset.saturating_add(*length),
        }
    }
}

/// The changes of a log that has to be replayed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PendingLog {
    /// The changes in order.
    pub(super) changes: Vec<LogChange>,
    /// The smallest length of the file after the replay, in bytes.
    pub(super) length: u64,
}

/// A valid log entry.
struct LogEntry {
    start: usize,
    length: usize,
    tail: usize,
    sequence: u64,
    flushed: u64,
    last: u64,
    changes: Vec<LogChange>,
}

/// The bytes of the log.
struct Ring {
    bytes: Vec<u8>,
    id: [u8; 16],
    /// The number of bytes that may still be examined.
    budget: usize,
}

impl PendingLog {
    /// Reads the log of the image in `file`. Returns `None` if it is empty.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the log can't be replayed.
    pub(super) fn read(file: &dyn Storage, header: &VhdxHeader) -> Result<Option<Self>> {
        let Some(id) = header.log_id() else {
            return Ok(None);
        };
        let file_length = file.len()?;
        let length = header.log_length();
        let end = header.log_offset().checked_add(length);
        let length = usize::try_from(length.min(LONGEST + 1)).unwrap_or(usize::MAX);
        if length as u64 > LONGEST || end.is_none_or(|end| end > file_length) {
            return Err(not_replayable(file));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(header.log_offset(), &mut bytes, "the log")?;
        let mut ring = Ring {
            budget: length.saturating_mul(MOST_LOOKS),
            bytes,
            id,
        };
        let Some(entries) = ring.sequence().ok_or_else(|| not_replayable(file))? else {
            return Ok(None);
        };
        let flushed = entries.iter().map(|entry| entry.flushed).max();
        let last = entries.iter().map(|entry| entry.last).max();
        let changes: Vec<_> = entries
            .into_iter()
            .flat_map(|entry| entry.changes)
            .collect();
        let end = changes.iter().map(LogChange::end).max().unwrap_or(0);
        let length = file_length.max(end).max(last.unwrap_or(0));
        // The file has lost data that was on stable storage when the entry was written.
        if flushed.unwrap_or(0) > file_length || length > MOST_END {
            return Err(not_replayable(file));
        }
        Ok(Some(Self { changes, length }))
    }
}

impl Ring {
    /// Returns the active sequence. Returns the outer `None` if the search takes too long.
    fn sequence(&mut self) -> Option<Option<Vec<LogEntry>>> {
        let mut best: Vec<LogEntry> = Vec::new();
        let mut start = 0;
        while start < self.bytes.len() {
            let mut run = self.run(start)?;
            let rank = |run: &[LogEntry]| run.last().map(|head| (head.sequence, run.len()));
            start += run.first().map_or(SECTOR, |first| first.length);
            if rank(&run) > rank(&best) {
                // Entries before the tail were completed. QEMU ignores the tail, which may be missing.
                let tail = run.last().map_or(0, |head| head.tail);
                if let Some(first) = run.iter().position(|entry| entry.start == tail) {
                    run.drain(..first);
                }
                best = run;
            }
        }
        Some(Some(best).filter(|best| !best.is_empty()))
    }

    /// Returns the entries from `start` on that have consecutive sequence numbers.
    fn run(&mut self, start: usize) -> Option<Vec<LogEntry>> {
        let mut run: Vec<LogEntry> = Vec::new();
        let mut total = 0;
        loop {
            let next = (start + total) % self.bytes.len();
            let Some(entry) = self.entry(next)? else {
                break;
            };
            let expected = run.last().map(|last| last.sequence.wrapping_add(1));
            total += entry.length;
            if expected.is_some_and(|expected| entry.sequence != expected)
                || total > self.bytes.len()
            {
                break;
            }
            run.push(entry);
        }
        Some(run)
    }

    /// Returns the entry at `start`, or the inner `None` if there is no valid one.
    fn entry(&mut self, start: usize) -> Option<Option<LogEntry>> {
        let header = self.bytes.get(start..start + ENTRY_HEADER)?;
        let number = |at: usize| u32_le(header, at);
        let long = |at: usize| u64_le(header, at);
        let [length, tail, count] = [at::LENGTH, at::TAIL, at::DESCRIPTORS]
            .map(|at| usize::try_from(number(at)).unwrap_or(usize::MAX));
        let is_mine = header.get(at::LOG_ID..at::LOG_ID + 16) == Some(&self.id[..]);
        let is_length = length.is_multiple_of(SECTOR) && length > 0 && length <= self.bytes.len();
        let described = ENTRY_HEADER.saturating_add(count.saturating_mul(DESCRIPTOR));
        if !header.starts_with(b"loge")
            || !is_mine
            || !is_length
            || described > length
            || long(at::SEQUENCE) == 0
        {
            return Some(None);
        }
        let mut entry = LogEntry {
            start,
            length,
            tail,
            sequence: long(at::SEQUENCE),
            flushed: long(at::FLUSHED),
            last: long(at::LAST),
            changes: Vec::new(),
        };
        self.budget = self.budget.checked_sub(length)?;
        let before = length.min(self.bytes.len() - start);
        let mut bytes = self.bytes.get(start..start + before)?.to_vec();
        bytes.extend_from_slice(self.bytes.get(..length - before)?);
        if !is_right(&bytes) {
            return Some(None);
        }
        let changes = changes(&bytes, count, entry.sequence);
        Some(changes.map(|changes| {
            entry.changes = changes;
            entry
        }))
    }
}

/// Parses the changes of an entry, or returns `None` if a part of it is invalid.
fn changes(bytes: &[u8], count: usize, sequence: u64) -> Option<Vec<LogChange>> {
    let described = ENTRY_HEADER + count * DESCRIPTOR;
    let mut sectors = bytes
        .get(described.next_multiple_of(SECTOR)..)?
        .chunks_exact(SECTOR);
    let descriptors = bytes.get(ENTRY_HEADER..described)?.chunks_exact(DESCRIPTOR);
    let changes = descriptors.map(|descriptor| {
        let long = |at: usize| u64_le(descriptor, at);
        let offset = long(16);
        if long(24) != sequence || !offset.is_multiple_of(SECTOR as u64) {
            return None;
        }
        if descriptor.starts_with(b"zero") {
            let length = long(8);
            let is_length = length.is_multiple_of(SECTOR as u64);
            return is_length.then_some(LogChange::Zero { offset, length });
        }
        if !descriptor.starts_with(b"desc") {
            return None;
        }
        let sector = sectors
            .next()
            .filter(|sector| sector.starts_with(b"data"))?;
        let (high, low) = (sector.get(4..8)?, sector.get(SECTOR - 4..)?);
        if [low, high].concat() != sequence.to_le_bytes() {
            return None;
        }
        // The signature and the sequence number replace twelve bytes of the sector, which are in the descriptor.
        let bytes = [
            descriptor.get(8..16)?,
            sector.get(8..SECTOR - 4)?,
            descriptor.get(4..8)?,
        ];
        Some(LogChange::Data {
            offset,
            bytes: bytes.concat(),
        })
    });
    changes.collect()
}

/// Returns the error for a log that has to be replayed before the image can be read.
fn not_replayable(file: &dyn Storage) -> Error {
    let name = crate::error::printable(&file.location().to_string_lossy());
    Error::corrupt(format!(
        "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed"
    ))
    .with_hint(format!(
        "To replay the log, run:\nqemu-img check -r all '{name}'"
    ))
}
