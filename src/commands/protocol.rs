//! `file` and `host_device` as the format of a target: the bytes of a disk, in what holds them.
//!
//! To QEMU these are drivers below its formats, and without a format the bytes are as they are in a raw
//! image. Tools that write disks of real machines say `-O host_device`, and rely on what the name promises:
//! a device is written or nothing is, and a mistyped name never becomes a file.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::error::{Error, Result, printable};
use crate::formats::Format;
use crate::options::OptionSpec;
use crate::storage::{DEVICE_OPTIONS, FILE_OPTIONS};

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
            Self::Format(format) => [format.create_options(), FILE_OPTIONS],
            Self::Protocol(Protocol::File) => [FILE_OPTIONS, &[]],
            Self::Protocol(Protocol::HostDevice) => [DEVICE_OPTIONS, &[]],
        }
    }
}

impl From<Format> for Driver {
    fn from(format: Format) -> Self {
        Self::Format(format)
    }
}

/// A driver that holds bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A regular file.
    File,
    /// A block device that exists.
    HostDevice,
}

impl Protocol {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::HostDevice => "host_device",
        }
    }

    /// The driver of that name, if it is one of these.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::File, Self::HostDevice];
        all.into_iter().find(|protocol| protocol.name() == name)
    }

    /// Checks what is at `path` before anything is created there.
    ///
    /// # Errors
    /// Returns an error if a device is to be written and there is none, or if a file is to be made where there is a
    /// device; in QEMU's words.
    pub(super) fn check_new(self, path: &Path) -> Result<()> {
        let metadata = fs::metadata(path);
        let is_device = metadata.as_ref().is_ok_and(|metadata| {
            let kind = metadata.file_type();
            kind.is_block_device() || kind.is_char_device()
        });
        match self {
            Self::File if is_device => {
                Err(Error::invalid("Could not resize file: Invalid argument"))
            }
            Self::HostDevice if !is_device => {
                let shown = printable(&path.to_string_lossy());
                let why = match metadata {
                    Ok(_) => no_device(path),
                    Err(error) => Error::io(format!("Could not open '{shown}'"), error),
                };
                Err(why.context(
                    "Protocol driver 'host_device' does not support creating new images, so an \
                     existing image must be selected as the target; however, opening the given \
                     target as an existing image failed",
                ))
            }
            Self::File | Self::HostDevice => Ok(()),
        }
    }

    /// Checks that what exists at `path` and is written over is what the name says.
    ///
    /// # Errors
    /// Returns an error if it is the other of the two.
    pub(super) fn check_existing(self, path: &Path, is_device: bool) -> Result<()> {
        match self {
            Self::File if is_device => Err(Error::invalid(format!(
                "'file' driver requires '{}' to be a regular file",
                printable(&path.to_string_lossy())
            ))),
            Self::HostDevice if !is_device => Err(no_device(path)),
            Self::File | Self::HostDevice => Ok(()),
        }
    }
}

fn no_device(path: &Path) -> Error {
    Error::invalid(format!(
        "'host_device' driver requires '{}' to be either a character or block device",
        printable(&path.to_string_lossy())
    ))
}
