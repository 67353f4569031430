//! The effect of cluster size and encryption on a whole conversion.
//!
//! A disk of noise, which can't be skipped or compressed, is converted from raw to qcow2 by the code of `convert`.
//! Source and target are files in memory, so that only the disk's own speed is missing. Every target is a new file,
//! as a user's is, whose pages the system has to allocate first. The image is complete, from its header to its
//! refcounts.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ciphers::KEY;
use super::report::ClusterSpeed;
use super::rounds::{self, Samples};
use crate::convert::{self, Settings};
use crate::crypto::Backend;
use crate::error::{Error, Result};
use crate::formats::encryption::{Cipher, EncryptionFormat, LegacyAes};
use crate::formats::qcow2::create_options::CLUSTER_SIZES;
use crate::formats::qcow2::{NewQcow2, NewQcow2Options};
use crate::formats::raw::RawImage;
use crate::storage::{Storage, list};

/// The most that is converted at once, in bytes. Two files of that length are in memory.
pub const MOST_DATA: usize = 64 << 20;
/// The least that is converted at once, in bytes: two of the largest clusters.
const LEAST_DATA: usize = 4 << 20;
/// The number of bytes to convert for each second of the budget. It allows a few rounds on a machine that converts
/// two or three GB/s. The default budget reaches [`MOST_DATA`].
const DATA_PER_SECOND: f64 = (17 << 20) as f64;
/// The unit in which noise is written, in bytes: the largest cluster. The size of the disk is a multiple of it.
const PIECE: usize = 2 << 20;

/// The results.
pub struct Sweep {
    pub cluster_sizes: Vec<ClusterSpeed>,
    pub data_bytes: u64,
    pub rounds: u32,
    pub aes_takes_times: f64,
    pub spread: f64,
}

/// A cluster size and its measurements.
struct SizeSamples {
    cluster_size: u64,
    plain: Samples,
    aes: Samples,
    file_bytes: u64,
}

/// Measures every cluster size, with and without encryption by `backend`.
///
/// # Errors
/// Returns an error if memory for the files is lacking.
pub fn measure(backend: Backend, workers: usize, budget: Duration) -> Result<Sweep> {
    let data_bytes = data_bytes(budget);
    let settings = Settings {
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        ..Settings::default()
    };
    let source = RawImage::open(noise(data_bytes)?)?;
    let sizes = std::iter::successors(Some(*CLUSTER_SIZES.start()), |size| Some(size * 2));
    let mut rows: Vec<_> = sizes
        .take_while(|size| CLUSTER_SIZES.contains(size))
        .map(|cluster_size| SizeSamples {
            cluster_size,
            plain: Samples::default(),
            aes: Samples::default(),
            file_bytes: 0,
        })
        .collect();
    let convert = |cluster_size, cipher| {
        let (seconds, file_bytes) = convert(&source, data_bytes, cluster_size, cipher, settings)?;
        Ok::<_, Error>((data_bytes as f64 / seconds / 1e9, file_bytes))
    };
    // The first conversion isn't measured, so that no row has the costs of the first use.
    convert(PIECE as u64, None)?;
    // The two conversions of a pair directly follow each other. All pairs together give the cost of AES more
    // precisely than any row.
    let mut aes_takes_times = Samples::default();
    let rounds = rounds::repeat(budget, || {
        for row in &mut rows {
            let (plain, _) = convert(row.cluster_size, None)?;
            let cipher = LegacyAes::with_key(KEY, backend);
            let (aes, file_bytes) = convert(row.cluster_size, Some(cipher))?;
            row.plain.push(plain);
            row.aes.push(aes);
            aes_takes_times.push(plain / aes);
            row.file_bytes = file_bytes;
        }
        Ok::<_, Error>(())
    })?;
    let cluster_sizes = rows.iter().map(|row| ClusterSpeed {
        cluster_size: row.cluster_size,
        plain: row.plain.median(),
        aes: row.aes.median(),
        file_bytes: row.file_bytes,
        metadata_bytes: row.file_bytes.saturating_sub(data_bytes),
    });
    Ok(Sweep {
        cluster_sizes: cluster_sizes.collect(),
        data_bytes,
        rounds,
        aes_takes_times: aes_takes_times.median(),
        spread: aes_takes_times.spread(),
    })
}

/// Returns the number of bytes to convert, in whole pieces.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts saturate, and the range is clamped"
)]
fn data_bytes(budget: Duration) -> u64 {
    let wanted = (budget.as_secs_f64() * DATA_PER_SECOND) as usize;
    (wanted.clamp(LEAST_DATA, MOST_DATA) / PIECE * PIECE) as u64
}

/// Creates a file of noise.
fn noise(bytes: u64) -> Result<Arc<dyn Storage>> {
    let file = list::file_in_memory("cowhide-speed-source")?;
    let mut piece = vec![0; PIECE];
    let mut state = 0_u64;
    for offset in (0..bytes).step_by(piece.len()) {
        let (words, _) = piece.as_chunks_mut();
        for word in words {
            // The generator is SplitMix64: no page of it is zero, and none is like another.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = (z ^ (z >> 31)).to_le_bytes();
        }
        file.write_at(offset, &piece)?;
    }
    Ok(file)
}

/// Converts once. Returns the time in seconds, and the length of the image's file in bytes.
fn convert(
    source: &RawImage,
    size: u64,
    cluster_size: u64,
    cipher: Option<Cipher>,
    settings: Settings,
) -> Result<(f64, u64)> {
    let file = list::file_in_memory("cowhide-speed-target")?;
    let options = NewQcow2Options {
        cluster_size,
        encryption: cipher.as_ref().map(|_| EncryptionFormat::Aes),
        ..NewQcow2Options::new(size)
    };
    let start = Instant::now();
    let target = NewQcow2::create(Arc::clone(&file), options, cipher, false)?;
    convert::copy(source, &target, settings, &())?;
    Ok((start.elapsed().as_secs_f64(), file.len()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Image as _;
    use crate::formats::qcow2::{Header, Qcow2Image};
    use crate::units::GuestOffset;

    #[test]
    fn the_disk_follows_the_budget_within_bounds() {
        assert_eq!(data_bytes(Duration::ZERO), LEAST_DATA as u64);
        assert_eq!(data_bytes(Duration::from_millis(500)), 8 << 20);
        assert_eq!(data_bytes(Duration::MAX), MOST_DATA as u64);
    }

    #[test]
    fn what_is_measured_is_a_conversion() {
        let size = LEAST_DATA as u64;
        let source = RawImage::open(noise(size).unwrap()).unwrap();
        let file = list::file_in_memory("target").unwrap();
        let target = NewQcow2::create(Arc::clone(&file), NewQcow2Options::new(size), None, false);
        convert::copy(&source, &target.unwrap(), Settings::default(), &()).unwrap();
        let header = Header::read(file.as_ref()).unwrap();
        let image = Qcow2Image::open(file, header, None).unwrap();
        let mut expected = vec![0; LEAST_DATA];
        let mut found = expected.clone();
        source.read_at(GuestOffset(0), &mut expected).unwrap();
        image.read_at(GuestOffset(0), &mut found).unwrap();
        assert!(expected == found);
        assert!(expected.chunks(512).all(|sector| sector != [0; 512]));
    }
}
