//! A decoder for LZVN: a sequence of instructions for literals and matches.

use super::output::DecodedBytes;

/// An instruction: the number of literals after it, followed by a match.
struct LzvnStep {
    literals: usize,
    length: usize,
    /// The distance of the match, or `None` for that of the match before.
    distance: Option<usize>,
}

/// Decodes a payload until the output has `end` bytes. Returns `None` if the payload ends before, continues after
/// that, or is invalid.
pub(super) fn decode(payload: &[u8], end: usize, output: &mut DecodedBytes<'_>) -> Option<()> {
    let mut rest = payload;
    let mut distance = 0;
    loop {
        let step;
        (step, rest) = match rest.first()? {
            // The end instruction has eight bytes.
            0x06 => return (rest.len() >= 8 && output.done() == end).then_some(()),
            0x0e | 0x16 => {
                rest = rest.get(1..)?;
                continue;
            }
            first => instruction(*first, rest)?,
        };
        let literals;
        (literals, rest) = rest.split_at_checked(step.literals)?;
        output.append(literals)?;
        if step.length > 0 {
            distance = step.distance.unwrap_or(distance);
            output.repeat(distance, step.length)?;
        }
    }
}

/// Decodes the instruction at the start of `bytes`, whose first byte is `first`. Also returns the rest.
fn instruction(first: u8, bytes: &[u8]) -> Option<(LzvnStep, &[u8])> {
    let byte = |at: usize| bytes.get(at).map(|byte| usize::from(*byte));
    let word = || Some(byte(1)? | byte(2)? << 8);
    let low = usize::from(first);
    let step = |literals, length, distance| LzvnStep {
        literals,
        length,
        distance,
    };
    let (step, taken) = match first {
        // These instructions are undefined.
        0x1e | 0x26 | 0x2e | 0x36 | 0x3e | 0x70..=0x7f | 0xd0..=0xdf => return None,
        0xe0 => (step(byte(1)? + 16, 0, None), 2),
        0xe1..=0xef => (step(low & 0xf, 0, None), 1),
        0xf0 => (step(0, byte(1)? + 16, None), 2),
        0xf1..=0xff => (step(0, low & 0xf, None), 1),
        0xa0..=0xbf => {
            let length = (low & 7) << 2 | (word()? & 3);
            (step(low >> 3 & 3, length + 3, Some(word()? >> 2)), 3)
        }
        _ => {
            let (literals, length) = (low >> 6, (low >> 3 & 7) + 3);
            match low & 7 {
                6 => (step(literals, length, None), 1),
                7 => (step(literals, length, Some(word()?)), 3),
                high => (step(literals, length, Some(high << 8 | byte(1)?)), 2),
            }
        }
    };
    Some((step, bytes.get(taken..)?))
}
