//! The places of a file that are the same in every image, or counted from its start.

/// A MiB: the unit of places, in bytes.
pub(super) const MIB: u64 = 1 << 20;
/// The end of the identifier, the headers and the tables of regions, in bytes.
pub(super) const HEADERS_END: u64 = MIB;
