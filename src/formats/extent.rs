//! Runs of a disk, and how each is stored.
//!
//! An extent is the answer to the only question that copying, comparing and mapping have in common: from
//! here on, for how long is the disk stored in one way, and in which?

use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// A run of the virtual disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts on the virtual disk.
    pub start: GuestOffset,
    /// Its length in bytes, above 0.
    pub length: u64,
    /// How it is stored.
    pub kind: ExtentKind,
    /// Which image of a backing chain says so: 0 for the image itself, 1 for its backing file, and so
    /// on.
    pub depth: usize,
}

/// How a run of the virtual disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes in the file, in one piece from this offset on (possibly encrypted).
    Data(HostOffset),
    /// Bytes in the file that have to be decoded, such as a compressed cluster.
    Encoded,
    /// Reads as zeroes, and nothing needs to be read to know that.
    Zero {
        /// Where the file has room for it all the same.
        kept: Option<HostOffset>,
    },
    /// Not stored in this image at all; without a backing file it reads as zeroes.
    Unallocated {
        /// Where the file has room for it all the same.
        kept: Option<HostOffset>,
    },
}

impl ExtentKind {
    /// Whether something is stored that may be anything but zeroes.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data(_) | Self::Encoded)
    }

    /// Where the file has room for it, which for encoded data is not a matter of one offset.
    pub fn host(self) -> Option<HostOffset> {
        match self {
            Self::Data(host) => Some(host),
            Self::Encoded => None,
            Self::Zero { kept } | Self::Unallocated { kept } => kept,
        }
    }

    /// The same kind, so many bytes further on.
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

/// A run of the virtual disk, and where it lies byte by byte as the guest sees it.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// Its length in bytes, above 0.
    pub length: u64,
    /// Where it lies.
    pub place: PlainPlace<'a>,
}

/// Where a run of the virtual disk lies.
#[derive(Debug, Clone, Copy)]
pub enum PlainPlace<'a> {
    /// In this storage from this offset on.
    At(&'a dyn Storage, HostOffset),
    /// Nowhere, as it is zeroes.
    Zeroes,
    /// Nowhere, as it is encoded or encrypted.
    Nowhere,
}
