//! The kinds of streams in compressed blocks.

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Raw deflate (RFC 1951), with a window of 4 KiB.
    Deflate,
    /// Deflate with a header and a checksum (RFC 1950), with a window of 32 KiB.
    Zlib,
    /// One or more zstd frames.
    Zstd,
}
