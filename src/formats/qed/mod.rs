//! QED: QEMU's enhanced disk format, supported for existing images.
//!
//! The header points to a two-level table, which has an entry for each cluster: unallocated, zero, or an offset. All
//! numbers are little-endian. There are no refcounts and no snapshots. For a backing file the header has its name,
//! and a flag if its format is raw.
//!
//! QEMU stores an entry before the cluster that it refers to. So it marks an image while it writes, and repairs a
//! marked image. This program stores entries last and needs no mark: a power cut leaves at most leaked clusters.

mod change;
mod check;
mod file;
mod header;
mod plan;
mod table;

use std::sync::Arc;

use self::file::QedFile;
use self::header::MAGIC;
use self::plan::QedPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::{Kind, OptionSpec};
use crate::storage::Storage;

/// The options of a new image.
const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new("backing_file", Kind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", Kind::Text, "Image format of the base image"),
    OptionSpec::new("cluster_size", Kind::Size, "Cluster size (in bytes)").with_default("65536"),
    OptionSpec::new("table_size", Kind::Size, "L1/L2 table size (in clusters)"),
];

/// The format QED.
pub struct Qed;

impl FormatDriver for Qed {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backing: true,
            ..Capabilities::default()
        }
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(MAGIC) { 100 } else { 0 }
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(QedPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(QedFile::load(file)?))
    }
}
