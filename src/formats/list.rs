//! The formats that there are.
//!
//! The list is fixed when the program is built: nothing fills it at run time, and tests walk it. A new format
//! is a folder beside this file and a line in [`FORMATS`].

use std::fmt;
use std::ops::Deref;

use super::driver::{FormatDriver, Load, Parts};
use super::image::Image;
use super::{bochs, cloop, dmg, luks, parallels, qcow, qcow2, qed, raw, vdi, vhdx, vmdk, vpc};
use crate::crypto::Secret;
use crate::error::Result;
use crate::storage::Storage;
use std::sync::Arc;

/// Every format, in the order in which QEMU asks the drivers: of two that are as sure, the first one is
/// believed.
pub const FORMATS: &[Format] = &[
    Format(&parallels::Parallels),
    Format(&qed::Qed),
    Format(&dmg::Dmg),
    Format(&bochs::Bochs),
    Format(&cloop::Cloop),
    Format(&vpc::Vpc),
    Format(&vmdk::Vmdk),
    Format(&vhdx::Vhdx),
    Format(&vdi::Vdi),
    Format(&qcow::Qcow),
    Format(&qcow2::Qcow2),
    Format(&luks::Luks),
    Format::RAW,
];

/// The length of the start of a file that tells its format, in bytes.
const PROBE_LENGTH: usize = 512;

/// A format. Two are the same if their names are.
#[derive(Clone, Copy)]
pub struct Format(&'static dyn FormatDriver);

impl Format {
    /// The bytes of the disk one after the other: the format that `qemu-img` takes and makes where nothing
    /// says otherwise.
    pub const RAW: Self = Self(&raw::Raw);

    /// Returns the format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        FORMATS.iter().copied().find(|format| format.name() == name)
    }
}

impl Deref for Format {
    type Target = dyn FormatDriver;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Format {}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells a file's format from its first bytes; a file without a mark is raw. Probing decides only for images
/// whose format nobody stated. A guest that writes at the start of a raw disk could otherwise choose how the
/// host reads it.
///
/// # Errors
/// Returns the system's error.
pub fn probe(storage: &dyn Storage) -> Result<Format> {
    let mut start = [0; PROBE_LENGTH];
    // A file that has more bytes than it gives must not be taken for another format's.
    let length = storage.read_padded_at(0, &mut start, storage.len()?)?;
    Ok(of_start(start.get(..length).unwrap_or_default()))
}

/// Tells the format as [`probe`] does, from a file's first bytes.
pub(super) fn of_start(start: &[u8]) -> Format {
    let scored = FORMATS.iter().map(|format| (format.probe(start), *format));
    // Of equals the first one counts.
    let surest = scored.rev().max_by_key(|(score, _)| *score);
    surest.map_or(Format::RAW, |(_, format)| format)
}

/// Returns the format that a file's name stands for, where its contents tell none.
pub fn named(name: &[u8]) -> Option<Format> {
    FORMATS.iter().copied().find(|format| format.is_named(name))
}

/// Opens an image for reading, without its backing file and without other files. `secret` is the password, for
/// images that are encrypted.
///
/// # Errors
/// Returns an error if the image isn't of that format, is damaged, or uses something that this version
/// doesn't have. Returns an error if it is encrypted and no password is given.
pub fn open(
    storage: Arc<dyn Storage>,
    format: Format,
    secret: Option<&Secret>,
) -> Result<Arc<dyn Image>> {
    let file = format.load(storage, Load::Use)?;
    file.open(Parts {
        secret,
        ..Parts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn probe_bytes(bytes: &[u8]) -> Result<Format> {
        probe(&MemoryStorage::new(bytes.to_vec()))
    }

    #[test]
    fn a_mark_tells_the_format() {
        let found = probe_bytes(b"QFI\xfb\0\0\0\x03").unwrap();
        assert_eq!(found.name(), "qcow2");
        assert_eq!(probe_bytes(b"QFI\xfb\0\0\0").unwrap(), Format::RAW);
    }

    #[test]
    fn anything_else_is_raw() {
        for bytes in [&b""[..], &[0; 600], b"# a text file\nversion=9\n"] {
            assert_eq!(probe_bytes(bytes).unwrap(), Format::RAW);
        }
    }

    #[test]
    fn names_are_unique_and_lead_back() {
        for format in FORMATS {
            assert_eq!(Format::from_name(format.name()), Some(*format));
            let same = FORMATS.iter().filter(|other| *other == format);
            assert_eq!(same.count(), 1, "{format}");
        }
    }
}
