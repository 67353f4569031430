//! Runs of a disk, and how each is stored.
//!
//! Copying, comparing and mapping have one question in common: from here on, for how long is the disk stored
//! in one way, and in which? An extent is the answer.

use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// A run of the virtual disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The offset on the virtual disk at which it starts.
    pub start: GuestOffset,
    /// Its length in bytes, above 0.
    pub length: u64,
    /// The way in which it is stored.
    pub kind: ExtentKind,
    /// The image of a backing chain that says so: 0 for the image itself, 1 for its backing file, and so on.
    pub depth: usize,
}

/// The way in which a run of the virtual disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes in the file, in one piece from this offset on (possibly encrypted).
    Data(HostOffset),
    /// Bytes in the file that have to be decoded, such as a compressed cluster.
    Encoded,
    /// Reads as zeroes, and nothing needs to be read to know that.
    Zero {
        /// The offset at which the file has room for it all the same.
        kept: Option<HostOffset>,
    },
    /// Not stored in this image at all; without a backing file it reads as zeroes.
    Unallocated {
        /// The offset at which the file has room for it all the same.
        kept: Option<HostOffset>,
    },
}

impl ExtentKind {
    /// Returns true if something is stored that may be anything but zeroes.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data(_) | Self::Encoded)
    }

    /// Returns the offset at which the file has room for it. Encoded data has more than one offset and gives
    /// `None`.
    pub fn host(self) -> Option<HostOffset> {
        match self {
            Self::Data(host) => Some(host),
            Self::Encoded => None,
            Self::Zero { kept } | Self::Unallocated { kept } => kept,
        }
    }

    /// Returns the same kind, so many bytes further on.
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

/// A run of the virtual disk, and the place where it lies byte by byte as the guest sees it.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// Its length in bytes, above 0.
    pub length: u64,
    /// The place where it lies.
    pub place: PlainPlace<'a>,
}

/// The place where a run of the virtual disk lies.
#[derive(Debug, Clone, Copy)]
pub enum PlainPlace<'a> {
    /// In this storage from this offset on.
    At(&'a dyn Storage, HostOffset),
    /// Nowhere, as it is zeroes.
    Zeroes,
    /// Nowhere, as it is encoded or encrypted.
    Nowhere,
}
