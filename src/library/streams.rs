//! Open images as streams of the standard library, for code that reads and writes those: parsers of partition tables
//! and file systems, archivers, hashes.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Deref;

use super::image::{DiskImage, WritableDisk};
use crate::error::{Error, ErrorKind, Result};

/// A disk as [`Read`] and [`Seek`]. It holds a reference or another pointer to the image: `&DiskImage`,
/// `Box<DiskImage>` or `Arc<DiskImage>`. Short reads are faster behind a [`BufReader`](io::BufReader).
///
/// ```
/// use std::io::{Read, Seek, SeekFrom};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("disk.qcow2");
/// # cowhide::CreateOptions::new("qcow2", 1 << 30).create(&path)?;
/// let image = cowhide::OpenOptions::new().format("qcow2").open(&path)?;
/// let mut reader = cowhide::DiskReader::new(&image);
/// reader.seek(SeekFrom::Start(510))?;
/// let mut signature = [0; 2];
/// reader.read_exact(&mut signature)?;
/// # assert_eq!(signature, [0; 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiskReader<D> {
    image: D,
    position: u64,
}

impl<D: Deref<Target = DiskImage>> DiskReader<D> {
    /// Returns a stream at the start of the disk.
    pub fn new(image: D) -> Self {
        Self { image, position: 0 }
    }

    /// Returns the pointer to the image.
    pub fn into_inner(self) -> D {
        self.image
    }
}

impl<D: Deref<Target = DiskImage>> Read for DiskReader<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = start_of(buffer, self.image.size(), self.position);
        self.image.read_at(self.position, part)?;
        self.position += part.len() as u64;
        Ok(part.len())
    }
}

impl<D: Deref<Target = DiskImage>> Seek for DiskReader<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = position(to, self.position, self.image.size())?;
        Ok(self.position)
    }
}

impl<D> fmt::Debug for DiskReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskReader")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// A disk as [`Read`], [`Write`] and [`Seek`], like [`DiskReader`]. The disk doesn't grow: at its end nothing more is
/// written. [`Write::flush`] waits until the data is on stable storage, as [`WritableDisk::flush`] does.
pub struct DiskStream<D> {
    disk: D,
    position: u64,
}

impl<D: Deref<Target = WritableDisk>> DiskStream<D> {
    /// Returns a stream at the start of the disk.
    pub fn new(disk: D) -> Self {
        Self { disk, position: 0 }
    }

    /// Returns the pointer to the disk.
    pub fn into_inner(self) -> D {
        self.disk
    }
}

impl<D: Deref<Target = WritableDisk>> Read for DiskStream<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = start_of(buffer, self.disk.size(), self.position);
        self.disk.read_at(self.position, part)?;
        self.position += part.len() as u64;
        Ok(part.len())
    }
}

impl<D: Deref<Target = WritableDisk>> Write for DiskStream<D> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let left = self.disk.size().saturating_sub(self.position);
        let length = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
        let part = data.get(..length).unwrap_or_default();
        self.disk.write_at(self.position, part)?;
        self.position += part.len() as u64;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.disk.flush()?)
    }
}

impl<D: Deref<Target = WritableDisk>> Seek for DiskStream<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = position(to, self.position, self.disk.size())?;
        Ok(self.position)
    }
}

impl<D> fmt::Debug for DiskStream<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStream")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl From<Error> for io::Error {
    /// Wraps the error. The kind is that of the system call that failed, or else the nearest one.
    fn from(error: Error) -> Self {
        let kind = error.io_kind().unwrap_or(match error.kind() {
            ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            ErrorKind::MissingSecret => io::ErrorKind::PermissionDenied,
            ErrorKind::Locked => io::ErrorKind::ResourceBusy,
            // Not `Interrupted`, after which `read_exact` tries again.
            ErrorKind::Cancelled | ErrorKind::Io => io::ErrorKind::Other,
        });
        Self::new(kind, error)
    }
}

/// Returns the part of a buffer that the disk has bytes for from `position` on.
fn start_of(buffer: &mut [u8], size: u64, position: u64) -> &mut [u8] {
    let left = size.saturating_sub(position);
    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    buffer.get_mut(..length).unwrap_or_default()
}

/// Returns the position after a move. It may be beyond the end of the disk, as in a file.
fn position(to: SeekFrom, now: u64, size: u64) -> Result<u64> {
    let moved = match to {
        SeekFrom::Start(position) => Some(position),
        SeekFrom::Current(by) => now.checked_add_signed(by),
        SeekFrom::End(by) => size.checked_add_signed(by),
    };
    moved.ok_or_else(|| Error::invalid("a position before the start of the disk"))
}
