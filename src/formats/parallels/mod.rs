//! Parallels: the disks of Parallels Desktop and Virtuozzo that consist of one file.
//!
//! A header of 64 bytes is followed by the BAT (block allocation table). It has an entry for each cluster: 0 if the
//! cluster isn't allocated, or its offset. All numbers are little-endian. The magic number shows the variant: entries
//! are in sectors in the older one, and in clusters in the newer one. An image in use is marked as such.
//!
//! A format extension has dirty bitmaps ([`extension`]), which are updated when the disk is written to
//! ([`dirty_bits`]).

mod check;
mod dirty_bits;
mod extension;
mod file;
mod header;
mod plan;
mod table;

use std::sync::Arc;

use self::file::ParallelsFile;
use self::header::is_header;
use self::plan::ParallelsPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::{Kind, OptionSpec};
use crate::storage::Storage;

/// The options of a new image.
const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new("cluster_size", Kind::Size, "Parallels image cluster size")
        .with_default("1048576"),
];

/// The format Parallels.
pub struct Parallels;

impl FormatDriver for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if is_header(start) { 100 } else { 0 }
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(ParallelsPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(ParallelsFile::load(file, how)?))
    }
}
