//! The parts of an image's file: what its format reports, and the data of the disk.

use std::ops::Range;

use cowhide::formats::{ExtentKind, FileUse, Image, ImageFile};
use cowhide::units::GuestOffset;

/// The number of bytes of an image's file with each use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Covered {
    pub metadata: u64,
    pub compressed: u64,
    pub data: u64,
    pub rest: u64,
    /// The start of the first part with metadata.
    pub first: Option<u64>,
}

/// Returns the number of bytes with each use of a file of `length` bytes, in which the disk has its data. Asserts that
/// all parts are inside the file and disjoint.
pub fn covered(file: &dyn ImageFile, disk: &dyn Image, length: u64) -> Covered {
    let mut parts = Vec::new();
    let sum = |parts: &mut Vec<Range<u64>>, used_for| {
        let before = parts.len();
        let mut each = |part: Range<u64>| parts.extend((!part.is_empty()).then_some(part));
        assert!(file.parts_of(used_for, &mut each).unwrap());
        let new = &parts[before..];
        (
            new.iter().map(|part| part.end - part.start).sum::<u64>(),
            new.iter().map(|part| part.start).min(),
        )
    };
    let (metadata, first) = sum(&mut parts, FileUse::Metadata);
    let (compressed, _) = sum(&mut parts, FileUse::Compressed);
    let mut at = 0;
    let mut data = 0;
    while at < disk.size() {
        let extent = disk.extent_at(GuestOffset(at), u64::MAX).unwrap();
        if let ExtentKind::Data(host) = extent.kind {
            parts.push(host.0..host.0 + extent.length);
            data += extent.length;
        }
        at += extent.length;
    }
    parts.sort_by_key(|part| part.start);
    for pair in parts.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:?}");
    }
    let end = parts.last().map_or(0, |part| part.end);
    assert!(end <= length, "{end} {length}");
    Covered {
        metadata,
        compressed,
        data,
        rest: length - metadata - compressed - data,
        first,
    }
}
