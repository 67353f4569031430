//! Compressed clusters: from a run of bytes to one cluster, and no further.
//!
//! A compressed cluster is a raw deflate stream, or one or more zstd frames, that yields exactly one
//! cluster. Its length is only known in sectors, so bytes behind the stream are no error; they may
//! belong to the next cluster. The output buffer is one cluster, so a stream that would yield more
//! costs nothing, and one that yields less is damaged.
//!
//! Decoders are kept for each thread: making one costs more than decoding a cluster.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use super::header::CompressionType;

/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB, zstd's own limit
/// for decoders that weren't told otherwise, and so QEMU's.
const ZSTD_WINDOW_LOG: u32 = 27;

thread_local! {
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    static UNZSTD: RefCell<Option<Decoder<'static>>> = const { RefCell::new(None) };
}

/// Why a compressed cluster could not be decoded.
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
/// The stream is damaged, or ends before.
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
                let mut new = Decoder::new().map_err(|error| zstd_error(&error))?;
                new.set_parameter(zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                    .map_err(|error| zstd_error(&error))?;
                *decoder = Some(new);
            }
            match decoder {
                Some(decoder) => {
                    decoder.reinit().map_err(|error| zstd_error(&error))?;
                    unzstd(decoder, input, cluster)
                }
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

fn unzstd(decoder: &mut Decoder<'_>, input: &[u8], cluster: &mut [u8]) -> Result<(), DecodeError> {
    let length = cluster.len();
    let mut input = InBuffer::around(input);
    let mut output = OutBuffer::around(cluster);
    while output.pos() < length {
        let before = (input.pos, output.pos());
        decoder
            .run(&mut input, &mut output)
            .map_err(|error| zstd_error(&error))?;
        if (input.pos, output.pos()) == before {
            return Err(too_short(output.pos(), length));
        }
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
    fn a_stream_that_yields_more_fills_one_cluster_only() {
        for kind in KINDS {
            let stream = compress(kind, &vec![7; 1 << 20]);
            let mut out = vec![0; 512];
            decompress(kind, &stream, &mut out).unwrap();
            assert!(out == [7; 512]);
        }
    }
}
