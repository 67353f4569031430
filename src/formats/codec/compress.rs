//! Compression of one block, to about the size that `qemu-img` achieves, in less time.
//!
//! Readers of the formats limit the window: 4 KiB for raw deflate, since readers keep no more, and 32 KiB for zlib. A
//! zstd block is one frame.
//!
//! Each thread keeps its encoders, since making one takes as much time as compressing a small block.

use std::cell::RefCell;

use zlib_rs::adler32::adler32;
use zstd::bulk::Compressor;

use super::deflate::Deflate;
use super::kind::Codec;
use crate::error::{Error, Result};

/// The first bytes of a zlib stream: deflate with a window of 32 KiB, at the default level.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x9c];
/// The number of bytes of a zlib stream in addition to its deflate stream: the header and the checksum.
const ZLIB_BYTES: usize = ZLIB_HEADER.len() + 4;
/// The Adler-32 checksum of no bytes.
const ADLER_OF_NOTHING: u32 = 1;
/// The largest number of bytes of a stored deflate block, and the length of its header.
const MOST_STORED: usize = 65535;
const STORED_HEADER: usize = 5;

/// Returns zstd's level for a block. Level 2 is one below QEMU's, which is zstd's default. It takes a fifth less time
/// for 1 % more space. Since compressed clusters are contiguous here, the image is hardly larger than QEMU's. With
/// clusters above 256 KiB it would be 4 % larger.
fn zstd_level(block: &[u8]) -> i32 {
    if block.len() <= 256 << 10 { 2 } else { 3 }
}

thread_local! {
    static DEFLATE: RefCell<Deflate<{ 1 << 12 }>> = RefCell::default();
    static ZLIB: RefCell<Deflate<{ 1 << 15 }>> = RefCell::default();
    static ZSTD: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `block` into at most `most` bytes of `out`, replacing its contents. Returns true if they are enough.
/// Otherwise the contents of `out` are undefined.
///
/// # Errors
/// Returns the encoder's error, which no data can cause.
pub fn compress(codec: Codec, block: &[u8], most: usize, out: &mut Vec<u8>) -> Result<bool> {
    match codec {
        Codec::Deflate => Ok(DEFLATE.with_borrow_mut(|encoder| encoder.compress(block, most, out))),
        Codec::Zlib => ZLIB.with_borrow_mut(|encoder| {
            let Some(most) = most.checked_sub(ZLIB_BYTES) else {
                return Ok(false);
            };
            if !encoder.compress(block, most, out) {
                return Ok(false);
            }
            out.splice(..0, ZLIB_HEADER);
            out.extend(adler32(ADLER_OF_NOTHING, block).to_be_bytes());
            Ok(true)
        }),
        Codec::Zstd => ZSTD.with_borrow_mut(|encoder| {
            let encoder = match encoder {
                Some(encoder) => encoder,
                None => encoder.insert(Compressor::default()),
            };
            encoder
                .set_compression_level(zstd_level(block))
                .map_err(|error| Error::invalid(format!("zstd: {error}")))?;
            Ok(zstd(encoder, block, most, out))
        }),
    }
}

fn zstd(encoder: &mut Compressor<'_>, block: &[u8], most: usize, out: &mut Vec<u8>) -> bool {
    // The only possible error is that of a buffer that is too small.
    out.resize(most, 0);
    match encoder.compress_to_buffer(block, out.as_mut_slice()) {
        Ok(length) => {
            out.truncate(length);
            true
        }
        Err(_) => false,
    }
}

/// Returns the length in bytes of the zlib stream that [`write_stored`] makes from `block` bytes.
pub fn stored_length(block: usize) -> usize {
    let parts = block.div_ceil(MOST_STORED).max(1);
    block + parts * STORED_HEADER + ZLIB_BYTES
}

/// Appends a zlib stream with `block` uncompressed to `out`, for formats in which a block must be a stream even if it
/// doesn't get smaller.
pub fn write_stored(block: &[u8], out: &mut Vec<u8>) {
    out.reserve(stored_length(block.len()));
    out.extend(ZLIB_HEADER);
    let mut rest = block;
    loop {
        let (part, after) = rest.split_at(rest.len().min(MOST_STORED));
        let [low, high, ..] = part.len().to_le_bytes();
        out.extend([u8::from(after.is_empty()), low, high, !low, !high]);
        out.extend_from_slice(part);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    out.extend(adler32(ADLER_OF_NOTHING, block).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{decompress, decompress_whole};
    use super::*;

    const CODECS: [Codec; 3] = [Codec::Deflate, Codec::Zlib, Codec::Zstd];

    /// Returns text-like data: bytes that repeat at distances up to far beyond 4 KiB.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut word = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 20) % 700
        };
        let words = std::iter::repeat_with(|| format!("{:x} ", word() * 7919));
        words.flat_map(String::into_bytes).take(length).collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
            (state >> 56) as u8
        });
        bytes.take(length).collect()
    }

    fn compressed(codec: Codec, block: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![1, 2, 3];
        let smaller = compress(codec, block, block.len() - 1, &mut out).unwrap();
        smaller.then_some(out)
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for codec in CODECS {
            for length in [512, 4096, 65536, 2 << 20] {
                let block = text(length);
                let stream = compressed(codec, &block).unwrap();
                assert!(stream.len() < length);
                let mut back = vec![0; length];
                decompress(codec, &stream, &mut back).unwrap();
                assert!(back == block, "{codec:?} {length}");
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_said_to_and_does_no_lasting_harm() {
        let noise = noise(2 << 20);
        for codec in CODECS {
            for length in [512, 1024, 4096, 65536, 2 << 20] {
                let text = text(length);
                for _ in 0..3 {
                    assert_eq!(compressed(codec, &noise[..length]), None);
                    assert!(compressed(codec, &text).is_some());
                }
            }
        }
    }

    #[test]
    fn a_stream_is_as_long_as_the_room_for_it_at_the_most() {
        let block = text(65536);
        for codec in CODECS {
            let length = compressed(codec, &block).unwrap().len();
            let mut out = Vec::new();
            assert!(compress(codec, &block, length + 8, &mut out).unwrap());
            assert_eq!(out.len(), length);
            for most in [0, 5, 6, length / 2] {
                assert!(
                    !compress(codec, &block, most, &mut out).unwrap(),
                    "{codec:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_stored_as_it_is_is_a_stream_too() {
        for length in [0, 1, 512, 65_535, 65_536, 200_000] {
            let block = noise(length);
            let mut stream = vec![7];
            write_stored(&block, &mut stream);
            assert_eq!(stream.len(), 1 + stored_length(length));
            let mut back = vec![0; length];
            let made = decompress_whole(Codec::Zlib, &stream[1..], &mut back).unwrap();
            assert!(made == length && back == block, "{length}");
        }
    }
}
