//! QED: QEMU's enhanced disk, kept for the images that there are.
//!
//! A header leads to a table of two levels, which has an entry for each cluster: none, zero, or an offset. All
//! numbers are little-endian. There are no refcounts and no snapshots. A backing file may be named, of which only
//! one thing is stored beside its name: that it is raw.
//!
//! QEMU's writers mark an image while they write, since they store an entry before what it leads to, and repair it
//! when they find the mark. Ours store entries last and need no mark; a power cut leaves clusters that nobody uses.

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
