//! The number of references to each cluster of the file.
//!
//! Nearly every used cluster is referenced once. So one bit for each cluster records that it is referenced at least
//! once, which takes 2 MiB for a disk of 1 TiB. Counts beyond the first reference are stored only where there are
//! any, for 64 clusters at a time. Memory is allocated only for referenced parts of the file, so that a huge, empty
//! file takes nearly none.
//!
//! Many threads count at once. Bits are set 64 at a time, since the clusters of an L2 table are mostly contiguous;
//! see [`ReferenceRun`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The number of clusters in one word of bits.
pub const WORD: u64 = WORD_BITS as u64;
const WORD_BITS: usize = 64;
/// The number of words that are allocated together.
const PAGE: usize = 64;
/// The number of parts of the map of higher counts. Each has its own lock, so that threads rarely wait.
const SHARDS: usize = 64;

type BitPage = Box<[AtomicU64; PAGE]>;
type Counts = Box<[u16; WORD_BITS]>;

/// The number of references to each cluster of a file.
#[derive(Debug)]
pub struct References {
    clusters: u64,
    pages: Box<[OnceLock<BitPage>]>,
    any_more: AtomicBool,
    more: Box<[Mutex<HashMap<u64, Counts>>]>,
    /// The counts that don't fit into 16 bits, less the part that does.
    most: Mutex<HashMap<u64, u64>>,
}

impl References {
    /// Returns counts of 0 for `clusters` clusters, which the caller has limited to 2^31.
    pub fn new(clusters: u64) -> Self {
        let pages = clusters.div_ceil(WORD * PAGE as u64);
        Self {
            clusters,
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            any_more: AtomicBool::new(false),
            more: (0..SHARDS).map(|_| Mutex::default()).collect(),
            most: Mutex::default(),
        }
    }

    fn place(word: u64) -> Option<(usize, usize)> {
        let page = usize::try_from(word / PAGE as u64).ok()?;
        let within = usize::try_from(word % PAGE as u64).ok()?;
        Some((page, within))
    }

    /// Adds `times` references to each cluster whose bit is set in `mask`, among the 64 clusters from `word` × 64 on.
    /// Ignores clusters beyond the file.
    pub fn add_word(&self, word: u64, mask: u64, times: u64) {
        let Some((page, within)) = Self::place(word) else {
            return;
        };
        let Some(page) = self.pages.get(page) else {
            return;
        };
        let page = page.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PAGE]));
        let Some(bits) = page.get(within) else {
            return;
        };
        let again = bits.fetch_or(mask, Ordering::Relaxed) & mask;
        if again == 0 && times == 1 {
            return;
        }
        self.any_more.store(true, Ordering::Relaxed);
        let Some(mut more) = self.shard(word) else {
            return;
        };
        let counts = more.entry(word).or_insert_with(|| Box::new([0; WORD_BITS]));
        for (bit, count) in (0..WORD).zip(counts.iter_mut()) {
            if mask >> bit & 1 == 0 {
                continue;
            }
            let first = u64::from(again >> bit & 1 == 0);
            let sum = u64::from(*count).saturating_add(times - first);
            *count = u16::try_from(sum).unwrap_or(u16::MAX);
            let rest = sum - u64::from(*count);
            if rest > 0 {
                let mut most = lock(&self.most);
                let entry = most.entry(word * WORD + bit).or_default();
                *entry = entry.saturating_add(rest);
            }
        }
    }

    /// Adds `times` references to one cluster.
    pub fn add(&self, cluster: u64, times: u64) {
        if times > 0 && cluster < self.clusters {
            self.add_word(cluster / WORD, 1 << (cluster % WORD), times);
        }
    }

    /// Returns a bit for each of the 64 clusters from `word` × 64 on, which is set if the cluster is referenced.
    pub fn bits(&self, word: u64) -> u64 {
        Self::place(word)
            .and_then(|(page, within)| self.pages.get(page)?.get()?.get(within))
            .map_or(0, |bits| bits.load(Ordering::Relaxed))
    }

    /// Returns true if one of the 64 clusters from `word` × 64 on is referenced more than once.
    pub fn is_shared(&self, word: u64) -> bool {
        self.any_more.load(Ordering::Relaxed)
            && self
                .shard(word)
                .is_some_and(|more| more.contains_key(&word))
    }

    /// Returns the number of references to a cluster.
    pub fn get(&self, cluster: u64) -> u64 {
        let (word, bit) = (cluster / WORD, cluster % WORD);
        if self.bits(word) >> bit & 1 == 0 {
            return 0;
        }
        if !self.any_more.load(Ordering::Relaxed) {
            return 1;
        }
        let index = usize::try_from(bit).unwrap_or(0);
        let more = self
            .shard(word)
            .and_then(|more| more.get(&word)?.get(index).copied())
            .unwrap_or(0);
        if more < u16::MAX {
            return 1 + u64::from(more);
        }
        let most = lock(&self.most).get(&cluster).copied().unwrap_or(0);
        (1 + u64::from(more)).saturating_add(most)
    }

    /// Returns the words that may have a bit set, in ascending order.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        (0u64..)
            .zip(&self.pages)
            .filter(|(_, page)| page.get().is_some())
            .flat_map(|(page, _)| page * PAGE as u64..(page + 1) * PAGE as u64)
    }

    fn shard(&self, word: u64) -> Option<MutexGuard<'_, HashMap<u64, Counts>>> {
        let index = usize::try_from(word % SHARDS as u64).ok()?;
        self.more.get(index).map(lock)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts references to single clusters in any order, and adds them to the counts 64 clusters at a time.
pub struct ReferenceRun<'a> {
    references: &'a References,
    times: u64,
    word: u64,
    mask: u64,
}

impl<'a> ReferenceRun<'a> {
    /// Starts a run in which every cluster is referenced `times` times.
    pub fn new(references: &'a References, times: u64) -> Self {
        Self {
            references,
            times,
            word: 0,
            mask: 0,
        }
    }

    /// Counts a reference to one cluster.
    #[inline]
    pub fn add(&mut self, cluster: u64) {
        let bit = 1 << (cluster % WORD);
        if cluster / WORD != self.word || self.mask & bit != 0 {
            self.finish();
            self.word = cluster / WORD;
        }
        if cluster < self.references.clusters {
            self.mask |= bit;
        }
    }

    /// Adds the rest to the counts.
    pub fn finish(&mut self) {
        if self.mask != 0 && self.times != 0 {
            self.references.add_word(self.word, self.mask, self.times);
        }
        self.mask = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_any_height() {
        let references = References::new(1000);
        references.add(5, 1);
        references.add(6, 70_000);
        references.add(6, 70_000);
        references.add(7, 65_536);
        references.add(8, 65_537);
        references.add(1000, 1);
        let counts: Vec<_> = (4..10).map(|cluster| references.get(cluster)).collect();
        assert_eq!(counts, [0, 1, 140_000, 65_536, 65_537, 0]);
        assert_eq!(references.get(1000), 0);
        assert_eq!(references.bits(0), 0b1_1110_0000);
        assert!(references.is_shared(0) && !references.is_shared(1));
        assert_eq!(references.words().count(), 64);
    }

    #[test]
    fn runs_add_up() {
        let references = References::new(1 << 20);
        for times in [1, 3] {
            let mut run = ReferenceRun::new(&references, times);
            for cluster in [63, 64, 65, 65, 64, 100_000, 1 << 20] {
                run.add(cluster);
            }
            run.finish();
        }
        let counts: Vec<_> = [62, 63, 64, 65, 66, 100_000]
            .map(|cluster| references.get(cluster))
            .into();
        assert_eq!(counts, [0, 4, 8, 8, 0, 4]);
    }

    #[test]
    fn threads_lose_nothing() {
        let references = References::new(4096);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for cluster in 0..4096 {
                        references.add(cluster, 1);
                    }
                });
            }
        });
        assert!((0..4096).all(|cluster| references.get(cluster) == 4));
    }
}
