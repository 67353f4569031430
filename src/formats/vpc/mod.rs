//! VPC or VHD: the disk images of Virtual PC and Hyper-V, dynamic and fixed ones as in `qemu-img`.
//!
//! A footer of 512 bytes describes the disk. A fixed image is the disk, followed by the footer. A dynamic one starts
//! with a copy of the footer, which points to the dynamic disk header, which points to the BAT (block allocation
//! table). A bitmap of its sectors precedes each block's data. All numbers are big-endian. The footer has the size
//! both in bytes and as a geometry, and its creator determines which one is valid.
//!
//! Sectors that a differencing image doesn't have are read from its parent, whose name is in the style of Windows.

mod differencing;
mod file;
mod fixed;
mod footer;
mod geometry;
mod header;
mod plan;
mod table;

use std::sync::Arc;

use self::file::VpcFile;
use self::footer::{MARK, SIZE_RULE, SizeRule};
use self::plan::VpcPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::{Kind, OptionSpec, Values};
use crate::storage::Storage;

/// The options of a new image.
const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new(
        "subformat",
        Kind::Text,
        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
    ),
    OptionSpec::new(
        "force_size",
        Kind::Switch,
        "Force disk size calculation to use the actual size specified, rather than using the nearest \
         CHS-based calculation",
    ),
];

/// The options of a node.
const OPEN_OPTIONS: &[OptionSpec] = &[OptionSpec::new(
    SIZE_RULE,
    Kind::Text,
    "Force disk size calculation to use either CHS geometry, or use the disk current_size specified in \
     the VHD footer. {chs, current_size}",
)];

/// The format VPC.
pub struct Vpc;

impl FormatDriver for Vpc {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(MARK) { 100 } else { 0 }
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &[SIZE_RULE]
    }

    fn check_options(&self, options: &Values) -> Result<()> {
        SizeRule::of(options).map(drop)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(VpcPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(VpcFile::load(file)?))
    }
}
