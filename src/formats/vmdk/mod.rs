//! VMDK: VMware's disk images.
//!
//! A descriptor, which is text, names the extents of which the disk is made. An extent is flat, or it has grains
//! which tables lead to. The descriptor stands in the file of the only extent, or is a file of its own beside
//! those of the extents. All numbers are little-endian.
//!
//! - [`descriptor`]: the text; [`sparse_header`], [`esx_headers`]: the headers of extents with grains;
//! - [`grains`]: their tables; [`flat`]: the other extents;
//! - [`mod@file`]: the image, read; [`mod@check`]: its check; [`repair`]: what that finds, repaired;
//! - [`write`](mod@write), [`grain_write`]: the image, written where it is;
//! - [`options`], [`plan`]: a new image, checked; [`text`]: its descriptor;
//! - [`new_sparse`], [`new_stream`]: its extents, [`new_extents`]: several of them.

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
mod over_stream;
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
