//! Huffman codes of limited length.

/// Computes the code length of each symbol in bits, at most `limit`, from the number of its uses. The length is 0 for
/// unused symbols. At least two symbols get a code, since some decoders require that.
pub(super) fn lengths<const N: usize>(counts: &[u32; N], limit: usize) -> [u8; N] {
    // The rarest symbols come first. Symbols with equal counts keep their order.
    let mut used: Vec<(u32, usize)> = counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(symbol, count)| (*count, symbol))
        .collect();
    for symbol in 0..2 {
        if used.len() < 2 && !used.iter().any(|(_, other)| *other == symbol) {
            used.push((0, symbol));
        }
    }
    used.sort_unstable();
    let mut with_length = depths(&used);
    shorten(&mut with_length, limit);

    // The rarest symbols get the longest codes.
    let mut lengths = [0; N];
    let mut symbols = used.iter();
    for (length, count) in (0u8..48).zip(with_length).rev() {
        for (_, symbol) in symbols.by_ref().take(count) {
            if let Some(slot) = lengths.get_mut(*symbol) {
                *slot = length;
            }
        }
    }
    lengths
}

/// The largest code length without a limit: counts are below 2^32, and grow like Fibonacci numbers in the worst case.
const DEEPEST: usize = 48;

/// Returns the number of symbols with each code length if there is no limit.
fn depths(used: &[(u32, usize)]) -> [usize; DEEPEST] {
    // The two queues are the symbols and the nodes made from the two rarest so far, which are created in sorted
    // order.
    let mut nodes: Vec<u32> = Vec::with_capacity(used.len());
    let mut parents = vec![0usize; used.len() * 2];
    let (mut leaf, mut node) = (0, 0);
    for number in 0..used.len().saturating_sub(1) {
        let mut sum = 0u32;
        for _ in 0..2 {
            let of_leaf = used.get(leaf).map(|(count, _)| *count);
            let of_node = nodes.get(node).copied();
            let (child, count) = match (of_leaf, of_node) {
                (Some(one), Some(other)) if other < one => (used.len() + node, other),
                (Some(one), _) => (leaf, one),
                (None, other) => (used.len() + node, other.unwrap_or_default()),
            };
            if child < used.len() {
                leaf += 1;
            } else {
                node += 1;
            }
            sum = sum.saturating_add(count);
            if let Some(parent) = parents.get_mut(child) {
                *parent = used.len() + number;
            }
        }
        nodes.push(sum);
    }
    let root = used.len() + nodes.len().saturating_sub(1);
    let mut depth = vec![0usize; used.len() * 2];
    let mut with_length = [0; DEEPEST];
    for child in (0..root).rev() {
        let parent = parents.get(child).copied().unwrap_or_default();
        let own = depth.get(parent).copied().unwrap_or_default() + 1;
        if let Some(slot) = depth.get_mut(child) {
            *slot = own;
        }
        if child < used.len()
            && let Some(count) = with_length.get_mut(own.min(DEEPEST - 1))
        {
            *count += 1;
        }
    }
    with_length
}

/// Shortens codes that exceed the limit, and lengthens as few others as necessary.
fn shorten(with_length: &mut [usize; DEEPEST], limit: usize) {
    let (allowed, longer) = with_length.split_at_mut(limit + 1);
    let Some((longest, shorter)) = allowed.split_last_mut() else {
        return;
    };
    *longest += longer.iter().sum::<usize>();
    longer.fill(0);
    // Shares are in units of the share of all bit strings that a code of the longest length has.
    let share = |length: usize| 1usize << (limit - length);
    let taken = |shorter: &[usize], longest: usize| {
        let shares = shorter.iter().enumerate();
        shares
            .map(|(length, count)| count * share(length))
            .sum::<usize>()
            + longest
    };
    let mut excess = taken(shorter, *longest).saturating_sub(share(0));
    while excess > 0 {
        // A shorter code is replaced by two codes that are one bit longer. One of them takes a code of the longest
        // length.
        let Some(length) = shorter.iter().rposition(|count| *count > 0) else {
            return;
        };
        if let Some(count) = shorter.get_mut(length) {
            *count -= 1;
        }
        *longest -= 1;
        match shorter.get_mut(length + 1) {
            Some(count) => *count += 2,
            None => *longest += 2,
        }
        excess -= 1;
    }
}

/// The code of a symbol in the order of writing, with the first bit in the least significant position, and its length
/// in bits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Code {
    pub(super) bits: u16,
    pub(super) length: u8,
}

/// Assigns the codes that follow from their lengths (RFC 1951, section 3.2.2).
pub(super) fn codes<const N: usize>(lengths: &[u8; N]) -> [Code; N] {
    let mut codes = [Code::default(); N];
    let mut next = 0u16;
    for length in 1..=15u8 {
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, l)| **l == length) {
            *code = Code {
                bits: next.reverse_bits() >> (16 - length),
                length,
            };
            next = next.wrapping_add(1);
        }
        next <<= 1;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_complete(lengths: &[u8], limit: u8) -> bool {
        let used = lengths.iter().filter(|length| **length > 0);
        used.map(|length| 1u64 << (limit - length)).sum::<u64>() == 1 << limit
    }

    #[test]
    fn codes_are_complete_and_no_longer_than_allowed() {
        let mut fibonacci = [0u32; 40];
        let (mut one, mut two) = (1, 1);
        for count in &mut fibonacci {
            *count = one;
            (one, two) = (two, one + two);
        }
        for limit in [7, 15] {
            let lengths = lengths(&fibonacci, limit);
            assert!(
                lengths
                    .iter()
                    .all(|length| (1..=limit).contains(&usize::from(*length)))
            );
            assert!(is_complete(&lengths, u8::try_from(limit).unwrap()));
            assert!(lengths.is_sorted_by(|one, other| one >= other));
        }
        let mut skewed = [1u32; 19];
        skewed[3] = 1 << 20;
        let lengths = lengths(&skewed, 7);
        assert_eq!(lengths[3], 1);
        assert!(is_complete(&lengths, 7));
    }

    #[test]
    fn unlimited_codes_are_the_best_there_are() {
        assert_eq!(lengths(&[5, 9, 12, 13, 16, 45], 15), [4, 4, 3, 3, 3, 1]);
    }

    #[test]
    fn there_are_always_two_codes() {
        assert_eq!(lengths(&[0, 0, 0], 15), [1, 1, 0]);
        assert_eq!(lengths(&[0, 0, 7], 15), [1, 0, 1]);
        assert_eq!(lengths(&[9, 0, 0], 15), [1, 1, 0]);
    }

    #[test]
    fn codes_count_up_within_a_length() {
        // This is the example of RFC 1951, section 3.2.2.
        let codes = codes(&[3, 3, 3, 3, 3, 2, 4, 4]);
        let written = |code: &Code| code.bits.reverse_bits() >> (16 - code.length);
        let expected = [2, 3, 4, 5, 6, 0, 14, 15];
        assert!(codes.iter().map(written).eq(expected));
    }
}
