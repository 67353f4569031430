//! Creation of images.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use super::image::new_file;
use super::open::format_named;
use super::password::GivenPasswords;
use crate::commands::{self, Driver, Purpose, Target};
use crate::crypto::{Secret, Secrets};
use crate::error::{Error, Result};
use crate::nodes::Names;
use crate::options::Values;
use crate::storage::CacheMode;

/// The options of a new image.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("disk.qcow2");
/// cowhide::CreateOptions::new("qcow2", 10 << 30)
///     .option("cluster_size", "128k")
///     .option("encrypt.format", "luks")
///     .option("encrypt.iter-time", "10")
///     .password("correct horse")
///     .create(&path)?;
/// # Ok::<(), cowhide::Error>(())
/// ```
#[derive(Debug)]
pub struct CreateOptions {
    size: u64,
    new: NewImageOptions,
}

impl CreateOptions {
    /// Returns the options of an image of a format, such as `qcow2`, for a disk of `size` bytes.
    pub fn new(format: impl Into<String>, size: u64) -> Self {
        Self {
            size,
            new: NewImageOptions::new(format.into()),
        }
    }

    /// Sets an option of the format, by its name for `qemu-img create -o`.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.new.options.push((name.into(), value.into()));
        self
    }

    /// Sets the password of an encrypted image.
    #[must_use]
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.new.password = Some(Secret::new(password.into()));
        self
    }

    /// Creates the image. An existing regular file is overwritten.
    ///
    /// # Errors
    /// Returns an error if the options are invalid, or the system's error. No new file is left then, and an existing
    /// file that was overwritten is empty.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<()> {
        let secrets = Secrets::default();
        let target = self.new.target(path.as_ref(), &secrets)?;
        let passwords = GivenPasswords {
            reading: None,
            writing: self.new.password.as_ref(),
        };
        commands::create::run(&target, self.size, &passwords)
    }
}

/// The format of a new image, its options, and its password.
pub(super) struct NewImageOptions {
    format: String,
    pub(super) options: Vec<(String, OsString)>,
    pub(super) password: Option<Secret>,
}

impl fmt::Debug for NewImageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewImageOptions")
            .field("format", &self.format)
            .field("options", &self.options)
            .field("has_password", &self.password.is_some())
            .finish()
    }
}

impl NewImageOptions {
    pub(super) fn new(format: String) -> Self {
        Self {
            format,
            options: Vec::new(),
            password: None,
        }
    }

    /// Returns the description of the image at `path`.
    pub(super) fn target<'a>(&self, path: &Path, secrets: &'a Secrets) -> Result<Target<'a>> {
        let driver = Driver::Format(format_named(&self.format)?);
        let lists = self.options.iter().map(|(name, value)| {
            let text = value.to_str().ok_or_else(|| {
                Error::invalid(format!("the value of the option '{name}' is not UTF-8"))
            })?;
            // In an option string, a comma in a value is doubled.
            Ok(OsString::from(format!(
                "{name}={}",
                text.replace(',', ",,")
            )))
        });
        let lists = lists.collect::<Result<Vec<_>>>()?;
        Ok(Target {
            path: new_file(path)?,
            name: path.to_string_lossy().into_owned(),
            driver,
            options: Values::of_lists(&driver.create_options(), &lists)?,
            secrets,
            align: None,
            compressed: false,
            backing_purpose: Some(Purpose::Read),
            cache: CacheMode::Writeback,
            existing: None,
            names: Names::Follow(|_, _| ()),
            names_below: Names::Follow(|_, _| ()),
        })
    }
}
