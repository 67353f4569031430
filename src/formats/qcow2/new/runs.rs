//! Operations on the runs of a chunk: sorted, disjoint ranges of bytes.

use crate::formats::Run;
use crate::formats::qcow2::entries::{SUBCLUSTERS, Subcluster, SubclusterBitmap};
use crate::units::HostOffset;

/// Widens runs to whole units, and joins them where they touch. The last unit ends with the chunk.
pub(super) fn widen(runs: &[Run], unit: usize, chunk: usize) -> Vec<Run> {
    let mut widened: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        let start = run.start / unit * unit;
        let end = run.end.next_multiple_of(unit).min(chunk);
        match widened.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => widened.push(start..end),
        }
    }
    widened
}

/// Returns the union of two lists of runs.
pub(super) fn union(one: &[Run], other: &[Run]) -> Vec<Run> {
    let mut all = [one, other].concat();
    all.sort_unstable_by_key(|run| run.start);
    widen(&all, 1, usize::MAX)
}

/// Returns true if any run overlaps `range`.
pub(super) fn overlap(runs: &[Run], range: &Run) -> bool {
    let first = runs.partition_point(|run| run.end <= range.start);
    runs.get(first).is_some_and(|run| run.start < range.end)
}

/// Returns the subcluster bitmap for the cluster at `start`, whose subclusters have `unit` bytes. A subcluster with
/// any data is allocated. One with only zeroes reads as zeroes.
pub(super) fn bitmap(start: usize, unit: usize, data: &[Run], zeroes: &[Run]) -> SubclusterBitmap {
    let mut bitmap = SubclusterBitmap::default();
    for (number, start) in (0..SUBCLUSTERS).zip((start..).step_by(unit)) {
        let subcluster = start..start + unit;
        if overlap(data, &subcluster) {
            bitmap = bitmap.with(number, Subcluster::Data);
        } else if overlap(zeroes, &subcluster) {
            bitmap = bitmap.with(number, Subcluster::Zero);
        }
    }
    bitmap
}

/// Removes the parts of `pieces` beyond the first `limit` bytes of the chunk.
pub(super) fn cut(pieces: &mut Vec<(Run, HostOffset)>, limit: usize) {
    pieces.retain(|(run, _)| run.start < limit);
    for (run, _) in pieces {
        run.end = run.end.min(limit);
    }
}

/// Returns the parts of `pieces` (runs and their host offsets) that are in `runs`. Each run is inside one piece.
pub(super) fn narrow(pieces: &[(Run, HostOffset)], runs: &[Run]) -> Vec<(Run, HostOffset)> {
    let mut pieces = pieces.iter();
    let mut piece = pieces.next();
    let mut narrowed = Vec::with_capacity(runs.len());
    for run in runs {
        while let Some((clusters, host)) = piece {
            if run.start < clusters.end {
                let within = (run.start - clusters.start) as u64;
                narrowed.push((run.clone(), HostOffset(host.0 + within)));
                break;
            }
            piece = pieces.next();
        }
    }
    narrowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_widened_for_allocation_and_narrowed_for_writing() {
        let runs = [512..1024, 1536..2048, 4096..4608];
        let widened = widen(&runs, 1024, 5000);
        assert_eq!(widened, [0..2048, 4096..5000]);
        let pieces = [
            (0..2048, HostOffset(10_240)),
            (4096..5120, HostOffset(12_288)),
        ];
        assert_eq!(
            narrow(&pieces, &runs),
            [
                (512..1024, HostOffset(10_752)),
                (1536..2048, HostOffset(11_776)),
                (4096..4608, HostOffset(12_288)),
            ]
        );
    }

    #[test]
    fn data_goes_before_zeroes_in_a_subcluster() {
        let bits = bitmap(16384, 512, &[16384..16896, 32000..32768], &[16640..18432]);
        assert_eq!(bits.0, 0b1110 << 32 | 1 | 0b11 << 30);
        assert_eq!(bitmap(0, 512, &[], &[]).0, 0);
    }

    #[test]
    fn nothing_is_written_beyond_the_limit() {
        let mut pieces = vec![(0..10, HostOffset(5)), (20..30, HostOffset(50))];
        cut(&mut pieces, 25);
        assert_eq!(pieces, [(0..10, HostOffset(5)), (20..25, HostOffset(50))]);
        cut(&mut pieces, 10);
        assert_eq!(pieces, [(0..10, HostOffset(5))]);
    }

    #[test]
    fn unions_are_sorted_and_joined() {
        let all = union(&[0..512, 2048..4096], &[512..1024, 8192..8704]);
        assert_eq!(all, [0..1024, 2048..4096, 8192..8704]);
        assert!(overlap(&all, &(1000..1100)));
        assert!(overlap(&all, &(0..10_000)));
        assert!(!overlap(&all, &(1024..2048)));
        assert!(!overlap(&all, &(8704..9000)));
        assert!(!overlap(&[], &(0..1)));
    }
}
