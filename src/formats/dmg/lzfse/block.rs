//! A block of literals and matches with entropy coding.
//!
//! Four interleaved decoders yield the literals first. Three more yield, for each step, the number of literals, the
//! length of the match after them, and its distance.

use super::bits::BitsFromEnd;
use super::header::BlockHeader;
use super::output::DecodedBytes;
use super::states::{Coder, StateTable};

/// The number of states of the decoders for literal lengths, match lengths, and distances.
const STATES: [usize; 3] = [64, 64, 256];
/// The number of states of the decoders for literals.
const LITERAL_STATES: usize = 1024;
/// The index of the literals among the kinds of symbols.
const LITERALS: usize = 3;

/// A function that returns the smallest value of a symbol, and the number of its extra bits.
type Meaning = fn(u32) -> (u32, u32);

/// Decodes a block, and returns the input after its payload. Returns `None` if it is damaged, or yields more than the
/// output can hold.
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
        // A distance of 0 repeats the one of the match before.
        if new != 0 {
            distance = new;
        }
        if length > 0 {
            output.repeat(distance, length)?;
        }
    }
    Some(rest)
}

/// Decodes the literals, whose number is rounded up to a multiple of four.
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

/// Returns the smallest literal length of a symbol, and the number of its extra bits.
fn literal_length(symbol: u32) -> (u32, u32) {
    match symbol {
        16 => (16, 2),
        17 => (20, 3),
        18 => (28, 5),
        19 => (60, 8),
        _ => (symbol, 0),
    }
}

/// Returns the smallest match length of a symbol, and the number of its extra bits.
fn match_length(symbol: u32) -> (u32, u32) {
    match symbol {
        16 => (16, 3),
        17 => (24, 5),
        18 => (56, 8),
        19 => (312, 11),
        _ => (symbol, 0),
    }
}

/// Returns the smallest distance of a symbol, and the number of its extra bits. There are four symbols for each
/// number of bits.
fn distance(symbol: u32) -> (u32, u32) {
    let more = symbol / 4;
    let before = 4 * ((1u32 << more) - 1);
    (before + ((symbol % 4) << more), more)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of each symbol begin where those of the symbol before end.
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
