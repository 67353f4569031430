//! The plan of a new qcow2 image, whose options have been checked.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use super::create_options::NewQcow2Options;
use super::header::Version;
use super::options;
use super::{NewFiles, NewQcow2, missing_secret};
use crate::error::{Error, Result};
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::{NewImage, Preallocation};
use crate::units::SECTOR_SIZE;

/// The largest disk size that QEMU allows, in bytes: 2^63 − 1, less 1 GiB for rounding up.
const LONGEST: u64 = i64::MAX.cast_unsigned() - ((1 << 30) - 1);

/// The plan of a new image.
pub(super) struct Qcow2Plan {
    options: NewQcow2Options,
    preallocation: Preallocation,
    compressed: bool,
}

impl Qcow2Plan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, or if options exclude each other.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let mut options = NewQcow2Options::of(new.options)?;
        let preallocation = options::preallocation(new.options)?;
        options.size = whole_sectors(new.size)?;
        if let Some(name) = &options.data_file {
            // The header stores the name without a protocol prefix, which readers wouldn't understand.
            let path = (new.path_of)(OsStr::from_bytes(name))?;
            options.data_file = Some(path.into_os_string().into_vec());
        }
        if let (Some(backing), Some(size)) = (&mut options.backing, new.backing_size) {
            backing.size = size;
        }
        options.check()?;
        options.check_preallocation(preallocation)?;
        if new.compressed {
            NewQcow2::check_compression(&options)?;
        }
        let preallocation = match preallocation {
            // Every byte of a raw image has a fixed place.
            Preallocation::Off if options.data_file_raw => Preallocation::Metadata,
            other => other,
        };
        Ok(Self {
            options,
            preallocation,
            compressed: new.compressed,
        })
    }
}

/// Rounds the size of a disk in bytes up to whole sectors.
fn whole_sectors(size: u64) -> Result<u64> {
    let rounded = size.checked_next_multiple_of(SECTOR_SIZE);
    match rounded.filter(|size| i64::try_from(*size).is_ok()) {
        None => Err(Error::invalid(
            "Could not resize image: Image size cannot be negative",
        )),
        Some(size) if size > LONGEST => Err(Error::invalid(format!(
            "Could not resize image: offset({size}) exceeds maximum({LONGEST})"
        ))),
        Some(size) => Ok(size),
    }
}

impl Plan for Qcow2Plan {
    fn other_files(&self) -> Vec<&[u8]> {
        self.options.data_file.as_deref().into_iter().collect()
    }

    fn encryption(&self) -> Option<EncryptionFormat> {
        self.options.encryption
    }

    fn has_bitmaps(&self) -> bool {
        self.options.version == Version::V3
    }

    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let NewParts {
            file,
            files,
            secret,
            flush,
        } = parts;
        let options = self.options.clone();
        let (encryption_header, cipher) = match options.encryption() {
            None => (Vec::new(), None),
            Some(encryption) => {
                let (header, cipher) = encryption.create(secret.ok_or_else(missing_secret)?)?;
                (header, Some(cipher))
            }
        };
        let files = NewFiles {
            image: file,
            data: files.into_iter().next(),
            encryption_header,
        };
        let new = match self.preallocation {
            _ if self.compressed => NewQcow2::create_compressed(files, options, flush),
            Preallocation::Off => NewQcow2::create(files, options, cipher, flush),
            mode => NewQcow2::create_preallocated(files, options, cipher, mode, flush),
        };
        Ok(Box::new(new?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_sectors_or_refused() {
        for (size, rounded) in [(0, 0), (1, 512), (512, 512), (LONGEST, LONGEST)] {
            assert_eq!(whole_sectors(size).unwrap(), rounded);
        }
        let most = i64::MAX.cast_unsigned();
        for size in [most, most + 1, u64::MAX - 511, u64::MAX - 510, u64::MAX] {
            assert!(whole_sectors(size).is_err(), "{size}");
        }
    }
}
