//! Formats that cut a disk into blocks of one size and have one table of their places.
//!
//! VDI is such a format, and so are VHD, VHDX, Parallels, QED and the first qcow. They differ in the header,
//! in the bits of a table entry, and in the place of the table. The parts that follow from the table alone
//! are here. They are the disk as an image ([`BlockImage`]), written anywhere ([`WritableBlocks`]), and
//! written for the first time ([`NewBlocks`]).

mod entries;
mod image;
mod new;
mod write;

pub use entries::{EntryTable, Fresh};
pub use image::BlockImage;
pub use new::{NewBlockTable, NewBlocks};
pub use write::{BlockAllocator, WritableBlocks, make_zero};

use crate::error::Result;
use crate::units::HostOffset;

/// The place of a block of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Nowhere: it reads as zeroes.
    Zero,
    /// In the file from this offset on.
    At(HostOffset),
}

/// The table of a disk's blocks.
pub trait BlockTable: Send + Sync {
    /// The size of the disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// The size of a block in bytes, a power of two of at least 512.
    fn block_size(&self) -> u64;

    /// Returns the place of a block.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the entry makes no sense.
    fn lookup(&self, block: u64) -> Result<Block>;
}
