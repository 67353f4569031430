//! A set of clusters or blocks of a file, to find those that are referenced twice.

use std::collections::HashMap;
use std::ops::Range;

/// The number of clusters in one part of the set.
const PART: u64 = 64 * 512;

/// A set of clusters, by their indexes. It takes memory only for parts of the file with any.
#[derive(Debug, Default)]
pub struct ClusterSet {
    parts: HashMap<u64, Vec<u64>>,
    count: u64,
}

impl ClusterSet {
    /// Adds a cluster. Returns false if it is in the set already.
    pub fn insert(&mut self, cluster: u64) -> bool {
        let part = self.parts.entry(cluster / PART);
        let words = part.or_insert_with(|| vec![0; 512]);
        let bit = 1 << (cluster % 64);
        let place = usize::try_from(cluster % PART / 64).unwrap_or_default();
        let is_new = words.get_mut(place).is_some_and(|word| {
            let is_new = *word & bit == 0;
            *word |= bit;
            is_new
        });
        self.count += u64::from(is_new);
        is_new
    }

    /// Adds clusters. Returns the number of those that are in the set already.
    pub fn insert_all(&mut self, clusters: Range<u64>) -> u64 {
        let known = clusters.filter(|cluster| !self.insert(*cluster));
        known.count() as u64
    }

    /// Returns the number of clusters in the set.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_is_new_once() {
        let mut set = ClusterSet::default();
        let clusters = [0, 1, 63, 64, PART - 1, PART, u64::MAX, 1 << 40];
        for cluster in clusters {
            assert!(set.insert(cluster) && !set.insert(cluster));
        }
        assert_eq!(set.count(), 8);
    }
}
