//! A writer of bits into bytes, from the least significant bit on.

/// The buffer of a stream, and its present end.
#[derive(Debug)]
pub(super) struct BitWriter<'a> {
    bytes: &'a mut [u8],
    position: usize,
    pending: u64,
    /// The number of bits that are pending: less than 8 after [`flush`](Self::flush).
    count: u32,
}

impl<'a> BitWriter<'a> {
    /// Returns an empty stream in `bytes`, of which the last 8 bytes can't be used.
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self {
            bytes,
            position: 0,
            pending: 0,
            count: 0,
        }
    }

    /// Returns true if there is space for `bits` more bits.
    pub(super) fn has_space_for(&self, bits: u64) -> bool {
        let whole = (bits + u64::from(self.count)).div_ceil(8);
        self.position as u64 + whole + 8 <= self.bytes.len() as u64
    }

    /// Appends the lowest `count` bits of `bits`, whose other bits are 0. At most 56 bits can be appended between two
    /// flushes.
    #[inline(always)]
    pub(super) fn add(&mut self, bits: u64, count: u32) {
        self.pending |= bits << (self.count & 63);
        self.count += count;
    }

    /// Writes whole bytes.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        let to = self.position..self.position + 8;
        if let Some(to) = self.bytes.get_mut(to) {
            to.copy_from_slice(&self.pending.to_le_bytes());
        }
        let bits = self.count & !7;
        self.position += (self.count / 8) as usize;
        self.pending >>= bits & 63;
        self.count -= bits;
    }

    /// Pads the last byte with zeroes.
    pub(super) fn align(&mut self) {
        self.count = self.count.next_multiple_of(8);
        self.flush();
    }

    /// Appends whole bytes to an aligned stream.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        let end = self.position + bytes.len();
        if let Some(to) = self.bytes.get_mut(self.position..end) {
            to.copy_from_slice(bytes);
        }
        self.position = end;
    }

    /// Returns the length of an aligned stream in bytes.
    pub(super) fn len(&self) -> usize {
        self.position
    }
}
