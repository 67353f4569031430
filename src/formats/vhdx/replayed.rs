//! A file in its state after the replay of its log.
//!
//! The changes are in memory, so that an image can be read without write access.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::log::{LogChange, PendingLog};
use crate::error::{Error, Result};
use crate::storage::{Filter, Storage};

/// A file with the changes of its log.
#[derive(Debug)]
pub(super) struct ReplayedFile {
    inner: Arc<dyn Storage>,
    /// The changed ranges, by their start in bytes. They are disjoint.
    parts: BTreeMap<u64, ReplayedPart>,
    length: u64,
}

/// A changed range.
#[derive(Debug, Clone)]
struct ReplayedPart {
    /// Its end in bytes.
    end: u64,
    /// Its bytes, or `None` for zeroes.
    bytes: Option<Vec<u8>>,
}

impl ReplayedFile {
    /// Returns the file `inner` with the changes of its log.
    pub(super) fn new(inner: Arc<dyn Storage>, log: PendingLog) -> Self {
        let mut file = Self {
            inner,
            parts: BTreeMap::new(),
            length: log.length,
        };
        for change in log.changes {
            let end = change.end();
            match change {
                LogChange::Data { offset, bytes } => file.put(offset, end, Some(bytes)),
                LogChange::Zero { offset, .. } => file.put(offset, end, None),
            }
        }
        file
    }

    /// Replaces a range by newer contents.
    fn put(&mut self, start: u64, end: u64, bytes: Option<Vec<u8>>) {
        if start >= end {
            return;
        }
        let before = self.parts.range(..end);
        let touched: Vec<u64> = before
            .rev()
            .take_while(|(_, part)| part.end > start)
            .map(|(at, _)| *at)
            .collect();
        for at in touched {
            let Some(old) = self.parts.remove(&at) else {
                continue;
            };
            let piece = |range: Range<u64>| {
                let bytes = old.bytes.as_ref().map(|bytes| {
                    let within = |place: u64| usize::try_from(place - at).unwrap_or(bytes.len());
                    let piece = bytes.get(within(range.start)..within(range.end));
                    piece.unwrap_or_default().to_vec()
                });
                ReplayedPart {
                    end: range.end,
                    bytes,
                }
            };
            if at < start {
                self.parts.insert(at, piece(at..start));
            }
            if old.end > end {
                self.parts.insert(end, piece(end..old.end));
            }
        }
        self.parts.insert(start, ReplayedPart { end, bytes });
    }
}

impl Filter for ReplayedFile {
    fn inner(&self) -> &dyn Storage {
        self.inner.as_ref()
    }

    fn len(&self) -> Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let length = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(buf.len());
        let buf = buf.get_mut(..length).unwrap_or_default();
        let read = self.inner.read_at(offset, buf)?;
        buf.get_mut(read..).unwrap_or_default().fill(0);
        let end = offset.saturating_add(length as u64);
        let before = self.parts.range(..end).rev();
        for (start, part) in before.take_while(|(_, part)| part.end > offset) {
            let (from, to) = (offset.max(*start), end.min(part.end));
            let within = |at: u64| usize::try_from(at - offset).unwrap_or(length);
            let target = buf.get_mut(within(from)..within(to)).unwrap_or_default();
            match &part.bytes {
                None => target.fill(0),
                Some(bytes) => {
                    let skipped = usize::try_from(from - start).unwrap_or(bytes.len());
                    for (to, from) in target.iter_mut().zip(bytes.iter().skip(skipped)) {
                        *to = *from;
                    }
                }
            }
        }
        Ok(length)
    }

    /// Reports everything as data, since holes may have been changed.
    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok((offset < self.length).then_some(offset..self.length))
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(only_read())
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Err(only_read())
    }

    fn punch(&self, _: Range<u64>) -> Result<bool> {
        Err(only_read())
    }

    fn reserve(&self, _: Range<u64>) -> Result<bool> {
        Err(only_read())
    }

    fn copy_from(&self, _: u64, _: &dyn Storage, _: u64, _: u64) -> Result<bool> {
        Err(only_read())
    }
}

fn only_read() -> Error {
    Error::unsupported("a file whose log isn't replayed is only read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn later_changes_are_in_front_of_earlier_ones() {
        let mut expected = vec![1u8; 10 * 4096];
        let inner: Arc<dyn Storage> = Arc::new(MemoryStorage::new(expected.clone()));
        expected.resize(14 * 4096, 0);
        let mut changes = Vec::new();
        for (sector, length, byte) in [
            (2u8, 5u8, 0u8),
            (3, 1, 7),
            (12, 1, 8),
            (0, 1, 9),
            (6, 3, 0),
            (3, 1, 6),
            (2, 1, 5),
            (12, 1, 0),
        ] {
            let offset = u64::from(sector) * 4096;
            let range = usize::from(sector) * 4096..usize::from(sector + length) * 4096;
            expected[range].fill(byte);
            changes.push(match byte {
                0 => LogChange::Zero {
                    offset,
                    length: u64::from(length) * 4096,
                },
                byte => LogChange::Data {
                    offset,
                    bytes: vec![byte; 4096],
                },
            });
        }
        let length = 14 * 4096;
        let file = ReplayedFile::new(inner, PendingLog { changes, length });
        let file: &dyn Storage = &file;
        for (start, length) in [
            (0, expected.len() + 5),
            (100, 9000),
            (4095, 2),
            (50000, 9999),
        ] {
            let mut read = vec![0xee; length];
            let count = file.read_at(start as u64, &mut read).unwrap();
            let end = (start + length).min(expected.len());
            assert_eq!(count, end - start);
            assert!(read[..count] == expected[start..end]);
        }
        assert_eq!(file.len().unwrap(), length);
        assert!(file.write_at(0, &[0]).is_err());
    }
}
