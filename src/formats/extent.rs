//! Runs of a disk, with the way in which each is stored.
//!
//! Copying, comparing and mapping all need to know how the disk is stored from an offset on, and for how many bytes.
//! An extent has both.

use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// A run of the virtual disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its guest offset.
    pub start: GuestOffset,
    /// Its length in bytes, greater than 0.
    pub length: u64,
    /// The way in which it is stored.
    pub kind: ExtentKind,
    /// The image of a backing chain that stores it: 0 for the image itself, 1 for its backing file, and so on.
    pub depth: usize,
}

/// The way in which a run of the virtual disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Contiguous bytes in the file from this offset on, possibly encrypted.
    Data(HostOffset),
    /// Bytes in the file that have to be decoded, such as a compressed cluster.
    Encoded,
    /// Zeroes, without any data to read.
    Zero {
        /// The host offset of space that is allocated nevertheless.
        kept: Option<HostOffset>,
    },
    /// Not stored in this image. Reads as zeroes without a backing file.
    Unallocated {
        /// The host offset of space that is allocated nevertheless.
        kept: Option<HostOffset>,
    },
}

impl ExtentKind {
    /// Returns true if data is stored that isn't known to be zero.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data(_) | Self::Encoded)
    }

    /// Returns the host offset of the allocated space. Returns `None` for encoded data, which has more than one.
    pub fn host(self) -> Option<HostOffset> {
        match self {
            Self::Data(host) => Some(host),
            Self::Encoded => None,
            Self::Zero { kept } | Self::Unallocated { kept } => kept,
        }
    }

    /// Returns the kind of the part of the extent that starts `bytes` bytes later.
    #[must_use]
    pub fn after(self, bytes: u64) -> Self {
        let further = |host: HostOffset| HostOffset(host.0.saturating_add(bytes));
        match self {
            Self::Data(host) => Self::Data(further(host)),
            Self::Encoded => Self::Encoded,
            Self::Zero { kept } => Self::Zero {
                kept: kept.map(further),
            },
            Self::Unallocated { kept } => Self::Unallocated {
                kept: kept.map(further),
            },
        }
    }
}

/// A run of the virtual disk, and the place in a storage that holds its bytes as the guest sees them.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// Its length in bytes, greater than 0.
    pub length: u64,
    /// The place of its bytes.
    pub place: PlainPlace<'a>,
}

/// The place of the bytes of a run of the virtual disk.
#[derive(Debug, Clone, Copy)]
pub enum PlainPlace<'a> {
    /// In this storage from this offset on.
    At(&'a dyn Storage, HostOffset),
    /// In no storage, since the run is zero.
    Zeroes,
    /// In no storage, since the data is encoded or encrypted.
    Nowhere,
}
