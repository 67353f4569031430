//! The search for repeated bytes in a window, with hash chains.
//!
//! Every position is inserted into the chain for the hash of its first four bytes. The tables have the last position
//! of each hash, and for each position in the window the previous one with the same hash. Matches of three bytes
//! aren't searched for, since they would save 1.4 % for a fifth more time. Positions are stored modulo 2^16, which
//! suffices for a window of at most 2^15. The distance mostly reveals a position that is older than the window.
//! Otherwise the bytes there are compared like any others. With a window of 4 KiB the tables take 40 KiB, which fit
//! into a core's innermost caches.

/// The shortest match that is searched for.
const SHORTEST: usize = 4;
/// The longest match in the format.
pub(super) const LONGEST: usize = 258;

const HASHES: usize = 1 << 14;

/// A run of bytes that is equal to the one `distance` bytes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Match {
    /// The length in bytes, or 0 if there is no match.
    pub(super) length: usize,
    /// The distance in bytes.
    pub(super) distance: usize,
}

/// The hash chains. `WINDOW` is the largest distance of a match in bytes, a power of two of at most 2^15.
#[derive(Debug)]
pub(super) struct Matches<const WINDOW: usize> {
    last: Box<[u16; HASHES]>,
    before: Box<[u16; WINDOW]>,
}

impl<const WINDOW: usize> Matches<WINDOW> {
    /// Returns empty tables.
    pub(super) fn new() -> Self {
        Self {
            last: Box::new([0; HASHES]),
            before: Box::new([0; WINDOW]),
        }
    }

    /// Removes all positions, so that matches depend only on the data.
    pub(super) fn clear(&mut self) {
        self.last.fill(0);
        self.before.fill(0);
    }

    /// Inserts a position without a search.
    #[inline(always)]
    pub(super) fn enter(&mut self, data: &[u8], position: usize) {
        if let Some(here) = four(data, position) {
            self.link(here, position);
        }
    }

    /// Inserts a position, and returns the last one with the same hash.
    #[inline(always)]
    fn link(&mut self, here: u32, position: usize) -> u16 {
        let mut last = 0;
        if let Some(slot) = self.last.get_mut(hash(here) & (HASHES - 1)) {
            last = std::mem::replace(slot, low_16(position));
        }
        if let Some(slot) = self.before.get_mut(position & (WINDOW - 1)) {
            *slot = last;
        }
        last
    }

    /// Inserts a position, and searches at most `depth` candidates for the longest match that is longer than `least`.
    /// A match of at least `enough` bytes ends the search.
    #[inline(always)]
    pub(super) fn find(
        &mut self,
        data: &[u8],
        position: usize,
        least: usize,
        depth: usize,
        enough: usize,
    ) -> Match {
        let mut best = Match::default();
        let Some(here) = four(data, position) else {
            return best;
        };
        let mut candidate = self.link(here, position);
        let most = LONGEST.min(data.len() - position);
        // A match must be longer than `length`. Candidates are compared at the end of such a match.
        let mut length = least.max(SHORTEST - 1);
        let mut end = four(data, position + length - 3).unwrap_or(here);
        let mut nearer = 0;
        for _ in 0..depth {
            let distance = back(position, candidate);
            // The candidate has left the window, or the entry is older than the data.
            if distance <= nearer || distance > WINDOW || distance > position {
                break;
            }
            nearer = distance;
            let start = position - distance;
            // Most candidates differ at the end of a longer match, so that is compared first.
            if four(data, start + length - 3) == Some(end) && four(data, start) == Some(here) {
                let found = common(data, start, position, most);
                if found > length {
                    length = found;
                    best = Match { length, distance };
                    if length >= enough || length == most {
                        break;
                    }
                    end = four(data, position + length - 3).unwrap_or(here);
                }
            }
            candidate = self
                .before
                .get(start & (WINDOW - 1))
                .copied()
                .unwrap_or_default();
        }
        best
    }
}

/// Returns the distance from `position` back to the inserted position `entered`, or 65536 if there is none.
#[inline(always)]
fn back(position: usize, entered: u16) -> usize {
    let distance = low_16(position).wrapping_sub(entered);
    if distance == 0 {
        1 << 16
    } else {
        usize::from(distance)
    }
}

/// Returns the number of equal bytes at `one` and `other`, at most `most`. `one` is the earlier position.
#[inline(always)]
fn common(data: &[u8], one: usize, other: usize, most: usize) -> usize {
    let mut length = SHORTEST;
    while length + 8 <= most {
        let (Some(a), Some(b)) = (eight(data, one + length), eight(data, other + length)) else {
            break;
        };
        if a != b {
            return length + (a ^ b).trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    while length < most && data.get(one + length) == data.get(other + length) {
        length += 1;
    }
    length
}

#[inline(always)]
fn four(data: &[u8], position: usize) -> Option<u32> {
    let bytes = data.get(position..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[inline(always)]
fn eight(data: &[u8], position: usize) -> Option<u64> {
    let bytes = data.get(position..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

#[inline(always)]
fn low_16(position: usize) -> u16 {
    let [low, high, ..] = position.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[inline(always)]
fn hash(four: u32) -> usize {
    (four.wrapping_mul(0x9e37_79b1) >> (32 - HASHES.trailing_zeros())) as usize
}
