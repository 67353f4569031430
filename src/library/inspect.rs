//! The contents of an image's header, read without any other file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use super::open::OpenOptions;
use crate::error::Result;
use crate::nodes::{Inspected, Names};

/// The contents of an image's header. The names in it are those that the image's author chose.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSummary {
    /// The name of the format.
    pub format: String,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The number of bytes that the file takes on its medium, if known.
    pub allocated: Option<u64>,
    /// The size of the image's clusters in bytes, if the format has clusters.
    pub cluster_size: Option<u64>,
    /// The encryption format of the disk, `aes` or `luks`, or `None` if it isn't encrypted.
    pub encryption: Option<&'static str>,
    /// The backing file's name as the header stores it: a path, a URL or a `json:` tree of options.
    pub backing_file: Option<OsString>,
    /// The name of the backing file's format, if the header stores it. Without it the format is probed, and a guest
    /// that writes to the start of a raw backing file decides the result.
    pub backing_format: Option<String>,
    /// The names of the other files that hold parts of the image, such as a data file, as the header stores them.
    pub other_files: Vec<OsString>,
    /// The number of internal snapshots.
    pub snapshots: usize,
    /// True if the image wasn't closed after it was written to, and may need a repair.
    pub is_dirty: bool,
}

impl OpenOptions {
    /// Reads an image's header, and no other file: neither the backing file nor a data file. No password is needed.
    /// Decide by it if an image from an untrusted source is to be opened, and which files it needs.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let upload = folder.path().join("upload");
    /// # cowhide::CreateOptions::new("qcow2", 1 << 30).create(&upload)?;
    /// let header = cowhide::OpenOptions::new().inspect(&upload)?;
    /// if header.backing_file.is_some() || !header.other_files.is_empty() {
    ///     return Err("the image needs files of this machine".into());
    /// }
    /// assert_eq!((&*header.format, header.size), ("qcow2", 1 << 30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the file can't be opened, is locked by another process or has another format. Returns
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) or [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// if the header is invalid or needs a feature that this version doesn't have.
    pub fn inspect(&self, path: impl AsRef<Path>) -> Result<ImageSummary> {
        let mut node = self.node(path.as_ref())?;
        node.policy.names = Names::Refuse;
        let found = Inspected::open(&node)?;
        let info = found.describe(&node)?;
        let image = found.image.as_ref();
        let stored = |name: &[u8]| OsString::from_vec(name.to_vec());
        let backing = image.backing();
        let format = backing.as_ref().and_then(|backing| backing.format);
        let others = image.other_files()?;
        Ok(ImageSummary {
            format: found.opened.format.name().to_owned(),
            size: info.virtual_size,
            allocated: info.actual_size,
            cluster_size: info.cluster_size,
            encryption: image.encryption().map(|format| format.name()),
            backing_file: backing.as_ref().map(|backing| stored(backing.name)),
            backing_format: format.map(|name| String::from_utf8_lossy(name).into_owned()),
            other_files: others
                .iter()
                .filter_map(|file| file.name.map(stored))
                .collect(),
            snapshots: info.snapshots.len(),
            is_dirty: info.dirty_flag == Some(true),
        })
    }
}
