//! The subcommand `dd`: a range of blocks of an image is copied into a new image.
//!
//! Blocks are counted as in `qemu-img`: from the start of the disk, and not from the first copied block. So `count=2
//! skip=1` copies one block. Scripts depend on that.

use std::sync::Arc;

use super::{Passwords, Purpose, Target, plausible};
use crate::convert::{self, Settings};
use crate::error::{Error, Result};
use crate::formats::{DiskPart, Image};
use crate::nodes::{Disk, Node};

/// The wanted blocks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DdBlocks {
    /// The size of a block in bytes, at least 1.
    pub size: u64,
    /// The number of blocks, counted from the start of the disk, or `None` for all.
    pub count: Option<u64>,
    /// The number of blocks at the start that are skipped.
    pub skip: u64,
}

/// The range of blocks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRange {
    /// Its start, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// True if it is empty because all blocks are beyond the end of the disk or of `count`.
    pub is_beyond_end: bool,
}

impl DdBlocks {
    /// Returns the range of the blocks in a disk of `size` bytes.
    pub fn of_disk(self, size: u64) -> BlockRange {
        let bytes = |blocks: u64| blocks.saturating_mul(self.size);
        let end = self.count.map_or(size, |count| size.min(bytes(count)));
        match end.checked_sub(bytes(self.skip)) {
            Some(length) => BlockRange {
                start: bytes(self.skip),
                length,
                is_beyond_end: false,
            },
            None => BlockRange {
                start: 0,
                length: 0,
                is_beyond_end: true,
            },
        }
    }
}

/// An open image to be copied from.
pub struct BlockSource(Disk);

impl BlockSource {
    /// Opens the image.
    ///
    /// # Errors
    /// Returns the errors of [`Node::open`]. Returns an error if the image decrypts to noise, if `passwords` makes it
    /// one.
    pub fn open(source: &Node<'_>, passwords: &dyn Passwords) -> Result<Self> {
        // As in QEMU, others may write a raw file meanwhile; only its length must stay.
        let disk = source.open(Purpose::Read, passwords)?;
        plausible::look_at_start(&disk, passwords)?;
        Ok(Self(disk))
    }

    /// Returns the size of its disk in bytes.
    pub fn size(&self) -> u64 {
        self.0.image.size()
    }
}

/// Copies a part of the source's disk into a new image, whose size is rounded up to whole sectors of 512 bytes.
///
/// # Errors
/// Returns an error if the source can't be read, or if the length of its file changed meanwhile. Returns an error if
/// the target can't be created or written. No new file is left then.
pub fn run(
    source: &BlockSource,
    range: BlockRange,
    target: &Target<'_>,
    passwords: &dyn Passwords,
) -> Result<()> {
    let BlockSource(disk) = source;
    let image = Arc::clone(&disk.image) as Arc<dyn Image>;
    let part = DiskPart::new(image, range.start, range.length)?;
    let make = || {
        let plan = target.plan(part.size(), None)?;
        let plan = plan.ok_or_else(|| Error::invalid("an image that exists isn't made"))?;
        target.make(plan.as_ref(), &disk.files(), None, passwords)
    };
    let open = make().map_err(|error| cant_create(&target.name, error))?;
    convert::copy(&part, open.image.as_ref(), Settings::default(), &())?;
    disk.check_lengths()?;
    open.keep(target)
}

/// Returns the error that the target `name` can't be created.
pub fn cant_create(name: &str, error: Error) -> Error {
    error.context(format!("{name}: error while creating output image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected numbers were taken from `qemu-img dd`.
    #[test]
    fn blocks_are_counted_from_the_start_of_the_disk() {
        let range = |size, count, skip, of| {
            let range = DdBlocks { size, count, skip }.of_disk(of);
            (range.start, range.length, range.is_beyond_end)
        };
        assert_eq!(range(512, None, 0, 200_192), (0, 200_192, false));
        assert_eq!(range(65536, Some(2), 1, 200_192), (65536, 65536, false));
        assert_eq!(range(512, Some(1), 1, 200_192), (512, 0, false));
        assert_eq!(range(512, Some(1), 2, 200_192), (0, 0, true));
        assert_eq!(range(512, None, 391, 200_192), (200_192, 0, false));
        assert_eq!(range(1000, None, 201, 200_192), (0, 0, true));
        assert_eq!(range(1000, None, 200, 200_192), (200_000, 192, false));
        let most = i64::MAX.cast_unsigned();
        assert_eq!(range(2, Some(most), 0, 200_192), (0, 200_192, false));
        assert_eq!(range(1 << 31, None, most, 200_192), (0, 0, true));
    }
}
