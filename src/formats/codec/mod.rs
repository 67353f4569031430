//! Compressed blocks: one block of a disk to a stream of bytes, and back.
//!
//! A block, or cluster, or grain, is compressed alone, so that it can be read alone. Neither direction knows
//! tables or files. The formats differ in the kind of stream, which is a [`Codec`], and not in how one is made.
//!
//! - [`mod@decompress`]: untrusted streams, in bounded memory;
//! - [`mod@compress`]: streams that every reader takes;
//! - [`deflate`]: the encoder of the two kinds of deflate.

mod compress;
mod decompress;
mod deflate;
mod kind;

pub use compress::{compress, stored_length, write_stored};
pub use decompress::{DecodeError, decompress, decompress_whole};
pub use kind::Codec;
