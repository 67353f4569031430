//! A new image: the parts that follow from its options alone, and three layouts.
//!
//! A layout reserves room and finishes the tables; everything else is the same for all and stands here:
//! encryption, writing, and the header that comes last.
//!
//! - `parts`: the files, the options and the cipher, and the interface of a layout;
//! - [`append`]: clusters in the order in which their data comes;
//! - [`preallocated`]: a place for each cluster beforehand;
//! - [`mod@compressed`]: compressed clusters, byte behind byte;
//! - `layout`, `runs`, `refcounts`, `compressed_refcounts`: L1 and L2 tables, parts of chunks, and refcounts, for
//!   the layouts;
//! - `order`, `places`: the order in which QEMU hands out clusters, and the places that follow from it.

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
use super::create_options::NewQcow2Options;
use super::header::encode;
use crate::error::Result;
use crate::formats::encryption::Cipher;
use crate::formats::new_image::write_header_last;
use crate::formats::{Backed, NewImage, Packed, Preallocation, Reservation, Run};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// A qcow2 image being written.
pub struct NewQcow2 {
    parts: NewQcow2Parts,
    layout: Box<dyn ImageLayout>,
}

impl NewQcow2 {
    /// Starts a new image whose clusters come in the order of their data. `cipher` encrypts the data where the
    /// options say that it is encrypted. `flush` says that [`NewImage::finish`] puts everything on stable
    /// storage, in the order that a power cut can't hurt.
    ///
    /// # Errors
    /// Returns the error of [`NewQcow2Options::check`], or the system's. Returns an error if files or a cipher
    /// don't go with the options, or if a device for the data is smaller than the disk.
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

    /// Starts a new image as [`create`](Self::create) does, with all of the space taken as `preallocation`
    /// says.
    ///
    /// # Errors
    /// Returns an error as [`create`](Self::create) does, or if there isn't so much space.
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

    /// Starts a new image as [`create`](Self::create) does, with clusters compressed as the options say.
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

    /// Refuses options that can't be had together with compression.
    ///
    /// # Errors
    /// Returns an error if the options ask for encryption or for an external data file: compressed clusters are
    /// never encrypted, and have no place in an external data file.
    pub fn check_compression(options: &NewQcow2Options) -> Result<()> {
        compressed::check_options(options)
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

    fn packs(&self) -> bool {
        self.parts.compressed
    }

    /// Returns the room for a compressed cluster, and about as much for the encoder.
    fn memory_to_write(&self) -> usize {
        if self.parts.compressed {
            2 * self.parts.geometry.cluster_len()
        } else {
            0
        }
    }

    fn pack(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<Packed> {
        self.layout.pack(&self.parts, chunk, runs, zeroes)
    }

    fn reserve_packed(&self, guest: GuestOffset, packed: &Packed) -> Result<Reservation> {
        self.layout.reserve_packed(&self.parts, guest, packed)
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

    /// Writes the header after all that it points to.
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
