//! qcow: version 1 of QEMU's copy-on-write format, supported for existing images.
//!
//! The header points to a two-level table, which has an entry for each cluster: unallocated, an offset, or the place
//! of a compressed cluster. All numbers are big-endian. There are no refcounts, no snapshots and no zero clusters.
//! The header may have the name of a backing file, without its format. The data may be encrypted with legacy AES.

mod entry_check;
mod file;
mod header;
mod options;
mod plan;
mod table;

use std::sync::Arc;

use self::file::QcowFile;
use self::header::{MAGIC, VERSION};
use self::options::CREATE_OPTIONS;
use self::plan::QcowPlan;
use crate::error::Result;
use crate::formats::driver::{Capabilities, FormatDriver, ImageFile, Load, NewDisk, Plan};
use crate::options::{Kind, OptionSpec};
use crate::storage::Storage;

/// The options of a node.
const OPEN_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("encrypt.format", Kind::Text, "The encryption, 'aes'"),
    OptionSpec::new("encrypt.key-secret", Kind::Text, "ID of the secret"),
];

/// The format qcow.
pub struct Qcow;

impl FormatDriver for Qcow {
    fn name(&self) -> &'static str {
        "qcow"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            compresses: true,
            backing: true,
            ..Capabilities::default()
        }
    }

    fn probe(&self, start: &[u8]) -> u8 {
        let version = start.get(4..8).and_then(|bytes| bytes.try_into().ok());
        let is_first = version.is_some_and(|bytes| u32::from_be_bytes(bytes) == VERSION);
        if is_first && start.starts_with(MAGIC) {
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

    fn create_options(&self) -> &'static [OptionSpec] {
        CREATE_OPTIONS
    }

    fn plan(&self, new: &NewDisk<'_>) -> Result<Box<dyn Plan>> {
        Ok(Box::new(QcowPlan::new(new)?))
    }

    fn load(&self, file: Arc<dyn Storage>, _how: Load) -> Result<Box<dyn ImageFile>> {
        Ok(Box::new(QcowFile::load(file)?))
    }
}
