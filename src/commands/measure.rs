//! `measure`: how big the file of a new image will be, before there is one.
//!
//! Of the image that would be converted only the metadata is read.

use super::opened::OpenSource;
use super::{Passwords, Purpose, Source};
use crate::error::Result;
use crate::formats::Image;
use crate::formats::qcow2::{self, Geometry, Version};
use crate::units::{GuestOffset, SECTOR_SIZE};

/// What a new image is to hold.
pub enum Contents<'a> {
    /// Nothing, on a disk of so many bytes.
    Empty(u64),
    /// What this image holds.
    Of(Box<Source<'a>>),
}

/// What a new image is to be like, as far as it matters to the size of its file.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// A raw image.
    Raw,
    /// A qcow2 image.
    Qcow2 {
        /// Its version; older ones hold no bitmaps.
        version: Version,
        /// Its geometry.
        geometry: Geometry,
        /// Whether all of its space is taken beforehand.
        allocated: bool,
        /// Whether it has a backing file, of which isn't known what it has in common with the source.
        backed: bool,
    },
}

/// How big the file will be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// With the data that there is.
    pub required: u64,
    /// With data everywhere.
    pub fully_allocated: u64,
    /// How much more the source's bitmaps take, where they can be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
}

/// An opened source, or the size of a disk that is empty.
pub enum Opened {
    /// An empty disk.
    Empty(u64),
    /// What is to be converted.
    Source(OpenSource),
}

impl Contents<'_> {
    /// Opens the source, where there is one.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open(&self, passwords: &dyn Passwords) -> Result<Opened> {
        match self {
            Self::Empty(size) => Ok(Opened::Empty(*size)),
            Self::Of(source) => {
                let opened = source.open(Purpose::Read, passwords)?;
                source.all_is_open();
                Ok(Opened::Source(opened))
            }
        }
    }
}

/// Measures.
///
/// # Errors
/// Metadata of the source that makes no sense; a disk that the format can't have.
pub fn run(contents: &Opened, target: Target) -> Result<Report> {
    let (size, source) = match contents {
        Opened::Empty(size) => (size.next_multiple_of(SECTOR_SIZE), None),
        Opened::Source(source) => (source.image.size(), Some(source)),
    };
    let Target::Qcow2 {
        version,
        geometry,
        allocated,
        backed,
    } = target
    else {
        return Ok(Report {
            required: size,
            fully_allocated: size,
            bitmaps: None,
        });
    };
    let data = match source {
        _ if allocated => all(geometry, size),
        None => 0,
        Some(_) if backed => all(geometry, size),
        Some(source) => stored(source.image.as_ref(), geometry)?,
    };
    let measured = qcow2::measure(geometry, size, data)?;
    let bitmaps = match source {
        Some(source) if version == Version::V3 => bitmaps(source, geometry)?,
        _ => None,
    };
    Ok(Report {
        required: measured.required,
        fully_allocated: measured.fully_allocated,
        bitmaps,
    })
}

/// All of a disk, in whole clusters.
fn all(geometry: Geometry, size: u64) -> u64 {
    geometry
        .clusters(size)
        .saturating_mul(geometry.cluster_size())
}

/// How many bytes the clusters have in which anything is stored that isn't known to be zero.
fn stored(image: &dyn Image, geometry: Geometry) -> Result<u64> {
    let cluster = geometry.cluster_size();
    let size = image.size();
    let mut clusters = 0;
    let mut position = 0;
    while position < size {
        let status = image.status_at(GuestOffset(position), size - position)?;
        let end = position + status.length;
        if status.zero {
            position = end;
            continue;
        }
        // What else is in the last cluster doesn't matter any more.
        clusters += end.div_ceil(cluster) - position / cluster;
        position = end.next_multiple_of(cluster);
    }
    Ok(clusters * cluster)
}

/// What the source's bitmaps take in a new image; `None` where its format has none.
fn bitmaps(source: &OpenSource, geometry: Geometry) -> Result<Option<u64>> {
    let top = source.layers.first();
    let Some(bitmaps) = top.and_then(|top| top.image.bitmaps()) else {
        return Ok(None);
    };
    let bitmaps = bitmaps.list()?;
    let size = source.image.size();
    Ok(Some(qcow2::measure_bitmaps(geometry, size, &bitmaps)))
}
