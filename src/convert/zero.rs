//! The parts of a buffer that are zero, in units that the target can leave out.

use crate::formats::Run;

/// Returns the parts of `data`, runs of `buffer`, that aren't zero. They are multiples of `unit` (a power of
/// two), sorted, disjoint, and joined where fewer than `sparse` zeroes lie between. What is outside of `data`
/// is known to be zero and isn't looked at, nor is it joined to anything, however short it is.
pub(super) fn data_runs(buffer: &[u8], data: &[Run], unit: usize, sparse: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut end_of_last = None;
    for range in data {
        // Zeroes that were read may be joined to what is before them; a hole of the source stays one.
        let mut may_join = end_of_last == Some(range.start);
        end_of_last = Some(range.end);
        let mut start = range.start / unit * unit;
        while start < range.end {
            let end = (start + unit).min(buffer.len());
            if buffer.get(start..end).is_some_and(|part| !is_zero(part)) {
                match runs.last_mut() {
                    // Two ranges may share a unit; a short run of zeroes isn't worth a gap.
                    Some(last) if last.end >= start || (may_join && start - last.end < sparse) => {
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

/// Returns true if all bytes are zero. Looks at wide words without a branch for each, which compilers turn
/// into vector instructions, and stops at the first block that holds something.
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
        let runs = |data: &[Run], unit| data_runs(&buffer, data, unit, unit);
        assert_eq!(
            runs(std::slice::from_ref(&whole), 512),
            [512..1536, 2048..2560]
        );
        assert_eq!(runs(std::slice::from_ref(&whole), 1024), vec![0..3072]);
        assert_eq!(runs(&[0..1000, 1000..1600], 512), [512..1536]);
        assert!(runs(&[3000..4096], 512).is_empty());
        assert!(runs(&[], 512).is_empty());
        let all = std::slice::from_ref(&whole);
        assert_eq!(data_runs(&buffer, all, 512, 1024), [512..2560]);
        // Between two ranges is a hole that nobody read.
        let apart = data_runs(&buffer, &[0..1536, 2048..2560], 512, 1 << 20);
        assert_eq!(apart, [512..1536, 2048..2560]);
        let touching = data_runs(&buffer, &[0..1700, 1700..2560], 512, 1 << 20);
        assert_eq!(touching, [512..2560]);
    }
}
