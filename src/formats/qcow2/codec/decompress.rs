//! Decompression of a run of bytes to one cluster, and no further.
//!
//! A compressed cluster is a raw deflate stream, or one or more zstd frames, that yields exactly one
//! cluster. Its length is only known in sectors, so bytes behind the stream are no error; they may
//! belong to the next cluster. The output buffer is one cluster, so a stream that would yield more
//! costs nothing, and one that yields less is damaged.
//!
//! A zstd frame says how far back it may refer, up to gigabytes, and decoding it as a stream takes
//! that much memory. So it isn't decoded as one. The whole frame is there and the cluster is all
//! that it may yield. So every frame is decoded in one go straight into the cluster, which needs no
//! other memory, whatever the frame says.
//!
//! Decoders are kept for each thread: making one costs more than decoding a cluster.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::find_frame_compressed_size;

use crate::formats::qcow2::header::CompressionType;

thread_local! {
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    static UNZSTD: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The reason why a compressed cluster could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError(String);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decodes `input` until `cluster` is full.
///
/// # Errors
/// Returns an error if the stream is damaged, or ends before.
pub fn decompress(
    kind: CompressionType,
    input: &[u8],
    cluster: &mut [u8],
) -> Result<(), DecodeError> {
    match kind {
        CompressionType::Zlib => INFLATE.with_borrow_mut(|inflate| {
            inflate.reset(false);
            unzlib(inflate, input, cluster)
        }),
        CompressionType::Zstd => UNZSTD.with_borrow_mut(|decoder| {
            if decoder.is_none() {
                *decoder = Some(Decompressor::new().map_err(|error| zstd_error(&error))?);
            }
            match decoder {
                Some(decoder) => unzstd(decoder, input, cluster),
                None => Err(DecodeError("no zstd decoder".to_owned())),
            }
        }),
    }
}

fn unzlib(inflate: &mut Decompress, input: &[u8], cluster: &mut [u8]) -> Result<(), DecodeError> {
    let status = inflate
        .decompress(input, cluster, FlushDecompress::Finish)
        .map_err(|error| DecodeError(format!("deflate: {error}")))?;
    let produced = usize::try_from(inflate.total_out()).unwrap_or(0);
    match status {
        Status::StreamEnd | Status::Ok | Status::BufError if produced == cluster.len() => Ok(()),
        _ => Err(too_short(produced, cluster.len())),
    }
}

fn unzstd(
    decoder: &mut Decompressor<'_>,
    mut input: &[u8],
    cluster: &mut [u8],
) -> Result<(), DecodeError> {
    let length = cluster.len();
    let mut done = 0;
    while done < length {
        if input.is_empty() {
            return Err(too_short(done, length));
        }
        let size = find_frame_compressed_size(input).map_err(|_| {
            DecodeError(format!(
                "zstd: no whole frame after {done} of {length} bytes"
            ))
        })?;
        let (frame, rest) = input
            .split_at_checked(size)
            .ok_or_else(|| too_short(done, length))?;
        let room = cluster.get_mut(done..).unwrap_or_default();
        done += decoder
            .decompress_to_buffer(frame, room)
            .map_err(|error| zstd_error(&error))?;
        input = rest;
    }
    Ok(())
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

    const KINDS: [CompressionType; 2] = [CompressionType::Zlib, CompressionType::Zstd];

    fn compress(kind: CompressionType, data: &[u8]) -> Vec<u8> {
        match kind {
            CompressionType::Zlib => {
                let mut out = Vec::with_capacity(data.len() + 100);
                flate2::Compress::new(flate2::Compression::default(), false)
                    .compress_vec(data, &mut out, flate2::FlushCompress::Finish)
                    .unwrap();
                out
            }
            CompressionType::Zstd => zstd::bulk::compress(data, 0).unwrap(),
        }
    }

    fn cluster() -> Vec<u8> {
        (0..4096u32).flat_map(|n| (n * n).to_le_bytes()).collect()
    }

    #[test]
    fn a_cluster_comes_back_whatever_follows_it() {
        let cluster = cluster();
        for kind in KINDS {
            let mut stream = compress(kind, &cluster);
            stream.extend([0xff; 300]);
            for _ in 0..2 {
                let mut out = vec![0; cluster.len()];
                decompress(kind, &stream, &mut out).unwrap();
                assert!(out == cluster);
            }
        }
    }

    #[test]
    fn several_zstd_frames_make_one_cluster() {
        let cluster = cluster();
        let (first, second) = cluster.split_at(5000);
        let mut stream = compress(CompressionType::Zstd, first);
        stream.extend(compress(CompressionType::Zstd, second));
        let mut out = vec![0; cluster.len()];
        decompress(CompressionType::Zstd, &stream, &mut out).unwrap();
        assert!(out == cluster);
    }

    #[test]
    fn damaged_or_short_streams_are_errors_and_do_no_lasting_harm() {
        let cluster = cluster();
        for kind in KINDS {
            let stream = compress(kind, &cluster);
            let mut out = vec![0; cluster.len()];
            let half = &stream[..stream.len() / 2];
            assert!(decompress(kind, half, &mut out).is_err());
            assert!(decompress(kind, &[], &mut out).is_err());
            assert!(decompress(kind, &[0xff; 64], &mut out).is_err());
            let short = compress(kind, &cluster[..100]);
            assert!(decompress(kind, &short, &mut out).is_err());
            decompress(kind, &stream, &mut out).unwrap();
            assert!(out == cluster);
        }
    }

    #[test]
    fn a_stream_that_yields_more_fills_one_cluster_at_the_most() {
        let mut out = vec![0; 512];
        let stream = compress(CompressionType::Zlib, &vec![7; 1 << 20]);
        decompress(CompressionType::Zlib, &stream, &mut out).unwrap();
        assert!(out == [7; 512]);
        // QEMU refuses it too.
        let stream = compress(CompressionType::Zstd, &vec![7; 1 << 20]);
        assert!(decompress(CompressionType::Zstd, &stream, &mut out).is_err());
    }

    /// Makes a frame that refers back as far as 2 to the `window`, with one block that isn't
    /// compressed.
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
            decompress(CompressionType::Zstd, &stream, &mut out).unwrap();
            assert!(out == cluster);
        }
        // Sizes are in MiB; other tests run meanwhile. As a stream, the last frame would take 2048.
        assert!(peak() - before < 1024, "{} MiB", peak() - before);
    }
}
