//! The driver of a target: a format, or a protocol.
//!
//! In QEMU protocols are drivers too, below those of formats. A protocol without a format means a raw image.

use crate::error::Result;
use crate::formats::no_creation;
use crate::formats::{FORMATS, Format};
use crate::options::OptionSpec;
use crate::storage::{PROTOCOLS, Protocol, list};

/// The driver of a new image: a format, or a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// An image of this format in a file or device.
    Format(Format),
    /// A raw image in a storage of this protocol.
    Protocol(Protocol),
}

impl Driver {
    /// Refuses a format that can't be created: it has no options for that, not even a size.
    ///
    /// # Errors
    /// Returns an error that names the format.
    pub fn check_creates(self) -> Result<()> {
        match self {
            Self::Format(format) if format.create_options().is_empty() => {
                Err(no_creation(format.name()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the driver of that name, if this version has it.
    pub fn from_name(name: &str) -> Option<Self> {
        let protocol = || Protocol::from_name(name).map(Self::Protocol);
        Format::from_name(name).map(Self::Format).or_else(protocol)
    }

    /// Returns the names of all drivers: the formats, and the protocols that can create storages.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let protocols = PROTOCOLS.iter().filter(|protocol| protocol.creates());
        let formats = FORMATS.iter().map(|format| format.name());
        formats.chain(protocols.map(|protocol| protocol.name()))
    }

    /// Returns the driver's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format(format) => format.name(),
            Self::Protocol(protocol) => protocol.name(),
        }
    }

    /// Returns the format of the image, which is raw for a protocol.
    pub fn format(self) -> Format {
        match self {
            Self::Format(format) => format,
            Self::Protocol(_) => Format::RAW,
        }
    }

    /// Returns the protocol, if one was named.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Format(_) => None,
            Self::Protocol(protocol) => Some(protocol),
        }
    }

    /// Returns the options of a new image: the format's, then those of its file.
    pub fn create_options(self) -> [&'static [OptionSpec]; 2] {
        match self {
            Self::Format(format) => [format.create_options(), list::create_options(None)],
            Self::Protocol(protocol) => [protocol.create_options(), &[]],
        }
    }
}

impl From<Format> for Driver {
    fn from(format: Format) -> Self {
        Self::Format(format)
    }
}
