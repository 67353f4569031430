//! The buffer of a worker. It is allocated once and reused for every chunk, and is aligned for requests that bypass
//! the page cache (which also suits the ciphers).

use crate::storage::DIRECT_ALIGNMENT;

/// Bytes that start at a multiple of [`DIRECT_ALIGNMENT`].
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// Returns the first `length` bytes, with their old contents.
    pub(crate) fn get(&mut self, length: usize) -> &mut [u8] {
        let needed = length + DIRECT_ALIGNMENT;
        if self.bytes.len() < needed {
            self.bytes = vec![0; needed];
        }
        let address = self.bytes.as_ptr().addr();
        let start = address.next_multiple_of(DIRECT_ALIGNMENT) - address;
        self.bytes
            .get_mut(start..start + length)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_as_long_as_asked_for() {
        let mut buffer = Buffer::default();
        for length in [0, 1, 512, 1 << 20, 4096] {
            let bytes = buffer.get(length);
            assert_eq!(bytes.len(), length);
            assert!(length == 0 || bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGNMENT));
        }
    }
}
