//! Changes of the refcounts of many clusters at once.
//!
//! A new internal snapshot adds a reference to every cluster of the disk. Changing each refcount separately would
//! take most of the time, and on slow storage would wait for one block after the other. So the references are counted
//! first ([`References`]). Then each refcount block is read, changed and written as a whole, several blocks at a time
//! and 64 clusters at a time.
//!
//! Refcounts may be incremented at any time. They may be decremented as soon as no stored reference is left; see the
//! documentation of [`super`]. The blocks are changed in the file, so the cache must be empty meanwhile.

use std::ops::Range;
use std::sync::Arc;

use super::Refcounts;
use crate::error::{Error, Result};
use crate::formats::qcow2::check::references::{References, WORD};
use crate::formats::qcow2::entries::{refcount_at, set_refcount};
use crate::storage::{Pace, Pieces};
use crate::units::HostOffset;

/// A refcount block with the refcounts of referenced clusters.
struct CountedBlock {
    host: HostOffset,
    /// The first word of its clusters in [`References`].
    word: u64,
}

impl Refcounts {
    /// Returns the first cluster whose refcount can't grow by its number of references.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a referenced cluster has no refcount block.
    pub(in super::super) fn first_overflow(
        &mut self,
        references: &References,
    ) -> Result<Option<u64>> {
        let most = self.geometry.max_refcount();
        let mut first = None;
        self.each_block(
            references,
            false,
            |cluster, count, times| match count.checked_add(times) {
                Some(sum) if sum <= most => Ok(Counted::Kept),
                _ => Ok(Counted::Noted(cluster)),
            },
            |noted| {
                first = first.or(noted.first().map(|run| run.start));
                Ok(())
            },
        )?;
        Ok(first)
    }

    /// Adds the references to the refcounts.
    ///
    /// # Errors
    /// Returns an error as [`first_overflow`](Self::first_overflow) does, or if a refcount would exceed the highest
    /// one.
    pub(in super::super) fn raise_all(&mut self, references: &References) -> Result<()> {
        self.each_block(
            references,
            true,
            |_, count, times| Ok(Counted::Now(count.saturating_add(times))),
            |_| Ok(()),
        )
    }

    /// Subtracts the references from the refcounts. Calls `free` with the runs of clusters whose refcount becomes 0,
    /// in ascending order.
    ///
    /// # Errors
    /// Returns an error as [`first_overflow`](Self::first_overflow) does. Returns an error if a refcount is too low,
    /// since the image is damaged then. Returns the error of `free`.
    pub(in super::super) fn lower_all(
        &mut self,
        references: &References,
        free: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut last: Option<Range<u64>> = None;
        let mut lowest = u64::MAX;
        self.each_block(
            references,
            true,
            |cluster, count, times| match count.checked_sub(times) {
                Some(0) => Ok(Counted::Freed(cluster)),
                Some(left) => Ok(Counted::Now(left)),
                None => Err(Error::corrupt(format!(
                    "the refcount of cluster {cluster} is {count}, less than the references to it"
                ))),
            },
            |runs| {
                for run in runs {
                    lowest = lowest.min(run.start);
                    match &mut last {
                        Some(last) if last.end == run.start => last.end = run.end,
                        _ => {
                            if let Some(last) = last.replace(run) {
                                free(last)?;
                            }
                        }
                    }
                }
                Ok(())
            },
        )?;
        last.map_or(Ok(()), free)?;
        self.hint = self.hint.min(lowest);
        Ok(())
    }

    /// Calls `count` with each referenced cluster, its refcount and its number of references, to get its new
    /// refcount. Calls `take` with the runs of clusters that were noted or freed, block after block. Writes the
    /// blocks if `writes`.
    fn each_block(
        &mut self,
        references: &References,
        writes: bool,
        count: impl Fn(u64, u64, u64) -> Result<Counted> + Sync,
        mut take: impl FnMut(Vec<Range<u64>>) -> Result<()>,
    ) -> Result<()> {
        let storage = Arc::clone(&self.storage);
        self.blocks.leave(storage.as_ref())?;
        let blocks = self.counted_blocks(references)?;
        let bits = self.geometry.refcount_bits();
        // 64 refcounts take 8 × their width in bytes.
        let step = usize::try_from(bits).unwrap_or(64) * 8;
        let change = |block: &CountedBlock, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let mut reported = Vec::new();
            let mut changed = None;
            for (number, (word, chunk)) in (block.word..).zip(bytes.chunks_mut(step)).enumerate() {
                let mut mask = references.bits(word);
                if mask == 0 {
                    continue;
                }
                let is_shared = references.is_shared(word);
                while mask != 0 {
                    let bit = mask.trailing_zeros();
                    mask &= mask - 1;
                    let cluster = word * WORD + u64::from(bit);
                    let times = if is_shared {
                        references.get(cluster)
                    } else {
                        1
                    };
                    let index = usize::try_from(bit).unwrap_or(0);
                    let now = refcount_at(chunk, bits, index).unwrap_or(0);
                    let now = match count(cluster, now, times)? {
                        Counted::Kept => continue,
                        Counted::Now(now) => now,
                        Counted::Noted(cluster) => {
                            note(&mut reported, cluster);
                            continue;
                        }
                        Counted::Freed(cluster) => {
                            note(&mut reported, cluster);
                            0
                        }
                    };
                    set_refcount(chunk, bits, index, now).ok_or_else(|| too_high(cluster, now))?;
                }
                let (first, _) = changed.unwrap_or((number, number));
                changed = Some((first, number));
            }
            if let (true, Some((first, last))) = (writes, changed) {
                let start = first * step;
                let bytes = bytes.get(start..(last + 1) * step).unwrap_or_default();
                storage.write_at(block.host.0 + start as u64, bytes)?;
            }
            Ok(reported)
        };
        let length = storage.len()?;
        let pace = Pace::default();
        let size = self.geometry.cluster_len();
        Pieces::new(storage.as_ref(), length, size, &pace).each(
            &blocks,
            |block| block.host.0,
            change,
            &mut take,
        )
    }

    /// Returns the blocks with the refcounts of referenced clusters.
    fn counted_blocks(&self, references: &References) -> Result<Vec<CountedBlock>> {
        let words_per_block = self.geometry.refcount_block_entries() / WORD;
        let mut blocks: Vec<CountedBlock> = Vec::new();
        let mut next = 0;
        for word in references.words() {
            if word < next || references.bits(word) == 0 {
                continue;
            }
            let index = word / words_per_block;
            let host = self.block_host(index)?.ok_or_else(|| {
                Error::corrupt(format!(
                    "cluster {} is in use and isn't counted",
                    word * WORD
                ))
            })?;
            next = (index + 1) * words_per_block;
            blocks.push(CountedBlock {
                host,
                word: index * words_per_block,
            });
        }
        Ok(blocks)
    }
}

/// The new state of a cluster's refcount.
enum Counted {
    /// It is unchanged.
    Kept,
    /// It is unchanged, and the cluster is reported to the caller.
    Noted(u64),
    /// It has this new value.
    Now(u64),
    /// It becomes 0, and the cluster is reported to the caller.
    Freed(u64),
}

fn note(runs: &mut Vec<Range<u64>>, cluster: u64) {
    match runs.last_mut() {
        Some(last) if last.end == cluster => last.end += 1,
        _ => runs.push(cluster..cluster + 1),
    }
}

#[cold]
fn too_high(cluster: u64, count: u64) -> Error {
    Error::invalid(format!(
        "the refcount of cluster {cluster} would be {count}, which the image can't store"
    ))
}
