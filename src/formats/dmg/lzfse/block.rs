//! A block of literals and matches: bytes, and then pieces of what was decoded before.
//!
//! Four coders take turns at the literals, which are decoded first. Three more yield how many literals follow, how long
//! the match behind them is, and how far back.

use super::bits::BitsFromEnd;
use super::header::BlockHeader;
use super::output::DecodedBytes;
use super::states::{Coder, StateTable};

/// The number of states of the coders of lengths of literals, lengths of matches, and distances.
const STATES: [usize; 3] = [64, 64, 256];
/// The number of states of the coders of literals.
const LITERAL_STATES: usize = 1024;
/// The kind of symbols that literals are.
const LITERALS: usize = 3;

/// Returns the least number that a symbol stands for, and the number of bits that are added.
type Meaning = fn(u32) -> (u32, u32);

/// Decodes a block, and returns what follows its payload. Returns `None` if it is damaged, or yields more than there is
/// room for.
pub(super) fn decode<'i>(
    header: &BlockHeader,
    payload: &'i [u8],
    output: &mut DecodedBytes<'_>,
) -> Option<&'i [u8]> {
    let (literals, rest) = payload.split_at_checked(header.literals.1)?;
    let (matches, rest) = rest.split_at_checked(header.matches.1)?;
    let literals = decode_literals(header, literals)?;
    let mut literals = literals.as_slice();

    let table = |kind: usize, meaning: Meaning| {
        StateTable::new(*STATES.get(kind)?, header.frequencies(kind), meaning)
    };
    let tables = [
        table(0, literal_length)?,
        table(1, match_length)?,
        table(2, distance)?,
    ];
    let [count, length, back] = &tables;
    let [first, second, third] = header.match_states;
    let mut count = Coder::new(count, first);
    let mut length = Coder::new(length, second);
    let mut back = Coder::new(back, third);
    let mut bits = BitsFromEnd::new(matches, header.unused.1)?;
    let mut distance = 0;
    for _ in 0..header.matches.0 {
        let mut next = |coder: &mut Coder<'_>| usize::try_from(coder.next(&mut bits)?).ok();
        let (count, length, new) = (next(&mut count)?, next(&mut length)?, next(&mut back)?);
        let piece;
        (piece, literals) = literals.split_at_checked(count)?;
        output.append(piece)?;
        // Zero stands for the distance of the match before.
        if new != 0 {
            distance = new;
        }
        if length > 0 {
            output.repeat(distance, length)?;
        }
    }
    Some(rest)
}

/// Decodes the literals: as many as there are, in whole fours.
fn decode_literals(header: &BlockHeader, payload: &[u8]) -> Option<Vec<u8>> {
    let table = StateTable::new(LITERAL_STATES, header.frequencies(LITERALS), |symbol| {
        (symbol, 0)
    })?;
    let mut bits = BitsFromEnd::new(payload, header.unused.0)?;
    let mut coders = header.literal_states.map(|state| Coder::new(&table, state));
    let mut literals = Vec::with_capacity(header.literals.0.next_multiple_of(coders.len()));
    while literals.len() < header.literals.0 {
        for coder in &mut coders {
            literals.push(u8::try_from(coder.next(&mut bits)?).ok()?);
        }
    }
    Some(literals)
}

/// Returns the least number of literals that a symbol stands for, and the number of bits that are added.
fn literal_length(symbol: u32) -> (u32, u32) {
    match symbol {
        16 => (16, 2),
        17 => (20, 3),
        18 => (28, 5),
        19 => (60, 8),
        _ => (symbol, 0),
    }
}

/// Returns the same of the length of a match.
fn match_length(symbol: u32) -> (u32, u32) {
    match symbol {
        16 => (16, 3),
        17 => (24, 5),
        18 => (56, 8),
        19 => (312, 11),
        _ => (symbol, 0),
    }
}

/// Returns the same of a distance: four symbols for each number of bits.
fn distance(symbol: u32) -> (u32, u32) {
    let more = symbol / 4;
    let before = 4 * ((1u32 << more) - 1);
    (before + ((symbol % 4) << more), more)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each symbol stands for numbers that begin where those of the one before end.
    #[test]
    fn symbols_cover_all_numbers() {
        let kinds: [(Meaning, u32, u32); 3] = [
            (literal_length, 20, 316),
            (match_length, 20, 2360),
            (distance, 64, 262_140),
        ];
        for (meaning, symbols, end) in kinds {
            let next = (0..symbols).fold(0, |next, symbol| {
                let (base, more) = meaning(symbol);
                assert_eq!(base, next, "{symbol}");
                base + (1 << more)
            });
            assert_eq!(next, end);
        }
    }
}
