//! Compressed clusters: one cluster of the guest's data to a stream of bytes, and back.
//!
//! A cluster is compressed alone, so that it can be read alone. Neither direction knows tables or files.
//!
//! - [`mod@decompress`]: untrusted streams, in bounded memory;
//! - [`mod@compress`]: streams that every reader takes;
//! - [`deflate`]: the encoder for qcow2's window of 4 KiB.

mod compress;
mod decompress;
mod deflate;

pub use compress::compress;
pub use decompress::{DecodeError, decompress};
