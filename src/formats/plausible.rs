//! The detection of a wrong password by noise at the start of the disk.
//!
//! Legacy AES stores nothing that identifies a wrong password, but the disk does: every encrypted sector is noise
//! after decryption with a wrong key. Disks start with boot records, partition tables, LVM labels, LUKS headers or
//! superblocks of file systems. All of these, and nearly everything else, have at least one sector of zeroes, text or
//! numbers. So no list of signatures is needed. Some signatures have only two bytes, and would be found in noise too.
//!
//! A sector of noise has 221 different bytes on average, with a standard deviation of 4.5. Fewer than
//! [`LEAST_DIFFERENT`] don't occur in practice.

use super::{ExtentKind, Image};
use crate::error::Result;
use crate::units::{GuestOffset, SECTOR_SIZE};

/// The length of the part of the disk that is examined, in bytes from its start. Superblocks are found up to 64 KiB.
const START: u64 = 128 << 10;

/// The smallest number of different bytes in a sector of noise.
const LEAST_DIFFERENT: usize = 180;

/// Returns true if a part of the image's start is stored and all stored parts of it are noise. Compressed data is
/// never encrypted and doesn't count.
///
/// # Errors
/// Returns an error if the start can't be read.
pub fn starts_with_noise(image: &dyn Image) -> Result<bool> {
    let end = image.size().min(START);
    let mut position = 0;
    let mut noise = false;
    while position < end {
        let start = GuestOffset(position);
        let extent = image.extent_at(start, end - position)?;
        if let ExtentKind::Data(_) = extent.kind {
            let mut data = vec![0; usize::try_from(extent.length).unwrap_or(0)];
            image.read_at(start, &mut data)?;
            let sector = usize::try_from(SECTOR_SIZE).unwrap_or(512);
            if !data.chunks(sector).all(is_noise) {
                return Ok(false);
            }
            noise = true;
        }
        position += extent.length;
    }
    Ok(noise)
}

fn is_noise(sector: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in sector {
        if let Some(seen) = seen.get_mut(usize::from(*byte)) {
            *seen = true;
        }
    }
    seen.into_iter().filter(|seen| *seen).count() >= LEAST_DIFFERENT
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::{Backend, KeyedCipher};
    use crate::formats::raw::RawImage;
    use crate::storage::MemoryStorage;

    fn is_noise_at_the_start(disk: Vec<u8>) -> bool {
        let disk = RawImage::open(Arc::new(MemoryStorage::new(disk))).unwrap();
        starts_with_noise(&disk).unwrap()
    }

    /// Returns a disk of zeroes that was encrypted with one key and decrypted with another.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut disk = vec![0; bytes];
        KeyedCipher::aes_cbc(b"right password  ", Backend::detect()).encrypt(0, &mut disk);
        KeyedCipher::aes_cbc(b"wrong password  ", Backend::detect()).decrypt(0, &mut disk);
        disk
    }

    #[test]
    fn a_wrong_key_is_seen_and_one_sector_of_a_disk_is_enough() {
        assert!(is_noise_at_the_start(noise(4 << 20)));
        assert!(is_noise_at_the_start(noise(512)));
        // Each signature at its offset, on an otherwise empty sector as on a real disk.
        for (at, signature) in [
            (510, &b"\x55\xaa"[..]),
            (512, b"EFI PART"),
            (512, b"LABELONE"),
            (0, b"XFSB"),
            (3, b"NTFS    "),
            (0, b"LUKS\xba\xbe"),
            (1024 + 56, b"\x53\xef"),
            (4086, b"SWAPSPACE2"),
            (0x8001, b"CD001"),
            (0x1_0040, b"_BHRfS_M"),
        ] {
            let mut disk = noise(4 << 20);
            disk[at / 512 * 512..][..512].fill(0);
            disk[at..at + signature.len()].copy_from_slice(signature);
            assert!(!is_noise_at_the_start(disk), "{signature:?}");
        }
        let mut text = noise(1 << 20);
        let line = b"Whatever else people keep on disks, 100 % of it has such sectors.\n";
        text[8192..8192 + 512].copy_from_slice(&line.repeat(8)[..512]);
        assert!(!is_noise_at_the_start(text));
    }

    #[test]
    fn nothing_stored_is_no_noise() {
        assert!(!is_noise_at_the_start(vec![0; 1 << 20]));
        assert!(!is_noise_at_the_start(Vec::new()));
        // The first stored sector is beyond the examined part.
        let mut disk = vec![0; 1 << 20];
        disk.extend(noise(4096));
        assert!(!is_noise_at_the_start(disk));
    }
}
