//! The list of formats.
//!
//! It is a constant, so that tests can walk it and nothing registers formats at run time. A new format is a folder
//! beside this file and a line in [`FORMATS`].

use std::fmt;
use std::ops::Deref;

use super::driver::{FormatDriver, Load, Parts};
use super::image::Image;
use super::{bochs, cloop, dmg, luks, parallels, qcow, qcow2, qed, raw, vdi, vhdx, vmdk, vpc};
use crate::crypto::Secret;
use crate::error::Result;
use crate::storage::Storage;
use std::sync::Arc;

/// Every format, in the order of QEMU's drivers: of two formats with the same score, the first one wins.
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

/// The number of bytes at the start of a file that are used for probing.
const PROBE_LENGTH: usize = 512;

/// A format. Two formats are equal if their names are.
#[derive(Clone, Copy)]
pub struct Format(&'static dyn FormatDriver);

impl Format {
    /// The raw format, in which the file is the disk: `qemu-img`'s default for input and output.
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

/// Probes the format of a file from its first bytes. A file that no driver recognises is raw. Probing is used only
/// for images whose format isn't given. A guest can write a header to the start of a raw disk, and so choose how the
/// host reads it.
///
/// # Errors
/// Returns the system's error.
pub fn probe(storage: &dyn Storage) -> Result<Format> {
    let mut start = [0; PROBE_LENGTH];
    // A short read must not make a file look like another format.
    let length = storage.read_padded_at(0, &mut start, storage.len()?)?;
    Ok(of_start(start.get(..length).unwrap_or_default()))
}

/// Probes the format as [`probe`] does, from a file's first bytes.
pub(super) fn of_start(start: &[u8]) -> Format {
    let scored = FORMATS.iter().map(|format| (format.probe(start), *format));
    // `max_by_key` returns the last of equal elements; reversed, that is the first format.
    let surest = scored.rev().max_by_key(|(score, _)| *score);
    surest.map_or(Format::RAW, |(_, format)| format)
}

/// Returns the format that a file's name indicates, for contents that no driver recognises.
pub fn named(name: &[u8]) -> Option<Format> {
    FORMATS.iter().copied().find(|format| format.is_named(name))
}

/// Opens an image for reading, without its backing file and without other files. `secret` is the password of an
/// encrypted image.
///
/// # Errors
/// Returns an error if the image isn't of that format, is damaged, or uses a feature that isn't supported. Returns an
/// error if it is encrypted and no password is given.
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
