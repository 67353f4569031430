//! Decompression of a stream to exactly one block.
//!
//! A compressed block is a deflate or zlib stream, or one or more zstd frames. The output buffer has the size of a
//! block. So a stream that yields more takes no more memory, and one that yields less is damaged. Formats that store
//! a stream's length only in sectors have bytes after it, which may belong to the next block. For them,
//! [`decompress`] stops when the block is full. Other formats use [`decompress_whole`], which also checks the end of
//! the stream and its checksum.
//!
//! A zstd frame has a window size of up to gigabytes, and decoding it as a stream takes that much memory. But the
//! whole frame is in memory, and yields at most one block. So every frame is decoded at once into the block, which
//! takes no other memory, whatever the window size.
//!
//! Each thread keeps its decoders, since making one takes more time than decoding a block.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::find_frame_compressed_size;

use super::kind::Codec;

thread_local! {
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    static UNZLIB: RefCell<Decompress> = RefCell::new(Decompress::new(true));
    static UNZSTD: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The reason why a compressed block could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError(String);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decompresses `input` until `block` is full.
///
/// # Errors
/// Returns an error if the stream is damaged, or ends before.
pub fn decompress(codec: Codec, input: &[u8], block: &mut [u8]) -> Result<(), DecodeError> {
    let length = block.len();
    let produced = match codec {
        Codec::Deflate | Codec::Zlib => inflate(codec, input, block)?.0,
        Codec::Zstd => with_zstd(|decoder| unzstd(decoder, input, block))?,
    };
    if produced < length {
        return Err(too_short(produced, length));
    }
    Ok(())
}

/// Decompresses a stream that ends inside `input`, and returns the number of bytes of `block` that it yields.
/// Verifies the checksum if the stream has one. Ignores bytes after the stream.
///
/// # Errors
/// Returns an error if the stream is damaged, has no end, or yields more than the length of `block`.
pub fn decompress_whole(
    codec: Codec,
    input: &[u8],
    block: &mut [u8],
) -> Result<usize, DecodeError> {
    let length = block.len();
    match codec {
        Codec::Deflate | Codec::Zlib => match inflate(codec, input, block)? {
            (produced, true) => Ok(produced),
            (produced, false) if produced < length => Err(too_short(produced, length)),
            (_, false) => Err(DecodeError(format!(
                "the stream has no end after {length} bytes"
            ))),
        },
        Codec::Zstd => with_zstd(|decoder| unzstd(decoder, input, block)),
    }
}

/// Returns the number of bytes that a stream yields, and true if it ends there.
fn inflate(codec: Codec, input: &[u8], block: &mut [u8]) -> Result<(usize, bool), DecodeError> {
    let decoder = match codec {
        Codec::Zlib => &UNZLIB,
        _ => &INFLATE,
    };
    decoder.with_borrow_mut(|decoder| {
        decoder.reset(codec == Codec::Zlib);
        let status = decoder
            .decompress(input, block, FlushDecompress::Finish)
            .map_err(|error| DecodeError(format!("deflate: {error}")))?;
        let produced = usize::try_from(decoder.total_out()).unwrap_or(0);
        Ok((produced, status == Status::StreamEnd))
    })
}

fn with_zstd<T>(
    decode: impl FnOnce(&mut Decompressor<'static>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    UNZSTD.with_borrow_mut(|decoder| {
        if decoder.is_none() {
            *decoder = Some(Decompressor::new().map_err(|error| zstd_error(&error))?);
        }
        match decoder {
            Some(decoder) => decode(decoder),
            None => Err(DecodeError("no zstd decoder".to_owned())),
        }
    })
}

/// Decodes frames until the block is full or the input ends. Returns the number of bytes written to the block.
fn unzstd(
    decoder: &mut Decompressor<'_>,
    mut input: &[u8],
    block: &mut [u8],
) -> Result<usize, DecodeError> {
    let length = block.len();
    let mut done = 0;
    while done < length && !input.is_empty() {
        let size = find_frame_compressed_size(input).map_err(|_| {
            DecodeError(format!(
                "zstd: no whole frame after {done} of {length} bytes"
            ))
        })?;
        let (frame, rest) = input
            .split_at_checked(size)
            .ok_or_else(|| too_short(done, length))?;
        let space = block.get_mut(done..).unwrap_or_default();
        done += decoder
            .decompress_to_buffer(frame, space)
            .map_err(|error| zstd_error(&error))?;
        input = rest;
    }
    Ok(done)
}

fn zstd_error(error: &std::io::Error) -> DecodeError {
    DecodeError(format!("zstd: {error}"))
}

fn too_short(produced: usize, expected: usize) -> DecodeError {
    DecodeError(format!(
        "the stream ends after {produced} of {expected} bytes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Codec; 3] = [Codec::Deflate, Codec::Zlib, Codec::Zstd];

    fn compress(codec: Codec, data: &[u8]) -> Vec<u8> {
        match codec {
            Codec::Deflate | Codec::Zlib => {
                let mut out = Vec::with_capacity(data.len() + 100);
                flate2::Compress::new(flate2::Compression::default(), codec == Codec::Zlib)
                    .compress_vec(data, &mut out, flate2::FlushCompress::Finish)
                    .unwrap();
                out
            }
            Codec::Zstd => zstd::bulk::compress(data, 0).unwrap(),
        }
    }

    fn cluster() -> Vec<u8> {
        (0..4096u32).flat_map(|n| (n * n).to_le_bytes()).collect()
    }

    #[test]
    fn a_cluster_comes_back_whatever_follows_it() {
        let cluster = cluster();
        for codec in CODECS {
            let mut stream = compress(codec, &cluster);
            stream.extend([0xff; 300]);
            for _ in 0..2 {
                let mut out = vec![0; cluster.len()];
                decompress(codec, &stream, &mut out).unwrap();
                assert!(out == cluster);
            }
        }
    }

    #[test]
    fn several_zstd_frames_make_one_cluster() {
        let cluster = cluster();
        let (first, second) = cluster.split_at(5000);
        let mut stream = compress(Codec::Zstd, first);
        stream.extend(compress(Codec::Zstd, second));
        let mut out = vec![0; cluster.len()];
        decompress(Codec::Zstd, &stream, &mut out).unwrap();
        assert!(out == cluster);
    }

    #[test]
    fn damaged_or_short_streams_are_errors_and_do_no_lasting_harm() {
        let cluster = cluster();
        for codec in CODECS {
            let stream = compress(codec, &cluster);
            let mut out = vec![0; cluster.len()];
            let half = &stream[..stream.len() / 2];
            assert!(decompress(codec, half, &mut out).is_err());
            assert!(decompress(codec, &[], &mut out).is_err());
            assert!(decompress(codec, &[0xff; 64], &mut out).is_err());
            let short = compress(codec, &cluster[..100]);
            assert!(decompress(codec, &short, &mut out).is_err());
            decompress(codec, &stream, &mut out).unwrap();
            assert!(out == cluster);
        }
    }

    #[test]
    fn a_stream_that_yields_more_fills_one_cluster_at_the_most() {
        let mut out = vec![0; 512];
        let stream = compress(Codec::Deflate, &vec![7; 1 << 20]);
        decompress(Codec::Deflate, &stream, &mut out).unwrap();
        assert!(out == [7; 512]);
        // QEMU refuses such a frame as well.
        let stream = compress(Codec::Zstd, &vec![7; 1 << 20]);
        assert!(decompress(Codec::Zstd, &stream, &mut out).is_err());
    }

    #[test]
    fn a_whole_stream_ends_within_its_block_and_its_checksum_is_right() {
        let cluster = cluster();
        for codec in [Codec::Deflate, Codec::Zlib] {
            let mut stream = compress(codec, &cluster);
            let end = stream.len();
            stream.extend([0xff; 300]);
            let mut out = vec![0; cluster.len()];
            for space in [cluster.len(), cluster.len() + 512] {
                out.resize(space, 0);
                let made = decompress_whole(codec, &stream, &mut out);
                assert_eq!(made, Ok(cluster.len()));
                assert!(out[..cluster.len()] == cluster);
            }
            for cut in [1, 5, end / 2] {
                assert!(decompress_whole(codec, &stream[..end - cut], &mut out).is_err());
            }
            out.truncate(cluster.len() - 1);
            assert!(decompress_whole(codec, &stream, &mut out).is_err());
        }
        let mut stream = compress(Codec::Zlib, &cluster);
        *stream.last_mut().unwrap() ^= 1;
        let mut out = vec![0; cluster.len()];
        assert!(decompress_whole(Codec::Zlib, &stream, &mut out).is_err());
        assert!(decompress_whole(Codec::Zlib, &stream[2..], &mut out).is_err());
    }

    /// Returns a frame with a window of 2 to the `window` bytes, and with one raw block.
    fn frame(window: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (window - 10) << 3];
        let block = 1 | u32::try_from(data.len()).unwrap() << 3;
        frame.extend(&block.to_le_bytes()[..3]);
        frame.extend(data);
        frame
    }

    #[test]
    fn a_window_of_any_size_is_decoded_without_memory_for_it() {
        use std::fs;
        let peak = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmPeak:"));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.unwrap().parse::<u64>().unwrap() >> 10
        };
        let cluster = cluster();
        let before = peak();
        for window in [10, 21, 27, 31] {
            let mut out = vec![0; cluster.len()];
            let stream = frame(window, &cluster);
            decompress(Codec::Zstd, &stream, &mut out).unwrap();
            assert!(out == cluster);
        }
        // The sizes are in MiB, and include those of other tests. Decoded as a stream, the last frame would take 2048
        // MiB.
        assert!(peak() - before < 1024, "{} MiB", peak() - before);
    }
}
