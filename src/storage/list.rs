//! The list of protocols.
//!
//! The list is fixed when the program is built. A new protocol is a file or folder beside this file and a line in
//! [`PROTOCOLS`].

use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::driver::{NewStorage, Opening, StorageDriver, Unfinished};
use super::{CacheMode, FileStorage, Storage, UnfinishedFile, avoids_copies, file, null};
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Values};

/// All protocols, in the order of the help text.
pub const PROTOCOLS: &[Protocol] = &[
    Protocol::FILE,
    Protocol(&file::driver::HOST_CDROM),
    Protocol(&file::driver::HOST_DEVICE),
    Protocol(&null::Null),
];

/// A protocol. Two protocols with the same name are equal.
#[derive(Clone, Copy)]
pub struct Protocol(&'static dyn StorageDriver);

impl Protocol {
    /// Regular files, which are meant by a name without a scheme, if no device has that name.
    pub const FILE: Self = Self(&file::driver::File);

    /// Returns the protocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = PROTOCOLS.iter().copied();
        all.find(|protocol| protocol.name() == name)
    }

    /// Returns the protocol of a scheme, which is given without the colon.
    pub fn of_scheme(scheme: &[u8]) -> Option<Self> {
        let mut all = PROTOCOLS.iter().copied();
        all.find(|protocol| {
            let schemes = protocol.schemes();
            schemes.iter().any(|known| known.as_bytes() == scheme)
        })
    }

    /// Returns the protocol by the scheme of a storage's name. Names of files have none.
    fn of_path(path: &Path) -> Option<Self> {
        let name = path.as_os_str().as_bytes();
        let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
        let (scheme, rest) = name.split_at_checked(end)?;
        rest.starts_with(b":").then(|| Self::of_scheme(scheme))?
    }
}

impl Deref for Protocol {
    type Target = dyn StorageDriver;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl PartialEq for Protocol {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Protocol {}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Opens the storage at `path` with the given protocol, or else with that of its scheme, or else as a file or device.
///
/// # Errors
/// Returns an error as [`StorageDriver::open`] does.
pub fn open(
    protocol: Option<Protocol>,
    path: &Path,
    options: &Values,
    opening: Opening,
) -> Result<Arc<dyn Storage>> {
    match protocol.or_else(|| Protocol::of_path(path)) {
        Some(protocol) => protocol.open(path, options, opening),
        None => open_path(path, opening),
    }
}

/// Opens the file or device at `path`, in which no scheme is looked for.
///
/// # Errors
/// Returns the system's error as `Could not open 'path': …`, or an error if it is neither a file nor a device.
pub fn open_path(path: &Path, opening: Opening) -> Result<Arc<dyn Storage>> {
    Ok(file::driver::opened(
        FileStorage::open(path, opening.access, opening.cache)?,
        opening,
    ))
}

/// Checks that a storage at `path`, or of this protocol, can be created.
///
/// # Errors
/// Returns an error if the protocol can't create storages.
pub fn check_creates(protocol: Option<Protocol>, path: &Path) -> Result<()> {
    // QEMU treats a given driver as a format in this message.
    let (role, maker) = match protocol {
        Some(given) => ("Format", Some(given)),
        None => ("Protocol", Protocol::of_path(path)),
    };
    match maker {
        Some(maker) if maker.create_options().is_empty() => Err(Error::unsupported(format!(
            "{role} driver '{}' does not support image creation",
            maker.name()
        ))),
        _ => Ok(()),
    }
}

/// Creates the storage at `path` with the given protocol, or else with that of its scheme, or else as a device or a
/// file.
///
/// # Errors
/// Returns an error as [`StorageDriver::create`] does.
pub fn create(protocol: Option<Protocol>, new: NewStorage<'_>) -> Result<Box<dyn Unfinished>> {
    check_creates(protocol, new.path)?;
    match protocol.or_else(|| Protocol::of_path(new.path)) {
        Some(protocol) => protocol.create(new),
        None => create_path(new),
    }
}

/// Creates a file at a path, in which no scheme is looked for, or opens the device there.
///
/// # Errors
/// Returns the system's error as `Could not create 'path': …`, or the error of [`NewStorage::refuse`].
pub fn create_path(new: NewStorage<'_>) -> Result<Box<dyn Unfinished>> {
    let avoids_copies = avoids_copies(new.options)?;
    let file = UnfinishedFile::create(new.path, new.cache, new.refuse)?;
    if avoids_copies {
        file.avoid_copies();
    }
    Ok(Box::new(file))
}

/// Does the checks of [`create_path`], and changes nothing. Returns true if a file or device is there, which would be
/// overwritten.
///
/// # Errors
/// Returns the errors of [`create_path`], as far as they can be foreseen.
pub fn check_path(new: &NewStorage<'_>) -> Result<bool> {
    UnfinishedFile::check(new.path, new.cache, new.refuse)
}

/// Creates a file in `folder` that has no name, so that the system removes it when it is closed.
///
/// # Errors
/// Returns the system's error, with the purpose of the file.
pub fn file_without_name(folder: &Path, cache: CacheMode) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(FileStorage::without_name(folder, cache)?))
}

/// Creates an empty file in memory; see [`FileStorage::in_memory`].
///
/// # Errors
/// Returns the system's error as `Could not create 'name': …`.
pub fn file_in_memory(name: &str) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(FileStorage::in_memory(name)?))
}

/// Returns the options for creating a storage of this protocol, or else of a file.
pub fn create_options(protocol: Option<Protocol>) -> &'static [OptionSpec] {
    protocol.unwrap_or(Protocol::FILE).create_options()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_schemes_are_of_one_protocol_each() {
        for protocol in PROTOCOLS {
            assert_eq!(Protocol::from_name(protocol.name()), Some(*protocol));
            for scheme in protocol.schemes() {
                assert_eq!(Protocol::of_scheme(scheme.as_bytes()), Some(*protocol));
            }
            for name in protocol.shown_options() {
                assert!(
                    protocol
                        .open_options()
                        .iter()
                        .any(|spec| spec.name == *name)
                );
            }
        }
        for name in ["", "x", "a:b", "./file:x", "dir/null-co:x"] {
            assert_eq!(Protocol::of_path(Path::new(name)), None, "{name}");
        }
    }
}
