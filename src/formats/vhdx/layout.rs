//! The offsets that are the same in every image.

/// 1 MiB, the alignment of regions and blocks, in bytes.
pub(super) const MIB: u64 = 1 << 20;
/// The end of the identifier, the headers and the region tables, in bytes.
pub(super) const HEADERS_END: u64 = MIB;
