//! The driver of qcow2: its name, its options and its capabilities.

use std::sync::Arc;

use super::amend::AMEND_OPTIONS;
use super::file::{DATA_FILE_ROLE, Qcow2File};
use super::measure::measure_contents;
use super::options::{CREATE_OPTIONS, OPEN_OPTIONS, check_open_options};
use super::plan::Qcow2Plan;
use crate::error::Result;
use crate::formats::driver::{
    Capabilities, Contents, FormatDriver, ImageFile, Load, Measured, NewDisk, Plan,
};
use crate::options::{OptionSpec, Values};
use crate::storage::Storage;

/// The format qcow2.
pub struct Qcow2;

impl FormatDriver for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            compresses: true,
            backing: true,
            ..Capabilities::default()
        }
    }

    /// Scores the magic number with a version of at least 2. Version 1 is the format `qcow`.
    fn probe(&self, start: &[u8]) -> u8 {
        let version = start.get(4..8).and_then(|bytes| bytes.try_into().ok());
        let is_new = version.is_some_and(|bytes| u32::from_be_bytes(bytes) >= 2);
        if is_new && start.starts_with(b"QFI\xfb") {
            100
        } else {
            0
        }
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &["encrypt.key-secret"]
    }

    fn check_options(&self, options: &Values) -> Result<()> {
        check_open_options(options)
    }

    fn roles(&self) -> &'static [&'static str] {
        &[DATA_FILE_ROLE]
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn amend_options(&self) -> &'static [OptionSpec] {
        AMEND_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(Qcow2Plan::new(new)?))
    }

    fn measure(&self, options: &Values, contents: &Contents<'_>) -> Result<Measured> {
        measure_contents(options, contents)
    }

    fn load(&self, file: Arc<dyn Storage>, how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(Qcow2File::load(file, how)?))
    }
}
