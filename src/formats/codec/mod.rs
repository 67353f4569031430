//! Compression of a block of a disk to a stream of bytes, and decompression.
//!
//! A block (or cluster, or grain) is compressed on its own, so that it can be read on its own. The codecs know
//! neither tables nor files. Formats differ only in the kind of stream, which is a [`Codec`].
//!
//! - [`mod@decompress`]: decoding untrusted streams in bounded memory;
//! - [`mod@compress`]: encoding streams that every reader accepts;
//! - [`deflate`]: the encoder for both kinds of deflate.

mod compress;
mod decompress;
mod deflate;
mod kind;

pub use compress::{compress, stored_length, write_stored};
pub use decompress::{DecodeError, decompress, decompress_whole};
pub use kind::Codec;
