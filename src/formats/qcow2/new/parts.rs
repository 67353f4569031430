//! The parts that every new image has, whatever its layout: its files, its options and its cipher. The interface of a
//! layout is here, too.

use std::ops::Range;
use std::sync::Arc;

use super::runs;
use crate::error::{Error, Result};
use crate::formats::encryption::Cipher;
use crate::formats::qcow2::create_options::NewQcow2Options;
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::{TablePlace, encode};
use crate::formats::reservation::compression_mismatch;
use crate::formats::{Backed, CompressedChunk, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The files of a new image, each of which must be empty or a block device.
pub struct NewFiles {
    /// The image's own file.
    pub image: Arc<dyn Storage>,
    /// The external data file, if and only if the options name one.
    pub data: Option<Arc<dyn Storage>>,
    /// The encryption header, if the format has one.
    pub encryption_header: Vec<u8>,
}

impl<S: Storage + 'static> From<Arc<S>> for NewFiles {
    fn from(image: Arc<S>) -> Self {
        Self {
            image,
            data: None,
            encryption_header: Vec::new(),
        }
    }
}

impl From<Arc<dyn Storage>> for NewFiles {
    fn from(image: Arc<dyn Storage>) -> Self {
        Self {
            image,
            data: None,
            encryption_header: Vec::new(),
        }
    }
}

/// The places of a new image's tables, for its header.
pub(super) struct TablePlaces {
    pub(super) l1: HostOffset,
    pub(super) refcount_table: TablePlace,
}

/// The layout of a new image: the places of clusters and tables. The methods correspond to those of
/// [`NewImage`](crate::formats::NewImage) with the same names.
pub(super) trait ImageLayout: Send + Sync {
    fn starts_as_zeroes(&self, image: &NewQcow2Parts) -> bool {
        // An unallocated cluster reads as zeroes, whatever the file holds.
        image.options.backing.is_none()
    }

    fn may_share(&self) -> bool {
        true
    }

    fn compress(
        &self,
        _image: &NewQcow2Parts,
        _chunk: &mut [u8],
        _runs: &[Run],
        _zeroes: &[Run],
    ) -> Result<CompressedChunk> {
        Err(compression_mismatch())
    }

    fn reserve_compressed(
        &self,
        _image: &NewQcow2Parts,
        _guest: GuestOffset,
        _compressed: &CompressedChunk,
    ) -> Result<Reservation> {
        Err(compression_mismatch())
    }

    fn reserve(
        &self,
        image: &NewQcow2Parts,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation>;

    /// Writes the remaining tables and the refcounts.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the size of a table doesn't fit into its field.
    fn finish(&self, image: &NewQcow2Parts) -> Result<TablePlaces>;
}

/// The parts of a new image.
pub(super) struct NewQcow2Parts {
    pub(super) storage: Arc<dyn Storage>,
    /// The file with the guest's data: the image's own file or its external data file.
    pub(super) data: Arc<dyn Storage>,
    pub(super) external: bool,
    pub(super) options: NewQcow2Options,
    pub(super) geometry: Geometry,
    pub(super) cipher: Option<Cipher>,
    /// The encryption header, if the format has one.
    encryption_header: Vec<u8>,
    pub(super) flush: bool,
    /// True if clusters are written as a whole because they are compressed.
    pub(super) compressed: bool,
    /// True if unwritten parts of `data` read as zeroes.
    pub(super) clean: bool,
}

impl NewQcow2Parts {
    /// Checks that the files and the cipher match the options. Sets the length of an external data file to the size
    /// of the disk, and leaves the image's own file unchanged.
    ///
    /// # Errors
    /// Returns the error of [`NewQcow2Options::check`], or the system's. Returns an error if there is a cipher
    /// without encryption or the reverse, or if a device for the data is smaller than the disk.
    pub(super) fn new(
        files: NewFiles,
        options: NewQcow2Options,
        cipher: Option<Cipher>,
        flush: bool,
    ) -> Result<Self> {
        let NewFiles {
            image: storage,
            data,
            encryption_header,
        } = files;
        if options.data_file.is_some() != data.is_some() {
            return Err(Error::invalid(
                "an external data file must be both named and given",
            ));
        }
        let geometry = options.check()?;
        options.check_cipher(cipher.as_ref())?;
        if let Some(data) = &data {
            prepare_data_file(data.as_ref(), options.size)?;
        }
        let external = data.is_some();
        let data = data.unwrap_or_else(|| Arc::clone(&storage));
        Ok(Self {
            clean: data.starts_as_zeroes(),
            storage,
            data,
            external,
            options,
            geometry,
            cipher,
            encryption_header,
            compressed: false,
            flush,
        })
    }

    /// Overwrites the header of an earlier image on a block device.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn wipe(&self) -> Result<()> {
        if self.storage.starts_as_zeroes() {
            return Ok(());
        }
        encode::wipe(self.storage.as_ref(), self.geometry)
    }

    /// Returns the number of clusters in front of the tables: those of the header and of the encryption header.
    pub(super) fn front_clusters(&self) -> u64 {
        let place = self.options.encryption_header();
        1 + self
            .geometry
            .clusters(place.map_or(0, |place| place.length))
    }

    /// Writes the encryption header, padded with zeroes if the file doesn't read as zeroes.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn write_encryption_header(&self) -> Result<()> {
        let Some(place) = self.options.encryption_header() else {
            return Ok(());
        };
        let mut header = self.encryption_header.clone();
        if !self.storage.starts_as_zeroes() {
            let length = place.length.next_multiple_of(self.geometry.cluster_size());
            header.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        }
        self.storage.write_at(place.host.0, &header)
    }

    /// Makes the range of a block device for data read as zeroes if that takes no writing. Does nothing for encrypted
    /// data, which is written as a whole.
    ///
    /// # Errors
    /// Returns the system's error if the ends of the range can't be written.
    pub(super) fn clear(&mut self, range: Range<u64>) -> Result<()> {
        if self.cipher.is_none() && !self.clean && !range.is_empty() {
            self.clean = self.data.punch(range)?;
        }
        Ok(())
    }

    /// Returns true if zeroes in an allocated cluster needn't be written. Otherwise the cluster is encrypted,
    /// compressed, or doesn't read as zeroes.
    pub(super) fn leaves_holes(&self) -> bool {
        self.cipher.is_none() && self.clean && !self.compressed
    }

    /// Returns the unit that an L2 entry maps, in bytes, for buffers.
    pub(super) fn unit(&self) -> usize {
        if self.compressed {
            self.geometry.cluster_len()
        } else {
            self.geometry.subcluster_len()
        }
    }

    /// Returns the unit in which zeroes are detected, in bytes.
    pub(super) fn zero_unit(&self) -> usize {
        if self.leaves_holes() {
            self.unit().min(4096)
        } else {
            self.unit()
        }
    }

    /// Returns the backing file of the new image.
    pub(super) fn backed(&self) -> Option<Backed> {
        let backing = self.options.backing.as_ref()?;
        Some(Backed {
            size: backing.size,
            unit: self.unit(),
            copies_ends: self.compressed,
        })
    }

    /// Truncates the pieces of a chunk at `guest` at the disk's end if the data is in an external data file.
    pub(super) fn cut(&self, guest: GuestOffset, pieces: &mut Vec<(Run, HostOffset)>) {
        if self.external {
            let left = self.options.size.next_multiple_of(SECTOR_SIZE) - guest.0;
            runs::cut(pieces, usize::try_from(left).unwrap_or(usize::MAX));
        }
    }

    /// Returns the storage to which chunks can be copied unchanged.
    pub(super) fn plain_storage(&self) -> Option<&dyn Storage> {
        self.leaves_holes().then_some(self.data.as_ref())
    }
}

/// Sets the length of an external data file to the size of the disk. Makes the file read as zeroes if possible.
fn prepare_data_file(data: &dyn Storage, size: u64) -> Result<()> {
    let size = size.next_multiple_of(SECTOR_SIZE);
    if data.starts_as_zeroes() {
        data.set_len(size)
    } else if data.len()? < size {
        Err(Error::invalid("the data file is smaller than the disk"))
    } else {
        Ok(())
    }
}
