//! VDI: VirtualBox's disk images, dynamic and static ones as in `qemu-img`.
//!
//! A header of 512 bytes has the places of a block map, with an index for each block of 1 MiB, and of the blocks. All
//! numbers are little-endian. Images with a parent are refused, as are images with extra data before each block's.
//! Both would be read incorrectly.

mod check;
mod file;
mod header;
mod map;
mod plan;
mod repair;

use std::sync::Arc;

use self::file::VdiFile;
use self::header::{SIGNATURE, SIGNATURE_AT};
use self::plan::VdiPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::{Kind, OptionSpec};
use crate::storage::Storage;

/// The options of a new image.
const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new("static", Kind::Switch, "VDI static (pre-allocated) image").with_default("off"),
];

/// The format VDI.
pub struct Vdi;

impl FormatDriver for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, start: &[u8]) -> u8 {
        let mark = start.get(SIGNATURE_AT..SIGNATURE_AT + 4);
        if mark == Some(&SIGNATURE.to_le_bytes()[..]) {
            100
        } else {
            0
        }
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(VdiPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(VdiFile::load(file)?))
    }
}
