//! The search for zeroes in a buffer, in units that the target can skip.

use crate::formats::Run;

/// The lengths in bytes that decide which zeroes are skipped.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZeroUnits {
    /// The unit in which the target can skip zeroes: a power of two.
    pub(super) target: usize,
    /// The aligned unit that is kept as a whole if any of it is data: a power of two, and at least `target`.
    pub(super) kept: usize,
    /// The shortest run of zeroes that is skipped.
    pub(super) least: usize,
}

/// Returns the parts of `data`, which are runs of `buffer`, that aren't zero. They are in whole `units`, sorted and
/// disjoint, and joined if too few zeroes are between. The buffer outside of `data` is known to be zero. It isn't
/// searched, and never joined to data.
pub(super) fn data_runs(buffer: &[u8], data: &[Run], units: ZeroUnits) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut end_of_last = None;
    for range in data {
        // Zeroes that were read may be joined to the data before them. A hole of the source stays a hole.
        let mut may_join = end_of_last == Some(range.start);
        end_of_last = Some(range.end);
        let mut start = range.start / units.target * units.target;
        let range_end = range.end.next_multiple_of(units.target).min(buffer.len());
        while start < range_end {
            let end = (start / units.kept + 1) * units.kept;
            let end = end.min(range_end);
            if buffer.get(start..end).is_some_and(|part| !is_zero(part)) {
                match runs.last_mut() {
                    // Two ranges may share a unit, and a short run of zeroes is joined.
                    Some(last)
                        if last.end >= start || (may_join && start - last.end < units.least) =>
                    {
                        last.end = end;
                    }
                    _ => runs.push(start..end),
                }
                may_join = true;
            }
            start = end;
        }
    }
    runs
}

/// Returns true if all bytes are zero. Tests a block without branches, which compilers turn into vector instructions,
/// and stops at the first block that isn't zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const BLOCK: usize = 256;
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    blocks.iter().all(|block| {
        let (words, _) = block.as_chunks::<8>();
        words
            .iter()
            .fold(0, |any, word| any | u64::from_ne_bytes(*word))
            == 0
    }) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_seen() {
        for length in [0, 1, 7, 255, 256, 257, 4096] {
            assert!(is_zero(&vec![0; length]));
            for position in 0..length {
                let mut bytes = vec![0; length];
                bytes[position] = 0x80;
                assert!(!is_zero(&bytes), "{position} of {length}");
            }
        }
    }

    #[test]
    fn runs_are_units_that_hold_something() {
        let mut buffer = vec![0; 8 * 512];
        buffer[512] = 1;
        buffer[1535] = 1;
        buffer[2048] = 1;
        let whole = 0..buffer.len();
        let units = |target, kept, least| ZeroUnits {
            target,
            kept,
            least,
        };
        let runs = |data: &[Run], unit| data_runs(&buffer, data, units(unit, unit, unit));
        assert_eq!(
            runs(std::slice::from_ref(&whole), 512),
            [512..1536, 2048..2560]
        );
        assert_eq!(runs(std::slice::from_ref(&whole), 1024), vec![0..3072]);
        assert_eq!(runs(&[0..1000, 1000..1600], 512), [512..1536]);
        assert!(runs(&[3000..4096], 512).is_empty());
        assert!(runs(&[], 512).is_empty());
        let all = std::slice::from_ref(&whole);
        assert_eq!(data_runs(&buffer, all, units(512, 512, 1024)), [512..2560]);
        let wide = data_runs(&buffer, all, units(512, 1024, 1024));
        assert_eq!(wide, vec![0..3072]);
        let two = data_runs(&buffer, all, units(512, 2048, 2048));
        assert_eq!(two, vec![0..4096]);
        // A unit that is kept ends at the end of the data.
        let part = data_runs(&buffer, &[512..1536], units(512, 4096, 4096));
        assert_eq!(part, [512..1536]);
        // The hole between two ranges wasn't read.
        let apart = data_runs(&buffer, &[0..1536, 2048..2560], units(512, 512, 1 << 20));
        assert_eq!(apart, [512..1536, 2048..2560]);
        let touching = data_runs(&buffer, &[0..1700, 1700..2560], units(512, 512, 1 << 20));
        assert_eq!(touching, [512..2560]);
    }
}
