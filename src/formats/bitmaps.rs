//! Persistent bitmaps, whatever the format: which parts of a disk changed since somebody last looked.

use serde::Serialize;

use crate::error::Result;

/// The persistent bitmaps of an image.
pub trait Bitmaps {
    /// Reads the list.
    ///
    /// # Errors
    /// Returns an error if the list can't be read or makes no sense.
    fn list(&self) -> Result<Vec<BitmapInfo>>;
}

/// A persistent bitmap in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BitmapInfo {
    /// What is special about it: `in-use`, `auto`.
    pub flags: Vec<&'static str>,
    /// Its name.
    pub name: String,
    /// How many bytes of the disk one bit stands for.
    pub granularity: u64,
}
