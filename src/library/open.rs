//! The options for opening an image.

use std::fmt;
use std::path::Path;

use super::image::{DiskImage, WritableDisk};
use super::password::GivenPasswords;
use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::formats::snapshots::SnapshotName;
use crate::nodes::{Names, Node, WriteAccess};
use crate::storage::Purpose;

/// The options for opening an image.
///
/// ```no_run
/// let image = cowhide::OpenOptions::new()
///     .format("qcow2")
///     .password("correct horse")
///     .open("disk.qcow2")?;
/// println!("{} bytes", image.size());
/// # Ok::<(), cowhide::Error>(())
/// ```
#[derive(Default)]
pub struct OpenOptions {
    format: Option<String>,
    password: Option<Secret>,
    refuses_names: bool,
    pub(super) snapshot: Option<SnapshotName>,
}

impl OpenOptions {
    /// Returns the default options: the format is probed, and there is no password.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the format, by its name in `qemu-img`. Set it whenever it is known: a guest that writes to the start of a
    /// raw disk can make it look like any other format.
    #[must_use]
    pub fn format(mut self, name: impl Into<String>) -> Self {
        self.format = Some(name.into());
        self
    }

    /// Sets the password of every encrypted image that is opened. It is kept out of swap, and is wiped when the options
    /// are dropped. Core dumps of the process may contain it.
    #[must_use]
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.password = Some(Secret::new(password.into()));
        self
    }

    /// Opens no file whose name is inside the image: no backing file and no data file. Use it for untrusted images,
    /// whose authors could otherwise name any file of this machine.
    #[must_use]
    pub fn untrusted(mut self) -> Self {
        self.refuses_names = true;
        self
    }

    /// Opens an image and its backing chain for reading.
    ///
    /// # Errors
    /// Returns an error if a file can't be opened, is damaged, has another format or is locked by another process.
    /// Returns [`ErrorKind::MissingSecret`](crate::ErrorKind::MissingSecret) if a password is missing.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<DiskImage> {
        let node = self.node(path.as_ref())?;
        let disk = node.open(Purpose::Read, &self.passwords())?;
        DiskImage::new(disk)
    }

    /// Opens an image for reading and writing. No other process may have it open.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open), or an error if images of the format can't be written.
    pub fn open_to_write(&self, path: impl AsRef<Path>) -> Result<WritableDisk> {
        let node = self.node(path.as_ref())?;
        let passwords = self.passwords();
        let opened = node.open_to_write(&WriteAccess::to_change(true), &passwords)?;
        WritableDisk::new(opened)
    }

    /// Returns the password for images that are opened.
    pub(super) fn passwords(&self) -> GivenPasswords<'_> {
        GivenPasswords {
            reading: self.password.as_ref(),
            writing: None,
        }
    }

    /// Returns the image's node.
    pub(super) fn node(&self, path: &Path) -> Result<Node<'_>> {
        let format = self.format.as_deref().map(format_named).transpose()?;
        let name = path.to_string_lossy().into_owned();
        let mut node = Node::plain(path.to_owned(), name, format);
        if self.refuses_names {
            node.policy.names = Names::Refuse;
        }
        node.snapshot.clone_from(&self.snapshot);
        Ok(node)
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("format", &self.format)
            .field("has_password", &self.password.is_some())
            .field("untrusted", &self.refuses_names)
            .field("snapshot", &self.snapshot)
            .finish()
    }
}

/// Returns the format of that name.
pub(super) fn format_named(name: &str) -> Result<Format> {
    Format::from_name(name).ok_or_else(|| Error::invalid(format!("Unknown file format '{name}'")))
}
