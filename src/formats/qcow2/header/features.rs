//! The feature bits of version 3 headers, and the feature name table.
//!
//! A reader must know all incompatible features that are set. It may ignore compatible ones. A writer must clear
//! autoclear bits that it doesn't know. An image stores names for its bits, so that a program can name an unknown
//! feature.

use std::fmt::Write as _;

use crate::error::printable;

/// Incompatible bit 0: the image wasn't closed, so refcounts may be outdated.
pub const DIRTY: u64 = 1 << 0;
/// Incompatible bit 1: metadata is damaged, so the image must not be written to.
pub const CORRUPT: u64 = 1 << 1;
/// Incompatible bit 2: the guest's data is in an external data file.
pub const DATA_FILE: u64 = 1 << 2;
/// Incompatible bit 3: the compression type isn't deflate.
pub const COMPRESSION: u64 = 1 << 3;
/// Incompatible bit 4: L2 entries have 16 bytes, with subclusters.
pub const EXTENDED_L2: u64 = 1 << 4;
/// Every incompatible bit that the specification defines.
pub const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

/// Compatible bit 0: refcounts are updated lazily, while the dirty bit is set.
pub const LAZY_REFCOUNTS: u64 = 1 << 0;

/// Autoclear bit 0: the bitmaps are consistent with the data.
pub const BITMAPS: u64 = 1 << 0;
/// Autoclear bit 1: the external data file is a raw image of the disk.
pub const DATA_FILE_RAW: u64 = 1 << 1;

/// The type of a feature, as the feature name table encodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FeatureKind {
    /// Must be understood to read the image.
    Incompatible = 0,
    /// May be ignored.
    Compatible = 1,
    /// Cleared by writers that don't know it.
    Autoclear = 2,
}

/// The feature names in new images: type, bit number, name.
pub const NAMES: [(FeatureKind, u8, &str); 8] = [
    (FeatureKind::Incompatible, 0, "dirty bit"),
    (FeatureKind::Incompatible, 1, "corrupt bit"),
    (FeatureKind::Incompatible, 2, "external data file"),
    (FeatureKind::Incompatible, 3, "compression type"),
    (FeatureKind::Incompatible, 4, "extended L2 entries"),
    (FeatureKind::Compatible, 0, "lazy refcounts"),
    (FeatureKind::Autoclear, 0, "bitmaps"),
    (FeatureKind::Autoclear, 1, "raw external data"),
];

/// The length of an entry of the feature name table in bytes: type, bit number, zero-padded name.
const ENTRY_LENGTH: usize = 48;
const NAME_LENGTH: usize = 46;

/// Returns the feature name table of a new image, as the data of its header extension.
pub fn name_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(NAMES.len() * ENTRY_LENGTH);
    for (kind, bit, name) in NAMES {
        table.push(kind as u8);
        table.push(bit);
        table.extend_from_slice(name.as_bytes());
        table.resize(table.len() + NAME_LENGTH - name.len(), 0);
    }
    table
}

/// Describes the unknown bits in `incompatible`, with names from the image's own table if it has them. As in QEMU, an
/// entry without a name ends the table, and a truncated last entry is still used.
pub fn describe_unknown(incompatible: u64, table: &[u8]) -> Option<String> {
    let mut unknown = incompatible & !KNOWN_INCOMPATIBLE;
    if unknown == 0 {
        return None;
    }
    let mut text = String::new();
    for entry in table.chunks(ENTRY_LENGTH) {
        let [kind, bit, name @ ..] = entry else {
            break;
        };
        let end = name.iter().position(|byte| *byte == 0);
        let name = name.get(..end.unwrap_or(NAME_LENGTH)).unwrap_or(name);
        if name.is_empty() {
            break;
        }
        let mask = 1u64.checked_shl(u32::from(*bit)).unwrap_or(0);
        if *kind != FeatureKind::Incompatible as u8 || unknown & mask == 0 {
            continue;
        }
        unknown &= !mask;
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&printable(&String::from_utf8_lossy(name)));
    }
    if unknown != 0 {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(text, "{separator}Unknown incompatible feature: {unknown:x}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bits_are_named_from_the_image() {
        let mut table = name_table();
        assert_eq!(table.len(), 8 * 48);
        assert_eq!(describe_unknown(0x1f, &table), None);
        table.extend([0, 7]);
        table.extend(b"time travel\x1b[2J");
        table.resize(9 * 48, 0);
        assert_eq!(
            describe_unknown(1 << 7, &table).unwrap(),
            "time travel\\u{1b}[2J"
        );
        assert_eq!(
            describe_unknown(1 << 7 | 1 << 63 | 1, &table).unwrap(),
            "time travel\\u{1b}[2J, Unknown incompatible feature: 8000000000000000"
        );
        let first = 8 * 48;
        let unnamed = "Unknown incompatible feature: 80";
        for (length, named) in [
            (47, "time travel\\u{1b}[2J"),
            (6, "time"),
            (3, "t"),
            (2, unnamed),
            (1, unnamed),
        ] {
            let cut = &table[..first + length];
            assert_eq!(describe_unknown(1 << 7, cut).unwrap(), named, "{length}");
        }
        table[first - 48 + 2] = 0;
        assert_eq!(describe_unknown(1 << 7, &table).unwrap(), unnamed);
    }
}
