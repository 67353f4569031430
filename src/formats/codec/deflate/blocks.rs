//! The blocks of a deflate stream: their contents, their boundaries, and their encoding (RFC 1951, section 3.2).

use super::huffman::{self, Code};
use super::matches::Match;
use super::output::BitWriter;

/// The number of symbols for literals, the end of the block, and the lengths of matches.
const SYMBOLS: usize = 286;
const END: usize = 256;
const DISTANCES: usize = 30;
/// The number of symbols for code lengths, and the order in which their own code lengths are stored.
const LENGTH_SYMBOLS: usize = 19;
const ORDER: [usize; LENGTH_SYMBOLS] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// The largest code length in bits: for data, and for code lengths.
const LONGEST_CODE: usize = 15;
const LONGEST_LENGTH_CODE: usize = 7;

/// The shortest match in the format.
const SHORTEST: u16 = 3;
/// The largest number of literals and matches in a block.
const MOST_TOKENS: usize = 1 << 16;
/// The largest number of bytes in a stored block.
const MOST_STORED: usize = 65535;

/// A literal or a match.
#[derive(Debug, Clone, Copy)]
struct Token {
    /// The byte of a literal, or the length of a match.
    value: u16,
    /// The distance of a match in bytes, or 0 for a literal.
    distance: u16,
}

/// The contents of a block.
#[derive(Debug)]
pub(super) struct BlockTokens {
    tokens: Vec<Token>,
    symbols: [u32; SYMBOLS],
    distances: [u32; DISTANCES],
}

impl Default for BlockTokens {
    fn default() -> Self {
        Self {
            tokens: Vec::with_capacity(MOST_TOKENS),
            symbols: [0; SYMBOLS],
            distances: [0; DISTANCES],
        }
    }
}

impl BlockTokens {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.symbols = [0; SYMBOLS];
        self.distances = [0; DISTANCES];
    }

    #[inline(always)]
    pub(super) fn add_literal(&mut self, byte: u8) {
        if let Some(count) = self.symbols.get_mut(usize::from(byte)) {
            *count += 1;
        }
        self.tokens.push(Token {
            value: byte.into(),
            distance: 0,
        });
    }

    #[inline(always)]
    pub(super) fn add_match(&mut self, found: Match) {
        let (Ok(value), Ok(distance)) = (found.length.try_into(), found.distance.try_into()) else {
            return;
        };
        if let Some(count) = self.symbols.get_mut(length_slot(value).symbol) {
            *count += 1;
        }
        if let Some(count) = self.distances.get_mut(distance_slot(distance).symbol) {
            *count += 1;
        }
        self.tokens.push(Token { value, distance });
    }

    /// Returns true if the block may not have space for another literal and match.
    pub(super) fn is_full(&self) -> bool {
        self.tokens.len() + 512 > MOST_TOKENS
    }

    /// Writes the block in its shortest encoding. `data` are the bytes that its tokens represent. Returns `false` if
    /// there is no space; the output is undefined then.
    pub(super) fn write(&mut self, data: &[u8], last: bool, output: &mut BitWriter<'_>) -> bool {
        if let Some(count) = self.symbols.get_mut(END) {
            *count = 1;
        }
        let own = OwnCodes::of(&self.symbols, &self.distances);
        let extra = self.extra_bits();
        let own_bits = own.header_bits + extra + self.code_bits(&own.symbols, &own.distances);
        let (fixed_symbols, fixed_distances) = fixed_lengths();
        let fixed_bits = extra + self.code_bits(&fixed_symbols, &fixed_distances);
        let stored_bits = stored_bits(data.len());
        let bits = own_bits.min(fixed_bits).min(stored_bits);
        if !output.has_space_for(bits + 3) {
            return false;
        }
        if bits == stored_bits {
            write_stored(data, last, output);
            return true;
        }
        output.add(u64::from(last), 1);
        if bits == fixed_bits {
            output.add(1, 2);
            let codes = fixed_codes(&fixed_symbols);
            self.write_tokens(&codes, &huffman::codes(&fixed_distances), output);
        } else {
            output.add(2, 2);
            own.write(output);
            let codes = huffman::codes(&own.symbols);
            self.write_tokens(&codes, &huffman::codes(&own.distances), output);
        }
        true
    }

    fn extra_bits(&self) -> u64 {
        let lengths = self.symbols.iter().skip(END + 1).zip(LENGTH_EXTRA);
        let distances = self
            .distances
            .iter()
            .zip(0..)
            .map(|(count, symbol)| (count, distance_extra(symbol)));
        lengths
            .chain(distances)
            .map(|(count, extra)| u64::from(*count) * u64::from(extra))
            .sum()
    }

    fn code_bits(&self, symbols: &[u8; SYMBOLS], distances: &[u8; DISTANCES]) -> u64 {
        let counts = self.symbols.iter().chain(&self.distances);
        let lengths = symbols.iter().chain(distances);
        counts
            .zip(lengths)
            .map(|(count, length)| u64::from(*count) * u64::from(*length))
            .sum()
    }

    fn write_tokens(
        &self,
        symbols: &[Code; SYMBOLS],
        distances: &[Code; DISTANCES],
        output: &mut BitWriter<'_>,
    ) {
        let code = |codes: &[Code], symbol: usize| codes.get(symbol).copied().unwrap_or_default();
        for token in &self.tokens {
            if token.distance == 0 {
                let code = code(symbols, usize::from(token.value));
                output.add(code.bits.into(), code.length.into());
            } else {
                let slot = length_slot(token.value);
                let length = code(symbols, slot.symbol);
                output.add(length.bits.into(), length.length.into());
                output.add(slot.extra.into(), slot.extra_bits);
                let slot = distance_slot(token.distance);
                let distance = code(distances, slot.symbol);
                output.add(distance.bits.into(), distance.length.into());
                output.add(slot.extra.into(), slot.extra_bits);
            }
            output.flush();
        }
        let end = code(symbols, END);
        output.add(end.bits.into(), end.length.into());
        output.flush();
    }
}

/// The codes for one block, and their encoding.
struct OwnCodes {
    symbols: [u8; SYMBOLS],
    distances: [u8; DISTANCES],
    symbol_count: usize,
    distance_count: usize,
    /// The encoded code lengths: symbol, extra bits, number of extra bits.
    written: Vec<(u8, u8, u8)>,
    lengths: [u8; LENGTH_SYMBOLS],
    length_count: usize,
    header_bits: u64,
}

impl OwnCodes {
    fn of(symbol_counts: &[u32; SYMBOLS], distance_counts: &[u32; DISTANCES]) -> Self {
        let symbols = huffman::lengths(symbol_counts, LONGEST_CODE);
        let distances = huffman::lengths(distance_counts, LONGEST_CODE);
        let used = |lengths: &[u8]| {
            lengths
                .iter()
                .rposition(|l| *l > 0)
                .map_or(0, |last| last + 1)
        };
        let symbol_count = used(&symbols).max(END + 1);
        let distance_count = used(&distances).max(1);
        let all: Vec<u8> = symbols
            .iter()
            .take(symbol_count)
            .chain(distances.iter().take(distance_count))
            .copied()
            .collect();
        let written = run_lengths(&all);
        let mut counts = [0; LENGTH_SYMBOLS];
        for (symbol, ..) in &written {
            if let Some(count) = counts.get_mut(usize::from(*symbol)) {
                *count += 1;
            }
        }
        let lengths = huffman::lengths(&counts, LONGEST_LENGTH_CODE);
        let length = |symbol: usize| lengths.get(symbol).copied().unwrap_or_default();
        let length_count = ORDER.iter().rposition(|symbol| length(*symbol) > 0);
        let length_count = length_count.map_or(4, |last| last + 1).max(4);
        let codes = written.iter().map(|(symbol, _, extra_bits)| {
            u64::from(length(usize::from(*symbol))) + u64::from(*extra_bits)
        });
        let header_bits = 14 + 3 * length_count as u64 + codes.sum::<u64>();
        Self {
            symbols,
            distances,
            symbol_count,
            distance_count,
            written,
            lengths,
            length_count,
            header_bits,
        }
    }

    fn write(&self, output: &mut BitWriter<'_>) {
        output.add((self.symbol_count - END - 1) as u64, 5);
        output.add((self.distance_count - 1) as u64, 5);
        output.add((self.length_count - 4) as u64, 4);
        output.flush();
        for symbol in ORDER.iter().take(self.length_count) {
            let length = self.lengths.get(*symbol).copied().unwrap_or_default();
            output.add(length.into(), 3);
            output.flush();
        }
        let codes = huffman::codes(&self.lengths);
        for (symbol, extra, extra_bits) in &self.written {
            let code = codes.get(usize::from(*symbol)).copied().unwrap_or_default();
            output.add(code.bits.into(), code.length.into());
            output.add((*extra).into(), (*extra_bits).into());
            output.flush();
        }
    }
}

/// Returns the symbols for code lengths, with runs of equal lengths combined.
fn run_lengths(lengths: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut written = Vec::with_capacity(lengths.len());
    for run in lengths.chunk_by(|one, other| one == other) {
        let length = run.first().copied().unwrap_or_default();
        let mut left = run.len();
        if length == 0 {
            while left >= 3 {
                let part = left.min(138);
                let (symbol, least, bits) = if part > 10 { (18, 11, 7) } else { (17, 3, 3) };
                written.push((symbol, u8::try_from(part - least).unwrap_or(0), bits));
                left -= part;
            }
        } else if left > 3 {
            written.push((length, 0, 0));
            left -= 1;
            while left >= 3 {
                let part = left.min(6);
                written.push((16, u8::try_from(part - 3).unwrap_or(0), 2));
                left -= part;
            }
        }
        written.extend(std::iter::repeat_n((length, 0, 0), left));
    }
    written
}

/// Returns the lengths of the fixed codes.
fn fixed_lengths() -> ([u8; SYMBOLS], [u8; DISTANCES]) {
    let mut symbols = [8; SYMBOLS];
    for (symbol, length) in symbols.iter_mut().enumerate() {
        *length = match symbol {
            144..=255 => 9,
            256..=279 => 7,
            _ => 8,
        };
    }
    (symbols, [5; DISTANCES])
}

/// Returns the fixed codes. The fixed code also has two unused length symbols of 8 bits. They are included when codes
/// are assigned, since the codes of 9 bits start after them.
fn fixed_codes(lengths: &[u8; SYMBOLS]) -> [Code; SYMBOLS] {
    let mut with_all = [8; SYMBOLS + 2];
    for (all, length) in with_all.iter_mut().zip(lengths) {
        *all = *length;
    }
    let all = huffman::codes(&with_all);
    let mut codes = [Code::default(); SYMBOLS];
    for (code, all) in codes.iter_mut().zip(all) {
        *code = all;
    }
    codes
}

fn stored_bits(length: usize) -> u64 {
    // Each stored block has 3 bits, at most 7 bits of padding, and two lengths of 16 bits.
    let parts = length.div_ceil(MOST_STORED).max(1) as u64;
    length as u64 * 8 + parts * (3 + 7 + 32)
}

fn write_stored(data: &[u8], last: bool, output: &mut BitWriter<'_>) {
    let mut parts = data.chunks(MOST_STORED).peekable();
    while let Some(part) = parts.next() {
        output.add(u64::from(last && parts.peek().is_none()), 3);
        output.align();
        let length = part.len() as u64;
        output.add(length | (length ^ 0xffff) << 16, 32);
        output.flush();
        output.copy(part);
    }
}

/// The symbol for a length or distance, and its extra bits.
#[derive(Debug, Clone, Copy)]
struct Slot {
    symbol: usize,
    extra: u16,
    extra_bits: u32,
}

/// The number of extra bits of each length symbol.
const LENGTH_EXTRA: [u8; SYMBOLS - END - 1] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];

#[inline(always)]
fn length_slot(length: u16) -> Slot {
    let value = length.saturating_sub(SHORTEST);
    if value >= 255 {
        // The longest length has a symbol of its own.
        return Slot {
            symbol: SYMBOLS - 1,
            extra: 0,
            extra_bits: 0,
        };
    }
    let slot = slot(value, 2);
    Slot {
        symbol: END + 1 + slot.symbol,
        ..slot
    }
}

#[inline(always)]
fn distance_slot(distance: u16) -> Slot {
    slot(distance - 1, 1)
}

fn distance_extra(symbol: u8) -> u8 {
    (symbol / 2).saturating_sub(1)
}

/// Returns the symbol of a length or distance. The highest bit and `behind` bits after it determine the symbol, and
/// the rest are extra bits.
#[inline(always)]
fn slot(value: u16, behind: u32) -> Slot {
    if value >> (behind + 1) == 0 {
        return Slot {
            symbol: value.into(),
            extra: 0,
            extra_bits: 0,
        };
    }
    let extra_bits = value.ilog2() - behind;
    Slot {
        symbol: (extra_bits as usize) * (1 << behind) + usize::from(value >> extra_bits),
        extra: value & ((1 << extra_bits) - 1),
        extra_bits,
    }
}

/// The search for a position at which the kind of data changes. It counts literals and matches of a few kinds in the
/// block so far and in the last few hundred tokens, and compares the counts.
#[derive(Debug, Default)]
pub(super) struct Split {
    so_far: [u32; KINDS],
    lately: [u32; KINDS],
    count_so_far: u32,
    count_lately: u32,
}

/// The number of kinds: literals by three of their bits, short matches and long matches.
const KINDS: usize = 10;
/// The number of literals and matches that are compared with those before them.
const ENOUGH_LATELY: u32 = 512;
/// The smallest length of a block in bytes, since its codes take space.
const SHORTEST_BLOCK: usize = 5000;

impl Split {
    #[inline(always)]
    pub(super) fn see_literal(&mut self, byte: u8) {
        let kind = usize::from(byte >> 5 & 6 | byte & 1);
        self.see(kind);
    }

    #[inline(always)]
    pub(super) fn see_match(&mut self, length: usize) {
        self.see(8 + usize::from(length >= 9));
    }

    #[inline(always)]
    fn see(&mut self, kind: usize) {
        if let Some(count) = self.lately.get_mut(kind) {
            *count += 1;
        }
        self.count_lately += 1;
    }

    /// Returns true if the block should end after `length` bytes, if `left` bytes follow.
    #[inline(always)]
    pub(super) fn is_due(&mut self, length: usize, left: usize) -> bool {
        if self.count_lately < ENOUGH_LATELY || length < SHORTEST_BLOCK || left < SHORTEST_BLOCK {
            return false;
        }
        self.compare(length)
    }

    fn compare(&mut self, length: usize) -> bool {
        if self.count_so_far > 0 {
            let both = self.so_far.iter().zip(&self.lately);
            let difference: u64 = both
                .map(|(so_far, lately)| {
                    let expected = u64::from(*so_far) * u64::from(self.count_lately);
                    let actual = u64::from(*lately) * u64::from(self.count_so_far);
                    expected.abs_diff(actual)
                })
                .sum();
            let so_far = u64::from(self.count_so_far);
            // The longer the block is, the smaller the difference that ends it.
            let bonus = length as u64 / 4096 * so_far;
            if difference + bonus >= u64::from(self.count_lately) * so_far * 200 / 512 {
                return true;
            }
        }
        for (so_far, lately) in self.so_far.iter_mut().zip(&mut self.lately) {
            *so_far += std::mem::take(lately);
        }
        self.count_so_far += std::mem::take(&mut self.count_lately);
        false
    }
}
