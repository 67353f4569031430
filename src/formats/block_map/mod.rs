//! Formats that cut a disk into blocks of one size and have tables of their places.
//!
//! VDI is such a format, and so are VHD, VHDX, Parallels, QED and the first qcow. They differ in the header,
//! in the bits of a table entry, and in the place of the table. The parts that follow from the table alone
//! are here. They are the disk as an image ([`BlockImage`]), written anywhere ([`WritableBlocks`]), and
//! written for the first time ([`NewBlocks`]).
//!
//! A table may leave a block to the backing file, and it may have compressed blocks. What a block reads as that
//! isn't stored in one piece is found out in one place, [`BlockImage`].

mod entries;
mod image;
mod new;
mod pages;
mod room;
#[cfg(test)]
mod tests;
mod two_level;
mod used;
mod write;

pub use entries::{EntryForm, EntryTable, Fresh};
pub use image::BlockImage;
pub use new::{NewBlockTable, NewBlocks};
pub use room::{RoomAtEnd, copy_block};
pub use two_level::{TableShape, TwoLevelTable};
pub use used::ClusterSet;
pub use write::{BlockAllocator, WritableBlocks, make_zero};

use crate::error::{Error, Result};
use crate::units::HostOffset;

/// The place of a block of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Nowhere: it reads as zeroes.
    Zero,
    /// Nowhere: it reads as in the backing file, and as zeroes where there is none.
    Absent,
    /// In the file from this offset on.
    At(HostOffset),
    /// In the file, compressed.
    Packed {
        /// The offset at which the compressed bytes start.
        host: HostOffset,
        /// The number of compressed bytes, or more than that.
        length: u64,
    },
}

impl Block {
    /// Returns the place of what follows so many bytes further on, if it is stored in one piece with this.
    fn after(self, bytes: u64) -> Option<Self> {
        match self {
            Self::Zero | Self::Absent => Some(self),
            Self::At(host) => Some(Self::At(HostOffset(host.0.saturating_add(bytes)))),
            Self::Packed { .. } => None,
        }
    }
}

/// The table of a disk's blocks.
pub trait BlockTable: Send + Sync {
    /// The size of the disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// The size of a block in bytes, a multiple of 512.
    fn block_size(&self) -> u64;

    /// Returns the size in bytes of the pieces in which blocks are written: the largest power of two that is a
    /// part of them.
    fn unit(&self) -> u64 {
        1 << self.block_size().trailing_zeros().min(62)
    }

    /// Returns the place of a block.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the entry makes no sense.
    fn lookup(&self, block: u64) -> Result<Block>;

    /// Returns true if entries can say that a block is zero whatever the backing file holds.
    fn stores_zeroes(&self) -> bool {
        false
    }

    /// Makes an entry say, in memory, that a block which isn't stored is zero.
    ///
    /// # Errors
    /// Returns the system's error, or an error if entries can't say that.
    fn set_zero(&self, block: u64) -> Result<()> {
        let _ = block;
        Err(Error::invalid("the format has no zero blocks"))
    }

    /// Returns the length in bytes of the pieces in which `qemu-img` asks where blocks are.
    fn status_step(&self) -> u64 {
        self.block_size()
    }

    /// Decompresses the bytes of a [`Block::Packed`] to the whole block.
    ///
    /// # Errors
    /// Returns an error if they don't yield exactly that.
    fn unpack(&self, packed: &[u8], block: &mut [u8]) -> Result<()> {
        let _ = (packed, block);
        Err(Error::invalid("the format has no compressed blocks"))
    }
}
