//! The headers of the extents that ESX makes for snapshots: COWD, and SEsparse, which can only be read.

use super::grains::{EntryKind, GrainLayout};
use crate::error::{Error, Result};
use crate::formats::fields::{u32_le, u64_le};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number of a COWD extent.
pub(super) const COWD_MARK: &[u8; 4] = b"COWD";
/// The number of entries in a grain table.
const COWD_ENTRIES: u64 = 4096;
/// The offset of the field with the first free sector, in bytes.
const COWD_NEXT_FREE: u64 = 28;
/// The largest grain of a COWD extent, in sectors of 512 bytes.
const LARGEST_GRAIN: u32 = 1 << 17;

const SE_MARK: u64 = 0xcafe_babe;
const SE_VOLATILE_MARK: u64 = 0xcafe_cafe;
const SE_VERSION: u64 = 0x2_0000_0001;
const SE_GRAIN: u64 = 8;
const SE_TABLE: u64 = 64;
/// The number of entries in a grain table.
const SE_ENTRIES: u64 = SE_TABLE * SECTOR_SIZE / 8;

/// Reads the header of a COWD extent.
///
/// # Errors
/// Returns the system's error. Returns an error if a field is invalid.
pub(super) fn read_cowd(file: &dyn Storage) -> Result<GrainLayout> {
    let mut bytes = [0; 32];
    file.read_exact_at(0, &mut bytes, "the header of an extent")?;
    let number = |at: usize| u32_le(&bytes, at);
    if !bytes.starts_with(COWD_MARK) {
        return Err(Error::corrupt(
            "Image not in VMDK format: an extent has no COWD mark",
        ));
    }
    let (capacity, grain, directory) = (number(12), number(16), number(20));
    if grain == 0 {
        return Err(Error::corrupt("L1 entry size is invalid"));
    }
    if grain > LARGEST_GRAIN {
        return Err(Error::corrupt("Invalid granularity, image may be corrupt"));
    }
    Ok(GrainLayout {
        size: u64::from(capacity) * SECTOR_SIZE,
        grain: u64::from(grain) * SECTOR_SIZE,
        entries: COWD_ENTRIES,
        directory: u64::from(directory) * SECTOR_SIZE,
        second_directory: None,
        kind: EntryKind::Sectors {
            has_zero: false,
            is_compressed: false,
            has_markers: false,
        },
        next_free: Some(COWD_NEXT_FREE),
    })
}

/// Reads the two headers of an SEsparse extent.
///
/// # Errors
/// Returns the system's error. Returns an error, in QEMU's words, if a field is invalid, or if the journal has to be
/// replayed.
pub(super) fn read_se_sparse(file: &dyn Storage) -> Result<GrainLayout> {
    let mut bytes = [0; 512];
    file.read_exact_at(0, &mut bytes, "the const header of an extent")?;
    let field = |index: usize| u64_le(&bytes, index * 8);
    let wrong = |text: String| Err(Error::unsupported(text));
    if field(0) != SE_MARK {
        return wrong(format!("Bad const header magic: {:#018x}", field(0)));
    }
    if field(1) != SE_VERSION {
        return wrong(format!("Unsupported version: {:#018x}", field(1)));
    }
    if field(3) != SE_GRAIN {
        return wrong(format!("Unsupported grain size: {}", field(3)));
    }
    if field(4) != SE_TABLE {
        return wrong(format!("Unsupported grain table size: {}", field(4)));
    }
    if field(5) != 0 {
        return wrong(format!("Unsupported flags: {:#018x}", field(5)));
    }
    let reserved = [field(6), field(7), field(8), field(9)];
    if reserved != [0; 4] {
        let [a, b, c, d] = reserved;
        return wrong(format!(
            "Unsupported reserved bits: {a:#018x} {b:#018x} {c:#018x} {d:#018x}"
        ));
    }
    if bytes.iter().skip(208).any(|byte| *byte != 0) {
        return wrong("Unsupported non-zero const header padding".into());
    }
    check_volatile_header(file, field(10))?;
    let capacity = field(2);
    if capacity > i64::MAX.unsigned_abs() / SECTOR_SIZE {
        return Err(Error::corrupt("the disk of the image is too large"));
    }
    let at = |sectors: u64| sectors.saturating_mul(SECTOR_SIZE);
    Ok(GrainLayout {
        size: at(capacity),
        grain: SE_GRAIN * SECTOR_SIZE,
        entries: SE_ENTRIES,
        directory: at(field(16)),
        second_directory: None,
        kind: EntryKind::SeSparse {
            tables: at(field(18)),
            grains: at(field(24)),
        },
        next_free: None,
    })
}

fn check_volatile_header(file: &dyn Storage, sector: u64) -> Result<()> {
    let mut bytes = [0; 512];
    let at = sector.saturating_mul(SECTOR_SIZE);
    file.read_exact_at(at, &mut bytes, "the volatile header of an extent")?;
    let field = |index: usize| u64_le(&bytes, index * 8);
    if field(0) != SE_VOLATILE_MARK {
        return Err(Error::corrupt(format!(
            "Bad volatile header magic: {:#018x}",
            field(0)
        )));
    }
    if field(3) != 0 {
        return Err(Error::unsupported(
            "Image is dirty, Replaying journal not supported",
        ));
    }
    if bytes.iter().skip(32).any(|byte| *byte != 0) {
        return Err(Error::unsupported(
            "Unsupported non-zero volatile header padding",
        ));
    }
    Ok(())
}
