//! The kinds of streams that compressed blocks are.

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Raw deflate (RFC 1951), which looks back 4 KiB and no further.
    Deflate,
    /// Deflate with a header and a checksum (RFC 1950), which looks back 32 KiB.
    Zlib,
    /// One or more frames of Zstandard.
    Zstd,
}
