//! The clusters of a numbered sequence of guest clusters or L2 tables.

use crate::formats::Run;
use crate::formats::qcow2::geometry::Geometry;
use crate::units::{GuestOffset, HostOffset};

/// The clusters of all items from number 0 on, as runs in which both the number and the cluster grow by one.
#[derive(Debug, Default)]
pub(super) struct PlacedRuns {
    /// The number and the cluster of the first item of each run.
    runs: Vec<(u64, u64)>,
}

impl PlacedRuns {
    /// Adds the items from `number` on, which follow the present ones. The first is at `cluster`.
    pub(super) fn push(&mut self, number: u64, cluster: u64) {
        let follows = |(first, start): &(u64, u64)| start + (number - first) == cluster;
        if !self.runs.last().is_some_and(follows) {
            self.runs.push((number, cluster));
        }
    }

    /// Returns the cluster of an item, and the number of items from it to the end of its run.
    pub(super) fn find(&self, number: u64) -> (u64, u64) {
        let behind = self.runs.partition_point(|(first, _)| *first <= number);
        let run = behind.checked_sub(1).and_then(|run| self.runs.get(run));
        let (first, start) = run.copied().unwrap_or_default();
        let end = self.runs.get(behind).map_or(u64::MAX, |(next, _)| *next);
        (start + (number - first), end - number)
    }

    /// Splits a part of a chunk at `guest` into pieces that are contiguous in the file.
    pub(super) fn cut(
        &self,
        geometry: Geometry,
        guest: GuestOffset,
        run: &Run,
    ) -> Vec<(Run, HostOffset)> {
        let size = geometry.cluster_size();
        let mut pieces = Vec::new();
        let mut start = run.start;
        while start < run.end {
            let offset = guest.0 + start as u64;
            let within = geometry.within_cluster(offset);
            let (cluster, count) = self.find(offset / size);
            let left = count.saturating_mul(size) - within;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let end = run.end.min(start.saturating_add(left));
            pieces.push((start..end, HostOffset(cluster * size + within)));
            start = end;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_found_and_cut() {
        let mut places = PlacedRuns::default();
        places.push(0, 5);
        places.push(2, 7);
        places.push(4, 20);
        assert_eq!(places.runs, [(0, 5), (4, 20)]);
        assert_eq!(places.find(3), (8, 1));
        assert_eq!(places.find(6), (22, u64::MAX - 6));
        let geometry = Geometry::new(9, false, 4).unwrap();
        let pieces = places.cut(geometry, GuestOffset(1024), &(100..1536));
        let first = (100..1024, HostOffset(7 * 512 + 100));
        assert_eq!(pieces, [first, (1024..1536, HostOffset(20 * 512))]);
    }
}
