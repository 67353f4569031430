//! A protocol as the format of a target: the bytes of a disk, in what holds them.
//!
//! To QEMU protocols are drivers below its formats, and without a format the bytes are as they are in a raw image.

use crate::formats::Format;
use crate::options::OptionSpec;
use crate::storage::{Protocol, list};

/// Names the kind of a new image: a format, or the driver of what holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// An image of this format, in a file or device.
    Format(Format),
    /// A raw image, in what this driver holds.
    Protocol(Protocol),
}

impl Driver {
    /// The driver of that name, if this version has it for new images.
    pub fn from_name(name: &str) -> Option<Self> {
        let protocol = || Protocol::from_name(name).map(Self::Protocol);
        Format::from_name(name).map(Self::Format).or_else(protocol)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format(format) => format.name(),
            Self::Protocol(protocol) => protocol.name(),
        }
    }

    /// The format of the image: what is named by what holds it is raw.
    pub fn format(self) -> Format {
        match self {
            Self::Format(format) => format,
            Self::Protocol(_) => Format::RAW,
        }
    }

    /// The driver of what holds the image, where that was named.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Format(_) => None,
            Self::Protocol(protocol) => Some(protocol),
        }
    }

    /// The options of a new image: the format's, then those of its file.
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
