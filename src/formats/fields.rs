//! Fields of headers, by their offsets in bytes. A field beyond the end of a header reads as 0 and isn't written.

use byteorder::{BigEndian, ByteOrder as _, LittleEndian};

/// Returns the little-endian number at `at`.
pub(super) fn u32_le(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, LittleEndian::read_u32)
}

/// Returns the little-endian number at `at`.
pub(super) fn u64_le(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, LittleEndian::read_u64)
}

/// Returns the big-endian number at `at`.
pub(super) fn u32_be(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, BigEndian::read_u32)
}

/// Returns the big-endian number at `at`.
pub(super) fn u64_be(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, BigEndian::read_u64)
}

/// Writes a field at `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}
