//! The search for bytes of a window that come again, by hash chains.
//!
//! Every position is entered under the hash of its first four bytes. The last position of each hash is kept,
//! and for each position in the window the one before it with the same hash. Matches of three bytes, which
//! the format has too, aren't sought: they would save 1.4 % for a fifth more time. Positions are kept modulo
//! 2^16. That is enough in a window of at most 2^15, and a position that is older than the window mostly shows
//! by its distance. Where it doesn't, the bytes there are compared as any others. With a window of 4 KiB the
//! tables take 40 KiB, which stay in a core's nearest caches.

/// The shortest match that is sought.
const SHORTEST: usize = 4;
/// The longest match that the format has.
pub(super) const LONGEST: usize = 258;

const HASHES: usize = 1 << 14;

/// Bytes that are the same as those `distance` before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Match {
    /// The number of bytes; 0 when there are none.
    pub(super) length: usize,
    /// The distance in bytes.
    pub(super) distance: usize,
}

/// The positions of hashes. `WINDOW` is the largest distance of a match in bytes, a power of two of at most
/// 2^15.
#[derive(Debug)]
pub(super) struct Matches<const WINDOW: usize> {
    last: Box<[u16; HASHES]>,
    before: Box<[u16; WINDOW]>,
}

impl<const WINDOW: usize> Matches<WINDOW> {
    /// Makes tables without any position.
    pub(super) fn new() -> Self {
        Self {
            last: Box::new([0; HASHES]),
            before: Box::new([0; WINDOW]),
        }
    }

    /// Forgets everything, so that matches depend on nothing but the data.
    pub(super) fn clear(&mut self) {
        self.last.fill(0);
        self.before.fill(0);
    }

    /// Enters a position without looking.
    #[inline(always)]
    pub(super) fn enter(&mut self, data: &[u8], position: usize) {
        if let Some(here) = four(data, position) {
            self.link(here, position);
        }
    }

    /// Enters a position, and returns the last one with the same hash.
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

    /// Enters a position and looks for the longest match there that is longer than `least`, at no more than
    /// `depth` candidates. A match of `enough` bytes ends the search.
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
        // A match must be longer than this; a search for longer ones looks at where they would end.
        let mut length = least.max(SHORTEST - 1);
        let mut end = four(data, position + length - 3).unwrap_or(here);
        let mut nearer = 0;
        for _ in 0..depth {
            let distance = back(position, candidate);
            // The position isn't in the window any more, or the entry is from before it began.
            if distance <= nearer || distance > WINDOW || distance > position {
                break;
            }
            nearer = distance;
            let start = position - distance;
            // Compares the end of a longer match first: there most candidates differ.
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

/// Returns the distance from `position` back to the one that was entered as `entered`; 65536 for none.
#[inline(always)]
fn back(position: usize, entered: u16) -> usize {
    let distance = low_16(position).wrapping_sub(entered);
    if distance == 0 {
        1 << 16
    } else {
        usize::from(distance)
    }
}

/// Returns the number of bytes at `one` and `other` that are the same, at most `most`; `one` is the earlier
/// place.
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
