//! The stored refcounts, reduced to two bits for each cluster.
//!
//! Nearly all refcounts are 0 or 1. So each refcount block is read once and kept as bits. There is one bit for each
//! refcount that is exactly 1 and, if there are any, one for each that is higher. The higher refcounts are read again
//! when they are needed. A block to which several table entries refer is kept once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::references::WORD;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{RefcountTableEntry, refcount_at};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::qcow2::header::Header;
use crate::formats::qcow2::read::tables::decode;
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

/// The summary of a refcount block.
#[derive(Debug, Default)]
struct Summary {
    /// A bit for each refcount that is exactly 1; empty if there is none.
    ones: Vec<u64>,
    /// A bit for each refcount above 1; empty if there is none.
    more: Vec<u64>,
}

/// The stored refcounts.
#[derive(Debug)]
pub struct StoredRefcounts<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    /// The file's length in bytes.
    length: u64,
    table: Vec<RefcountTableEntry>,
    /// For each entry of the table, the index of its block's summary, or `None` if there is no readable block.
    which: Vec<Option<u32>>,
    summaries: Vec<Summary>,
    last: Mutex<Option<(HostOffset, Vec<u8>)>>,
}

impl<'a> StoredRefcounts<'a> {
    /// Reads the refcount table, and the blocks with the refcounts of a file of `length` bytes.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn read(storage: &'a dyn Storage, header: &Header, length: u64) -> Result<Self> {
        let geometry = header.geometry();
        let table = read_refcount_table(storage, header, length)?;
        // Beyond the file's end, at most one cluster can be referenced.
        let blocks = (geometry.clusters(length) + 1).div_ceil(geometry.refcount_block_entries());
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        let mut hosts = Vec::new();
        let mut numbers = HashMap::new();
        let mut which = Vec::new();
        for entry in table.iter().take(blocks) {
            let host = entry.host();
            let readable = host.0 != 0 && geometry.is_aligned(host) && host.0 < length;
            which.push(if readable {
                let next = u32::try_from(hosts.len()).map_err(|_| too_many())?;
                let number = *numbers.entry(host).or_insert(next);
                if number == next {
                    hosts.push(host);
                }
                Some(number)
            } else {
                None
            });
        }
        drop(numbers);
        let mut summaries = Vec::new();
        // QEMU may end the file inside the last block, after its last used entry. The rest of it reads as zeroes.
        let pace = Pace::default();
        Pieces::new(storage, length, geometry.cluster_len(), &pace).each(
            &hosts,
            |host| host.0,
            |_, block| Ok(summary(block, geometry.refcount_bits())),
            |summary| {
                summaries.push(summary);
                Ok(())
            },
        )?;
        Ok(Self {
            storage,
            geometry,
            length,
            table,
            which,
            summaries,
            last: Mutex::default(),
        })
    }

    /// Returns the refcount table.
    pub fn table(&self) -> &[RefcountTableEntry] {
        &self.table
    }

    /// Returns true if one of the blocks that were read has the refcount of a cluster.
    pub fn has_block(&self, cluster: u64) -> bool {
        let block = usize::try_from(cluster / self.geometry.refcount_block_entries());
        block.is_ok_and(|block| self.which.get(block).is_some_and(Option::is_some))
    }

    fn summary(&self, word: u64) -> Option<(&Summary, usize)> {
        let words = self.geometry.refcount_block_entries() / WORD;
        let block = usize::try_from(word / words).ok()?;
        let number = (*self.which.get(block)?)?;
        let summary = self.summaries.get(usize::try_from(number).ok()?)?;
        Some((summary, usize::try_from(word % words).ok()?))
    }

    /// Returns a bit for each of the 64 clusters from `word` × 64 on, set if its refcount is exactly 1.
    pub fn ones(&self, word: u64) -> u64 {
        let found = self.summary(word);
        found
            .and_then(|(summary, index)| summary.ones.get(index).copied())
            .unwrap_or(0)
    }

    /// Returns a bit for each of the 64 clusters from `word` × 64 on, set if its refcount is above 1.
    pub fn more(&self, word: u64) -> u64 {
        let found = self.summary(word);
        found
            .and_then(|(summary, index)| summary.more.get(index).copied())
            .unwrap_or(0)
    }

    /// Returns true if a cluster's refcount is exactly 1.
    pub fn is_one(&self, cluster: u64) -> bool {
        self.ones(cluster / WORD) >> (cluster % WORD) & 1 != 0
    }

    /// Returns a cluster's refcount.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn get(&self, cluster: u64) -> Result<u64> {
        let (word, bit) = (cluster / WORD, cluster % WORD);
        if self.more(word) >> bit & 1 == 0 {
            return Ok(self.ones(word) >> bit & 1);
        }
        let per_block = self.geometry.refcount_block_entries();
        let host = usize::try_from(cluster / per_block)
            .ok()
            .and_then(|block| self.table.get(block))
            .map_or(HostOffset(0), |entry| entry.host());
        let index = usize::try_from(cluster % per_block).unwrap_or(usize::MAX);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(at, _)| *at != host) {
            let mut block = vec![0; self.geometry.cluster_len()];
            self.storage
                .read_padded_at(host.0, &mut block, self.length)?;
            *last = Some((host, block));
        }
        let block = last.as_ref().map_or(&[][..], |(_, block)| block);
        Ok(refcount_at(block, self.geometry.refcount_bits(), index).unwrap_or(0))
    }
}

/// Reads the refcount table. The part beyond the file's end reads as zeroes, which are entries without a block.
fn read_refcount_table(
    storage: &dyn Storage,
    header: &Header,
    file: u64,
) -> Result<Vec<RefcountTableEntry>> {
    let place = header.refcount_table();
    // The check of the header limits the table to 8 MiB.
    let length = usize::try_from(place.entries * ENTRY_SIZE).map_err(|_| too_many())?;
    let mut table = vec![0; length];
    storage.read_padded_at(place.host.0, &mut table, file)?;
    Ok(decode(&table).into_iter().map(RefcountTableEntry).collect())
}

fn too_many() -> Error {
    Error::corrupt("the refcount table is too big")
}

fn summary(block: &[u8], bits: u32) -> Summary {
    let mut summary = Summary::default();
    if block.iter().all(|byte| *byte == 0) {
        return summary;
    }
    // 64 refcounts take 8 × their width in bytes.
    for (word, chunk) in block.chunks(bits as usize * 8).enumerate() {
        let (ones, more) = if bits == 16 {
            summary_of_16(chunk)
        } else {
            summary_of(chunk, bits)
        };
        summary.ones.push(ones);
        if more != 0 {
            summary.more.resize(word, 0);
            summary.more.push(more);
        }
    }
    summary
}

fn summary_of(chunk: &[u8], bits: u32) -> (u64, u64) {
    let mut ones = 0;
    let mut more = 0;
    for index in 0..64 {
        match refcount_at(chunk, bits, index) {
            None | Some(0) => {}
            Some(1) => ones |= 1 << index,
            Some(_) => more |= 1 << index,
        }
    }
    (ones, more)
}

/// Summarizes refcounts of the default width, of which most chunks are all 1 or all 0.
fn summary_of_16(chunk: &[u8]) -> (u64, u64) {
    let (refcounts, _) = chunk.as_chunks();
    if refcounts.len() == 64 {
        if refcounts.iter().all(|refcount| *refcount == [0, 1]) {
            return (u64::MAX, 0);
        }
        if refcounts.iter().all(|refcount| *refcount == [0, 0]) {
            return (0, 0);
        }
    }
    summary_of(chunk, 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_say_what_the_refcounts_are() {
        let mut block = vec![0; 512];
        block[1] = 1;
        block[3] = 2;
        block[2] = 1;
        block[7] = 1;
        block[129] = 1;
        let sixteen = summary(&block, 16);
        assert_eq!(sixteen.ones, [0b1001, 1, 0, 0]);
        assert_eq!(sixteen.more, [0b0010]);
        let eight = summary(&block, 8);
        assert_eq!(eight.ones[0], 1 << 1 | 1 << 2 | 1 << 7);
        assert_eq!(eight.more, [1 << 3]);
        let one = summary(&block, 1);
        assert_eq!(one.ones[0], 1 << 8 | 1 << 16 | 1 << 25 | 1 << 56);
        assert!(one.more.is_empty());
        assert!(summary(&[0; 512], 16).ones.is_empty());
        let ones: Vec<u8> = [0, 1].repeat(256);
        assert_eq!(summary(&ones, 16).ones, [u64::MAX; 4]);
    }
}
