//! The subcommand `measure`: the size of a new image's file, before it is created.
//!
//! Of the image that would be converted only metadata is read.

use super::{Passwords, Purpose, sandbox};
use crate::error::Result;
use crate::formats::driver::{self, Measured};
use crate::formats::{Format, Image};
use crate::nodes::{Disk, Node};
use crate::options::Values;

/// The contents of the new image.
pub enum MeasuredDisk<'a> {
    /// An empty disk of this size in bytes.
    Empty(u64),
    /// The contents of this image.
    Of(Box<Node<'a>>),
}

/// An opened source, or the size of an empty disk in bytes.
pub enum OpenDisk {
    /// An empty disk of this size in bytes.
    Empty(u64),
    /// The image to be converted.
    Source(Disk),
}

impl MeasuredDisk<'_> {
    /// Opens the source, if there is one.
    ///
    /// # Errors
    /// Returns the errors of [`Node::open`].
    pub fn open(&self, passwords: &dyn Passwords) -> Result<OpenDisk> {
        match self {
            Self::Empty(size) => Ok(OpenDisk::Empty(*size)),
            Self::Of(source) => {
                let opened = source.open(Purpose::Read, passwords)?;
                sandbox::all_is_open(source);
                Ok(OpenDisk::Source(opened))
            }
        }
    }
}

/// Measures a new image of that format with these options.
///
/// # Errors
/// Returns the errors of [`FormatDriver::measure`](crate::formats::FormatDriver::measure).
pub fn run(contents: &OpenDisk, format: Format, options: &Values) -> Result<Measured> {
    let (size, source) = match contents {
        OpenDisk::Empty(size) => (*size, None),
        OpenDisk::Source(source) => (source.image.size(), Some(source)),
    };
    let top = source.and_then(|source| source.layers.first());
    let contents = driver::Contents {
        size,
        image: source.map(|source| source.image.as_ref() as &dyn Image),
        bitmaps: top.and_then(|top| top.image.bitmaps()),
    };
    format.measure(options, &contents)
}
