//! The drivers of files and devices: `file`, `host_device` and `host_cdrom`.
//!
//! Tools that write physical disks use `host_device`, and rely on it that a mistyped name never becomes a file. So
//! that driver opens devices only. The driver `file` never writes to a device.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DEVICE_OPTIONS, FILE_OPTIONS, FileStorage, check_name};
use crate::error::{Error, Result, printable};
use crate::options::values::one_of;
use crate::options::{Kind, OptionSpec, Values};
use crate::storage::driver::{NewStorage, Opening, Stipulations, StorageDriver, Unfinished};
use crate::storage::{Storage, list};

/// The options of a file or device that exists. Those that only affect speed have no effect.
const OPEN_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("filename", Kind::Text, "File name of the image"),
    OptionSpec::new("locking", Kind::Text, "file locking mode (on/off/auto)"),
    OptionSpec::new("aio", Kind::Text, "host AIO implementation"),
    OptionSpec::new("drop-cache", Kind::Switch, "Drop the page cache"),
    OptionSpec::new("x-check-cache-dropped", Kind::Switch, "Check that it is"),
    OptionSpec::new("aio-max-batch", Kind::Number, "AIO max batch size"),
];

/// Regular files.
#[derive(Debug)]
pub(in crate::storage) struct File;

/// Devices, by one of the two names of drivers.
#[derive(Debug)]
pub(in crate::storage) struct Device(&'static str);

/// Block devices.
pub(in crate::storage) const HOST_DEVICE: Device = Device("host_device");

/// Drives of optical discs, which are block devices to the system.
pub(in crate::storage) const HOST_CDROM: Device = Device("host_cdrom");

impl StorageDriver for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &["filename"]
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        FILE_OPTIONS
    }

    fn creates(&self) -> bool {
        true
    }

    fn specific(&self) -> Option<&'static str> {
        Some("file")
    }

    fn check(&self, options: &Values) -> Result<Stipulations> {
        check(self.name(), options)
    }

    fn open(&self, path: &Path, _: &Values, opening: Opening) -> Result<Arc<dyn Storage>> {
        let file = FileStorage::open(path, opening.access, opening.cache)?;
        if file.has_fixed_length() {
            return Err(Error::invalid(format!(
                "'file' driver requires '{}' to be a regular file",
                printable(&path.to_string_lossy())
            )));
        }
        Ok(opened(file, opening))
    }

    fn create(&self, new: NewStorage<'_>) -> Result<Box<dyn Unfinished>> {
        if is_device(new.path).unwrap_or(false) {
            return Err(Error::invalid("Could not resize file: Invalid argument"));
        }
        list::create_path(new)
    }
}

impl StorageDriver for Device {
    fn name(&self) -> &'static str {
        self.0
    }

    fn open_options(&self) -> &'static [OptionSpec] {
        OPEN_OPTIONS
    }

    fn shown_options(&self) -> &'static [&'static str] {
        &["filename"]
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        DEVICE_OPTIONS
    }

    fn creates(&self) -> bool {
        self.0 == HOST_DEVICE.0
    }

    fn specific(&self) -> Option<&'static str> {
        Some("file")
    }

    fn check(&self, options: &Values) -> Result<Stipulations> {
        check(self.name(), options)
    }

    fn open(&self, path: &Path, _: &Values, opening: Opening) -> Result<Arc<dyn Storage>> {
        let device = FileStorage::open(path, opening.access, opening.cache)?;
        match device.has_fixed_length() {
            true => Ok(opened(device, opening)),
            false => Err(self.no_device(path)),
        }
    }

    fn create(&self, new: NewStorage<'_>) -> Result<Box<dyn Unfinished>> {
        let why = match is_device(new.path) {
            Ok(true) => return list::create_path(new),
            Ok(false) => self.no_device(new.path),
            Err(error) => {
                let shown = printable(&new.path.to_string_lossy());
                Error::io(format!("Could not open '{shown}'"), error)
            }
        };
        Err(why.context(format!(
            "Protocol driver '{}' does not support creating new images, so an existing image must be \
             selected as the target; however, opening the given target as an existing image failed",
            self.0
        )))
    }
}

impl Device {
    fn no_device(&self, path: &Path) -> Error {
        Error::invalid(format!(
            "'{}' driver requires '{}' to be either a character or block device",
            self.0,
            printable(&path.to_string_lossy())
        ))
    }
}

/// Returns true if `path` is that of a device.
fn is_device(path: &Path) -> std::io::Result<bool> {
    let kind = fs::metadata(path)?.file_type();
    Ok(kind.is_block_device() || kind.is_char_device())
}

/// Returns an opened file as a storage with the parameters of `opening`.
pub(in crate::storage) fn opened(file: FileStorage, opening: Opening) -> Arc<dyn Storage> {
    if opening.ignores_holes {
        file.ignore_holes();
    }
    Arc::new(file)
}

fn check(driver: &str, options: &Values) -> Result<Stipulations> {
    let path = options.name("filename").filter(|name| !name.is_empty());
    let path = path.map(PathBuf::from).ok_or_else(|| {
        Error::invalid(format!("The '{driver}' block driver requires a file name"))
    })?;
    check_name(&path)
        .map_err(|error| Error::io(format!("Could not open '{}'", path.display()), error))?;
    // QEMU checks them in this order, which decides the error.
    let aio = one_of(options.text("aio"), &["threads", "native", "io_uring"])?;
    let locking = one_of(options.text("locking"), &["auto", "on", "off"])?;
    Ok(Stipulations {
        is_unlocked: locking == Some("off"),
        is_native: aio == Some("native"),
        path: Some(path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Access, CacheMode};

    #[test]
    fn a_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let opening = Opening::new(Access::Read, CacheMode::Writeback);
        let values = Values::default();
        assert!(File.open(file.path(), &values, opening).is_ok());
        let refused = HOST_CDROM.open(file.path(), &values, opening);
        let expected = format!(
            "'host_cdrom' driver requires '{}' to be either a character or block device",
            file.path().display()
        );
        assert_eq!(refused.unwrap_err().to_string(), expected);
        let null = File.open(Path::new("/dev/null"), &values, opening);
        let expected = "'file' driver requires '/dev/null' to be a regular file";
        assert_eq!(null.unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_mistyped_device_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sdx");
        let made = HOST_DEVICE.create(NewStorage {
            path: &path,
            options: &Values::default(),
            cache: CacheMode::Writeback,
            refuse: &|_| Ok(()),
        });
        assert!(
            made.unwrap_err()
                .to_string()
                .contains("does not support creating")
        );
        assert!(!path.exists());
    }
}
