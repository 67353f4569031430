//! Open images: their disks, and the contents of their headers.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::extents::ImageExtents;
use crate::error::{Error, Result};
use crate::formats::bitmaps::PersistentBitmap;
use crate::formats::info::ImageInfo;
use crate::formats::{Image, WritableImage};
use crate::nodes::{Disk, WritableFile};
use crate::units::{GuestOffset, SECTOR_SIZE};

/// An image that is open for reading, with its backing chain. Many threads may read at once.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("disk.qcow2");
/// cowhide::CreateOptions::new("qcow2", 1 << 30).create(&path)?;
/// let image = cowhide::OpenOptions::new().format("qcow2").open(&path)?;
/// let mut sector = [1; 512];
/// image.read_at(4096, &mut sector)?;
/// assert_eq!(sector, [0; 512]);
/// # Ok::<(), cowhide::Error>(())
/// ```
pub struct DiskImage {
    disk: Disk,
    snapshots: Vec<DiskSnapshot>,
    bitmaps: Vec<DiskBitmap>,
    pub(super) stored_bitmaps: Vec<PersistentBitmap>,
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskSnapshot {
    /// Its id, which is unique in the image.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The time of its creation, in seconds since 1970 (UTC).
    pub seconds: u32,
    /// The size of the VM state in bytes, or 0 without one.
    pub vm_state_size: u64,
}

/// A persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskBitmap {
    /// Its name.
    pub name: String,
    /// The number of bytes of the disk for each bit.
    pub granularity: u64,
}

impl DiskImage {
    pub(super) fn new(disk: Disk) -> Result<Self> {
        let top = disk.layers.first().map(|layer| layer.image.as_ref());
        let snapshots = top.and_then(|image| image.snapshots());
        let snapshots = snapshots.map(|snapshots| snapshots.list()).transpose()?;
        let snapshots = snapshots.unwrap_or_default().into_iter();
        let snapshots = snapshots.map(|snapshot| DiskSnapshot {
            id: snapshot.id,
            name: snapshot.name,
            seconds: snapshot.date_sec,
            vm_state_size: snapshot.vm_state_size.max(0).cast_unsigned(),
        });
        let bitmaps = top.and_then(|image| image.bitmaps());
        let bitmaps = bitmaps.map(|bitmaps| bitmaps.list()).transpose()?;
        let stored_bitmaps = bitmaps.unwrap_or_default();
        let bitmaps = stored_bitmaps.iter().map(|bitmap| DiskBitmap {
            name: String::from_utf8_lossy(&bitmap.name).into_owned(),
            granularity: bitmap.granularity,
        });
        Ok(Self {
            snapshots: snapshots.collect(),
            bitmaps: bitmaps.collect(),
            stored_bitmaps,
            disk,
        })
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.disk.image.size()
    }

    /// Returns the name of the image's format.
    pub fn format(&self) -> &str {
        let top = self.disk.layers.first();
        top.map_or("raw", |layer| layer.format.name())
    }

    /// Returns the size of the image's clusters in bytes, or `None` if the format has no clusters.
    pub fn cluster_size(&self) -> Option<u64> {
        let mut info = ImageInfo::new(String::new(), "", self.size(), None);
        // Damage in other tables doesn't matter here.
        let _ = self.disk.layers.first()?.image.describe(&mut info);
        info.cluster_size
    }

    /// Returns the encryption format of the disk, `aes` or `luks`, or `None` if it isn't encrypted.
    pub fn encryption(&self) -> Option<&'static str> {
        let top = self.disk.layers.first()?;
        Some(top.image.encryption()?.name())
    }

    /// Returns the paths of the backing chain, starting with the backing file of this image.
    pub fn backing_files(&self) -> Vec<PathBuf> {
        let below = self.disk.layers.iter().skip(1);
        let files = below.filter_map(|layer| layer.files.first());
        files
            .map(|file| Path::new(file.location()).to_owned())
            .collect()
    }

    /// Returns the internal snapshots.
    pub fn snapshots(&self) -> &[DiskSnapshot] {
        &self.snapshots
    }

    /// Returns the persistent bitmaps.
    pub fn bitmaps(&self) -> &[DiskBitmap] {
        &self.bitmaps
    }

    /// Fills `buffer` with the disk's bytes from the guest offset `offset` on.
    ///
    /// # Errors
    /// Returns an error if some of them are beyond the end of the disk or can't be decoded, or the system's error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_part(self.disk.image.as_ref(), offset, buffer)
    }

    /// Returns the extents of the disk.
    pub fn extents(&self) -> ImageExtents<'_> {
        ImageExtents {
            image: &self.disk.image,
            position: 0,
        }
    }
}

impl fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskImage")
            .field("format", &self.format())
            .field("size", &self.size())
            .field("encryption", &self.encryption())
            .field("backing_files", &self.backing_files())
            .finish_non_exhaustive()
    }
}

/// An image that is open for reading and writing. Written data is on stable storage once [`flush`](Self::flush) or
/// [`close`](Self::close) returns.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("disk.qcow2");
/// cowhide::CreateOptions::new("qcow2", 1 << 30).create(&path)?;
/// let options = cowhide::OpenOptions::new().format("qcow2");
/// let disk = options.open_to_write(&path)?;
/// disk.write_at(4096, b"hello")?;
/// disk.close()?;
/// let mut word = [0; 5];
/// options.open(&path)?.read_at(4096, &mut word)?;
/// assert_eq!(&word, b"hello");
/// # Ok::<(), cowhide::Error>(())
/// ```
pub struct WritableDisk {
    image: Box<dyn WritableImage>,
}

impl WritableDisk {
    pub(super) fn new(opened: WritableFile<'_>) -> Result<Self> {
        let image = opened.image.open_writable(opened.parts)?;
        Ok(Self { image })
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// Fills `buffer` with the disk's bytes from the guest offset `offset` on.
    ///
    /// # Errors
    /// Returns the errors of [`DiskImage::read_at`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_part(self.image.as_ref(), offset, buffer)
    }

    /// Writes `data` at the guest offset `offset`. The rest of a partially written sector of 512 bytes is read first,
    /// so two threads must not write to the same sector at once.
    ///
    /// # Errors
    /// Returns an error if some of it is beyond the end of the disk, or the system's error.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let (sectors, within) = sectors(offset, data.len())?;
        if within == 0 && sectors.end - sectors.start == data.len() as u64 {
            return self.image.write_at(GuestOffset(offset), data);
        }
        let mut whole = vec![0; sector_bytes(&sectors)?];
        self.image.read_at(GuestOffset(sectors.start), &mut whole)?;
        if let Some(part) = whole.get_mut(within..within + data.len()) {
            part.copy_from_slice(data);
        }
        self.image.write_at(GuestOffset(sectors.start), &whole)
    }

    /// Makes `length` bytes from the guest offset `offset` on read as zeroes. They must be whole sectors of 512
    /// bytes. Their space is freed if the format can do that.
    ///
    /// # Errors
    /// Returns the errors of [`write_at`](Self::write_at), or an error if they aren't whole sectors.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.image.write_zeroes(GuestOffset(offset), length, true)
    }

    /// Waits until everything written is on stable storage.
    ///
    /// # Errors
    /// Returns the system's error. No write succeeds after it.
    pub fn flush(&self) -> Result<()> {
        self.image.flush()
    }

    /// Flushes and closes the image. An image that is dropped instead may need a repair.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub fn close(self) -> Result<()> {
        self.image.close()
    }
}

impl fmt::Debug for WritableDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritableDisk")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// Reads bytes that needn't be whole sectors.
fn read_part(image: &dyn Image, offset: u64, buffer: &mut [u8]) -> Result<()> {
    if buffer.is_empty() {
        return Ok(());
    }
    let (sectors, within) = sectors(offset, buffer.len())?;
    if within == 0 && sectors.end - sectors.start == buffer.len() as u64 {
        return image.read_at(GuestOffset(offset), buffer);
    }
    let mut whole = vec![0; sector_bytes(&sectors)?];
    image.read_at(GuestOffset(sectors.start), &mut whole)?;
    if let Some(part) = whole.get(within..within + buffer.len()) {
        buffer.copy_from_slice(part);
    }
    Ok(())
}

/// Returns the range of the whole sectors around `length` bytes at `offset`, and the offset of the bytes in it. All
/// are in bytes.
fn sectors(offset: u64, length: usize) -> Result<(Range<u64>, usize)> {
    let start = offset / SECTOR_SIZE * SECTOR_SIZE;
    let end = offset.checked_add(length as u64);
    let end = end.and_then(|end| end.checked_next_multiple_of(SECTOR_SIZE));
    let end = end.ok_or_else(|| Error::invalid("no disk is so large"))?;
    Ok((start..end, usize::try_from(offset - start).unwrap_or(0)))
}

/// Returns the length of a range of sectors, for buffers.
fn sector_bytes(sectors: &Range<u64>) -> Result<usize> {
    usize::try_from(sectors.end - sectors.start).map_err(|_| Error::invalid("range too long"))
}

/// Returns the path for a new image.
pub(super) fn new_file(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("a new image needs a name"));
    }
    Ok(path.to_owned())
}
