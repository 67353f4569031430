//! VHDX: the disk images of Hyper-V, dynamic and fixed ones as in `qemu-img`.
//!
//! The first MiB of a file has the file type identifier, two headers and two copies of the region table. That has the
//! places of the metadata and of the BAT (block allocation table). All numbers are little-endian. The headers, the
//! region tables and the log entries have checksums. Changes of metadata are logged. A log that a writer left is
//! replayed: in memory if the image is only read, or in the file. Sectors that a differencing image doesn't have are
//! read from its parent, whose name is in the style of Windows. Such an image can't be written to.
//!
//! This program never writes a log. A BAT entry is changed as a whole, within a sector, after its block is on stable
//! storage. So a power cut leaves the old or the new entry.

mod check;
mod checksum;
mod differencing;
mod file;
mod header;
mod layout;
mod log;
mod metadata;
mod plan;
mod regions;
mod replayed;
mod table;

use std::sync::Arc;

use self::file::VhdxFile;
use self::header::IDENTIFIER;
use self::plan::VhdxPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::{Kind, OptionSpec};
use crate::storage::Storage;

/// The options of a new image.
const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size; max of 64TB."),
    OptionSpec::new("log_size", Kind::Size, "Log size; min 1MB.").with_default("1048576"),
    OptionSpec::new(
        "block_size",
        Kind::Size,
        "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
    )
    .with_default("0"),
    OptionSpec::new(
        "subformat",
        Kind::Text,
        "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
    ),
    OptionSpec::new(
        "block_state_zero",
        Kind::Switch,
        "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' \
         when using 'qemu-img convert' with subformat=dynamic.",
    ),
];

/// The format VHDX.
pub struct Vhdx;

impl FormatDriver for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(IDENTIFIER) {
            100
        } else {
            0
        }
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(VhdxPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(VhdxFile::load(file)?))
    }
}
