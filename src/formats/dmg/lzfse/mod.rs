//! A decoder for LZFSE, Apple's compression: a stream of blocks of three kinds.
//!
//! A block is uncompressed, LZVN ([`lzvn`]), or has literals and matches with entropy coding ([`block`]). Matches may
//! refer to earlier blocks. Damaged input never causes an access outside the two buffers, and each loop either
//! consumes input or produces output.

mod bits;
mod block;
mod header;
mod lzvn;
mod output;
mod states;

use self::header::{BlockHeader, mark, number};
use self::output::DecodedBytes;

/// Decodes a stream that yields exactly as many bytes as `output` has. Returns `None` if it yields another number, or
/// is damaged.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Option<()> {
    let mut output = DecodedBytes::new(output);
    let mut rest = input;
    loop {
        let (mark, _) = rest.split_first_chunk::<4>()?;
        let start = output.done();
        let stated;
        (stated, rest) = match mark {
            mark::END => return output.is_full().then_some(()),
            mark::PLAIN => {
                let stated = number(rest, 4)?;
                let (bytes, after) = rest.get(8..)?.split_at_checked(stated)?;
                output.append(bytes)?;
                (stated, after)
            }
            mark::LZVN => {
                let (stated, stored) = (number(rest, 4)?, number(rest, 8)?);
                let (payload, after) = rest.get(12..)?.split_at_checked(stored)?;
                lzvn::decode(payload, start.checked_add(stated)?, &mut output)?;
                (stated, after)
            }
            mark::WITH_TABLES | mark::WITH_COMPRESSED_TABLES => {
                let (header, payload) = BlockHeader::parse(rest)?;
                (header.stated, block::decode(&header, payload, &mut output)?)
            }
            _ => return None,
        };
        if output.done() - start != stated {
            return None;
        }
    }
}

#[cfg(test)]
mod tests;
