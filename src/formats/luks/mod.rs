//! LUKS: an encrypted disk after a header that has its key, in a file or on a device.
//!
//! The header is that of `formats::encryption::luks`, which other formats contain. Here it is at the start of the
//! file, and has the offset of the disk. Sectors are encrypted by their guest sector numbers. The header may also be
//! detached: it is in a file of its own then, and options name both files.

mod file;
mod image;
mod new;
mod plan;

use std::sync::Arc;

use self::file::{HEADER_ROLE, LuksFile};
use self::image::KEY_SECRET;
use self::plan::LuksPlan;
use crate::error::Result;
use crate::formats::driver::{
    Capabilities, Contents, FormatDriver, ImageFile, Load, Measured, NewDisk, Plan,
};
use crate::formats::encryption::luks::{LUKS_MARK, OPTIONS, SLOT_OPTIONS};
use crate::options::{Kind, OptionSpec, Values};
use crate::storage::Storage;

/// The options of a node.
const OPEN_OPTIONS: &[OptionSpec] = &[OptionSpec::new(
    KEY_SECRET,
    Kind::Text,
    "ID of the secret with the password",
)];

/// The options of a new image.
const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new(
        KEY_SECRET,
        Kind::Text,
        "ID of the secret that provides the keyslot passphrase",
    ),
    OPTIONS[0],
    OPTIONS[1],
    OPTIONS[2],
    OPTIONS[3],
    OPTIONS[4],
    OPTIONS[5],
    OptionSpec::new(
        "detached-header",
        Kind::Switch,
        "Create a detached LUKS header",
    ),
];

/// The format LUKS.
pub struct Luks;

impl FormatDriver for Luks {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            header_role: Some(HEADER_ROLE),
            ..Capabilities::default()
        }
    }

    fn probe(&self, start: &[u8]) -> u8 {
        if start.starts_with(LUKS_MARK) { 100 } else { 0 }
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &[KEY_SECRET, HEADER_ROLE]
    }

    fn roles(&self) -> &'static [&'static str] {
        &[HEADER_ROLE]
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn amend_options(&self) -> &'static [OptionSpec] {
        &SLOT_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(LuksPlan::new(new)?))
    }

    fn measure(&self, options: &Values, contents: &Contents<'_>) -> Result<Measured> {
        plan::measure(options, contents.size)
    }

    fn load(&self, file: Arc<dyn Storage>, how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(match how {
            Load::Use | Load::Check => LuksFile::load(file)?,
            Load::Headless => LuksFile::headless(file)?,
        }))
    }
}
