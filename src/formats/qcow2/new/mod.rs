//! A new image: its parts that follow from the options alone, and three layouts.
//!
//! A layout allocates space and completes the tables. The rest is the same for all layouts and is here: encryption,
//! writing, and the header, which is written last.
//!
//! - `parts`: the files, the options and the cipher, and the interface of a layout;
//! - [`append`]: the layout with clusters in the order of their data;
//! - [`preallocated`]: the layout in which each cluster is allocated beforehand;
//! - [`mod@compressed`]: the layout with contiguous compressed clusters;
//! - `layout`, `runs`, `refcounts`, `compressed_refcounts`: the tables, parts of chunks, and refcounts, for the
//!   layouts;
//! - `order`, `places`: QEMU's order of allocation, and the places that follow from it.

mod append;
mod compressed;
mod compressed_refcounts;
mod layout;
mod order;
mod parts;
mod places;
mod preallocated;
pub(super) mod refcounts;
mod runs;

pub use parts::NewFiles;

use self::append::AppendLayout;
use self::compressed::CompressedLayout;
use self::parts::{ImageLayout, NewQcow2Parts};
use self::preallocated::PreallocatedLayout;
use super::create_check::check_compression;
use super::create_options::NewQcow2Options;
use super::header::encode;
use crate::error::Result;
use crate::formats::encryption::Cipher;
use crate::formats::new_image::write_header_last;
use crate::formats::{Backed, CompressedChunk, NewImage, Preallocation, Reservation, Run};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// A qcow2 image that is being written for the first time.
pub struct NewQcow2 {
    parts: NewQcow2Parts,
    layout: Box<dyn ImageLayout>,
}

impl NewQcow2 {
    /// Starts a new image whose clusters are in the order of their data. `cipher` encrypts the data if the options
    /// require it. If `flush`, [`NewImage::finish`] flushes everything to stable storage, in an order that survives a
    /// power cut.
    ///
    /// # Errors
    /// Returns the error of [`NewQcow2Options::check`], or the system's. Returns an error if the files or the cipher
    /// don't match the options, or if a device for the data is smaller than the disk.
    pub fn create(
        files: impl Into<NewFiles>,
        options: NewQcow2Options,
        cipher: Option<Cipher>,
        flush: bool,
    ) -> Result<Self> {
        let parts = NewQcow2Parts::new(files.into(), options, cipher, flush)?;
        let layout = Box::new(AppendLayout::new(&parts)?);
        Ok(Self { parts, layout })
    }

    /// Starts a new image as [`create`](Self::create) does, with all of its space preallocated according to
    /// `preallocation`.
    ///
    /// # Errors
    /// Returns an error as [`create`](Self::create) does, or if there isn't enough space.
    pub fn create_preallocated(
        files: impl Into<NewFiles>,
        options: NewQcow2Options,
        cipher: Option<Cipher>,
        preallocation: Preallocation,
        flush: bool,
    ) -> Result<Self> {
        options.check_preallocation(preallocation)?;
        let mut parts = NewQcow2Parts::new(files.into(), options, cipher, flush)?;
        let layout = Box::new(PreallocatedLayout::new(&mut parts, preallocation)?);
        Ok(Self { parts, layout })
    }

    /// Starts a new image as [`create`](Self::create) does, with compressed clusters.
    ///
    /// # Errors
    /// Returns an error as [`create`](Self::create) and [`check_compression`](Self::check_compression) do.
    pub fn create_compressed(
        files: impl Into<NewFiles>,
        options: NewQcow2Options,
        flush: bool,
    ) -> Result<Self> {
        options.check()?;
        Self::check_compression(&options)?;
        let mut parts = NewQcow2Parts::new(files.into(), options, None, flush)?;
        parts.compressed = true;
        let layout = Box::new(CompressedLayout::new(&parts)?);
        Ok(Self { parts, layout })
    }

    /// Refuses options that exclude compression.
    ///
    /// # Errors
    /// Returns an error if the options require encryption or an external data file.
    pub fn check_compression(options: &NewQcow2Options) -> Result<()> {
        check_compression(options.encryption.is_some(), options.data_file.is_some())
    }
}

impl NewImage for NewQcow2 {
    fn allocation_unit(&self) -> usize {
        self.parts.geometry.cluster_len()
    }

    fn zero_unit(&self) -> usize {
        self.parts.zero_unit()
    }

    fn table_unit(&self) -> usize {
        self.parts.unit()
    }

    fn starts_as_zeroes(&self) -> bool {
        self.layout.starts_as_zeroes(&self.parts)
    }

    fn backed(&self) -> Option<Backed> {
        self.parts.backed()
    }

    fn compresses(&self) -> bool {
        self.parts.compressed
    }

    /// Returns the size of a buffer for a compressed cluster, and about the same for the encoder.
    fn memory_to_write(&self) -> usize {
        if self.parts.compressed {
            2 * self.parts.geometry.cluster_len()
        } else {
            0
        }
    }

    fn compress(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<CompressedChunk> {
        self.layout.compress(&self.parts, chunk, runs, zeroes)
    }

    fn reserve_compressed(
        &self,
        guest: GuestOffset,
        compressed: &CompressedChunk,
    ) -> Result<Reservation> {
        self.layout
            .reserve_compressed(&self.parts, guest, compressed)
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        self.layout.reserve(&self.parts, guest, chunk, runs, zeroes)
    }

    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        match &self.parts.cipher {
            Some(cipher) => reservation.encrypt(cipher, chunk),
            None => Ok(()),
        }
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.parts.data.as_ref(), chunk)?;
        self.write_metadata(reservation)
    }

    fn may_share(&self) -> bool {
        self.layout.may_share()
    }

    fn writes_serially(&self) -> bool {
        self.parts.data.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.parts.plain_storage()
    }

    fn write_metadata(&self, reservation: &Reservation) -> Result<()> {
        reservation.write_metadata(self.parts.storage.as_ref())
    }

    /// Writes the header last, after everything that it refers to.
    fn finish(&self) -> Result<()> {
        let NewQcow2Parts {
            storage,
            data,
            external,
            options,
            geometry,
            flush,
            ..
        } = &self.parts;
        let tables = self.layout.finish(&self.parts)?;
        if *external && *flush {
            data.flush()?;
        }
        self.parts.write_encryption_header()?;
        let header = encode::bytes(options, *geometry, tables.l1, tables.refcount_table)?;
        write_header_last(storage.as_ref(), &header, *flush)
    }
}
