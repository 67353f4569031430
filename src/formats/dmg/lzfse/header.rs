//! The header of a block with entropy coding: its lengths, the initial states, and the frequencies of symbols.

/// The magic numbers of blocks.
pub(super) mod mark {
    pub(in super::super) const PLAIN: &[u8; 4] = b"bvx-";
    pub(in super::super) const LZVN: &[u8; 4] = b"bvxn";
    pub(in super::super) const WITH_TABLES: &[u8; 4] = b"bvx1";
    pub(in super::super) const WITH_COMPRESSED_TABLES: &[u8; 4] = b"bvx2";
    pub(in super::super) const END: &[u8; 4] = b"bvx$";
}

/// The numbers of symbols for literal lengths, match lengths, distances, and literals.
pub(super) const SYMBOLS: [usize; 4] = [20, 20, 64, 256];
/// The number of all symbols.
const ALL_SYMBOLS: usize = 360;
/// The largest numbers of literals and of matches in a block.
const MOST_LITERALS: usize = 40_000;
const MOST_MATCHES: usize = 10_000;
/// The length of a header with uncompressed frequencies in bytes, including two bytes of padding.
const PLAIN_LENGTH: usize = 772;
/// The offset of the frequencies in that header.
const PLAIN_AT: usize = 50;
/// The offset of the frequencies in a header that has them compressed.
const COMPRESSED_AT: usize = 32;

/// A header that has been checked.
#[derive(Debug)]
pub(super) struct BlockHeader {
    /// The number of bytes that the block yields.
    pub(super) stated: usize,
    /// The number of literals, and the length of their payload in bytes.
    pub(super) literals: (usize, usize),
    /// The number of matches, and the length of their payload in bytes.
    pub(super) matches: (usize, usize),
    /// The number of unused bits in the last byte of each payload.
    pub(super) unused: (usize, usize),
    /// The initial states of the four decoders for literals.
    pub(super) literal_states: [u32; 4],
    /// The initial states of the decoders for literal lengths, match lengths, and distances.
    pub(super) match_states: [u32; 3],
    /// The frequency of each symbol, which is its number of states.
    frequencies: [u16; ALL_SYMBOLS],
}

impl BlockHeader {
    /// Parses the header at the start of `bytes`. Also returns the rest.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, length) = match bytes.first_chunk()? {
            mark::WITH_TABLES => (Self::plain(bytes)?, PLAIN_LENGTH),
            _ => Self::compressed(bytes)?,
        };
        let fits = header.literals.0 <= MOST_LITERALS && header.matches.0 <= MOST_MATCHES;
        Some((header, bytes.get(length..)?)).filter(|_| fits)
    }

    /// Returns the frequencies of the symbols of one kind.
    pub(super) fn frequencies(&self, kind: usize) -> &[u16] {
        let start = SYMBOLS.iter().take(kind).sum();
        let rest = self.frequencies.get(start..).unwrap_or_default();
        let count = SYMBOLS.get(kind).copied().unwrap_or(0);
        rest.get(..count).unwrap_or_default()
    }

    fn plain(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let state = |at: usize| short(at).map(u32::from);
        // The field is the negative number of unused bits.
        let unused = |at: usize| {
            let bits = i32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
            usize::try_from(bits.checked_neg()?).ok()
        };
        let mut frequencies = [0; ALL_SYMBOLS];
        for (at, frequency) in (PLAIN_AT..).step_by(2).zip(&mut frequencies) {
            *frequency = short(at)?;
        }
        Some(Self {
            stated: number(bytes, 4)?,
            literals: (number(bytes, 12)?, number(bytes, 20)?),
            matches: (number(bytes, 16)?, number(bytes, 24)?),
            unused: (unused(28)?, unused(40)?),
            literal_states: [state(32)?, state(34)?, state(36)?, state(38)?],
            match_states: [state(44)?, state(46)?, state(48)?],
            frequencies,
        })
    }

    /// Parses a header with compressed frequencies. Also returns its length.
    fn compressed(bytes: &[u8]) -> Option<(Self, usize)> {
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let [first, second, third] = [word(8)?, word(16)?, word(24)?];
        let field = |word: u64, at: u32, bits: u32| {
            u32::try_from(word >> at & ((1 << bits) - 1)).unwrap_or_default()
        };
        let count = |word: u64, at: u32| usize::try_from(field(word, at, 20)).unwrap_or(usize::MAX);
        // A value of 7 means that no bit is unused.
        let unused = |word: u64| usize::try_from(7 - field(word, 60, 3)).unwrap_or(usize::MAX);
        let length = usize::try_from(field(third, 0, 32)).ok()?;
        let header = Self {
            stated: number(bytes, 4)?,
            literals: (count(first, 0), count(first, 20)),
            matches: (count(first, 40), count(second, 40)),
            unused: (unused(first), unused(second)),
            literal_states: [0, 10, 20, 30].map(|at| field(second, at, 10)),
            match_states: [32, 42, 52].map(|at| field(third, at, 10)),
            frequencies: decompress(bytes.get(COMPRESSED_AT..length)?)?,
        };
        Some((header, length))
    }
}

/// Decompresses the frequencies, which must end in the last byte. Without any bytes all frequencies are 0.
fn decompress(bytes: &[u8]) -> Option<[u16; ALL_SYMBOLS]> {
    let mut frequencies = [0; ALL_SYMBOLS];
    if bytes.is_empty() {
        return Some(frequencies);
    }
    let mut rest = bytes.iter();
    let (mut bits, mut count) = (0u32, 0);
    for frequency in &mut frequencies {
        while count <= 24 {
            let Some(byte) = rest.next() else {
                break;
            };
            bits |= u32::from(*byte) << count;
            count += 8;
        }
        let (value, used) = code(bits);
        count = u32::checked_sub(count, used)?;
        bits >>= used;
        *frequency = value;
    }
    (count < 8 && rest.next().is_none()).then_some(frequencies)
}

/// Decodes the frequency in the lowest bits. Also returns the length of its code in bits.
fn code(bits: u32) -> (u16, u32) {
    let more = |base: u32, count: u32| {
        let value = base + (bits >> 4 & ((1 << count) - 1));
        (u16::try_from(value).unwrap_or(u16::MAX), 4 + count)
    };
    match bits & 0b1_1111 {
        low if low & 0b11 == 0b00 => (0, 2),
        low if low & 0b11 == 0b10 => (1, 2),
        low if low & 0b111 == 0b001 => (2, 3),
        low if low & 0b111 == 0b101 => (3, 3),
        low if low & 0b111 == 0b011 => (u16::try_from(4 + (low >> 3)).unwrap_or(u16::MAX), 5),
        low if low & 0b1111 == 0b0111 => more(8, 4),
        _ => more(24, 10),
    }
}

/// Returns the 32-bit number at an offset of the input.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}
