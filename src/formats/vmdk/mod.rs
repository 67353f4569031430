//! VMDK: VMware's disk images.
//!
//! A text, the descriptor, lists the extents of the disk. An extent is flat, or has grains that grain tables map. The
//! descriptor is embedded in the file of the only extent, or is a separate file beside those of the extents. All
//! numbers are little-endian.
//!
//! - [`descriptor`]: the descriptor; [`sparse_header`], [`esx_headers`]: the headers of extents with grains;
//! - [`grains`]: their tables; [`flat`]: flat extents;
//! - [`mod@file`]: the image file; [`mod@check`]: its check; [`repair`]: its repair; [`parts`]: its parts for pictures;
//! - [`write`](mod@write), [`grain_write`]: writing to an image in place;
//! - [`options`], [`plan`]: the plan of a new image; [`text`]: its descriptor;
//! - [`new_sparse`], [`new_stream`]: a new extent; [`new_extents`]: a new image of several extents.

mod check;
mod descriptor;
mod esx_headers;
mod file;
mod flat;
mod grain_write;
mod grains;
mod info;
mod new_extents;
mod new_sparse;
mod new_stream;
mod options;
mod overwrite_stream;
mod parts;
mod plan;
mod repair;
mod sparse_header;
mod text;
mod write;

use std::sync::Arc;

use self::file::VmdkFile;
use self::plan::VmdkPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::OptionSpec;
use crate::storage::Storage;

/// The format VMDK.
pub struct Vmdk;

impl FormatDriver for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backing: true,
            compresses: true,
            keeps_backing_id: true,
            ..Capabilities::default()
        }
    }

    fn probe(&self, start: &[u8]) -> u8 {
        let marks: [&[u8]; 2] = [sparse_header::MARK, esx_headers::COWD_MARK];
        let is_marked = marks.iter().any(|mark| start.starts_with(mark));
        if is_marked || descriptor::is_descriptor(start) {
            100
        } else {
            0
        }
    }

    fn list_roles(&self) -> &'static [&'static str] {
        &["extents"]
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        options::CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(VmdkPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(VmdkFile::load(file)?))
    }
}
