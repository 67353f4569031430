//! The results of opening an image: its files, the images of its chain, and its data.

use std::sync::Arc;

use crate::error::{Error, Result, printable};
use crate::formats::driver::Load;
use crate::formats::{Chain, Format, ImageFile};
use crate::options::Values;
use crate::storage::Storage;

/// A file opened for reading, and its format.
#[derive(Debug)]
pub struct Loaded {
    /// The file.
    pub file: Arc<dyn Storage>,
    /// The part of the file that the image is in, usually all of it.
    pub storage: Arc<dyn Storage>,
    /// The start of that part in the file, in bytes.
    pub start: u64,
    /// The format that was given or probed.
    pub format: Format,
    /// The options of the image's node.
    pub options: Values,
    /// True if the header is in another file, which options name.
    pub is_headless: bool,
}

impl Loaded {
    /// Reads the header.
    ///
    /// # Errors
    /// Returns the errors of [`FormatDriver::load`](crate::formats::FormatDriver::load).
    pub fn load(&self, how: Load) -> Result<Box<dyn ImageFile>> {
        let how = if self.is_headless {
            Load::Headless
        } else {
            how
        };
        self.format.load(Arc::clone(&self.storage), how)
    }
}

/// An open image of a backing chain.
pub struct ChainImage {
    /// Its name, as the user or the image above it gives it.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Its header.
    pub image: Box<dyn ImageFile>,
    /// The start of a raw image in its file, in bytes.
    pub start: u64,
    /// The part of the named file that the image is in, usually all of it.
    pub storage: Arc<dyn Storage>,
    /// Its files: the named file, and then the other files with parts of the image.
    pub files: Vec<Arc<dyn Storage>>,
}

impl ChainImage {
    /// Returns the file with the guest's data: the last of several, unless that has the header.
    pub fn data_file(&self) -> Option<&dyn Storage> {
        let file = match self.format.capabilities().header_role {
            Some(_) => self.files.first(),
            None => self.files.last(),
        };
        file.map(AsRef::as_ref)
    }
}

/// An image that is open for reading its data, with its backing chain.
pub struct Disk {
    /// Its data.
    pub image: Arc<Chain>,
    /// The images of the chain, top first.
    pub layers: Vec<ChainImage>,
    /// The length in bytes of each of [`files`](Self::files) when it was opened. The list is empty if other processes
    /// may write to the files.
    pub(super) lengths: Vec<u64>,
}

impl Disk {
    /// Returns every file that is read. None of them may be written to meanwhile.
    pub fn files(&self) -> Vec<&dyn Storage> {
        let files = self.layers.iter().flat_map(|layer| &layer.files);
        files.map(AsRef::as_ref).collect()
    }

    /// Checks that every file has the length that it had when it was opened. Another length means that something
    /// wrote to the file, so that the data read from it may be inconsistent.
    ///
    /// # Errors
    /// Returns an error if the length of a file has changed, or the system's error.
    pub fn check_lengths(&self) -> Result<()> {
        for (file, before) in self.files().into_iter().zip(&self.lengths) {
            let now = file.len()?;
            if now != *before {
                return Err(Error::corrupt(format!(
                    "the length of '{}' changed from {before} to {now} bytes while it was read",
                    printable(&file.location().to_string_lossy())
                )));
            }
        }
        Ok(())
    }
}
