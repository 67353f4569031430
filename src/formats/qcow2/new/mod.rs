//! What every new image has, however it is laid out: its files, what it is to be, its cipher, and the
//! header that comes last.
//!
//! The layouts ([`append`], [`preallocated`], [`mod@compressed`]) say where clusters and
//! tables go; what follows from the options alone stands here.

mod append;
mod compressed;
mod compressed_refcounts;
mod layout;
mod preallocated;
pub(super) mod refcounts;
mod runs;

pub use append::NewQcow2;
pub use compressed::NewCompressed;
pub use preallocated::NewPreallocated;

use std::ops::Range;
use std::sync::Arc;

use self::refcounts::RefcountLayout;
use super::create_options::CreateOptions;
use super::geometry::Geometry;
use crate::error::{Error, Result};
use crate::formats::encryption::Cipher;
use crate::formats::qcow2::header::encode;
use crate::formats::{Backed, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The parts of a new image.
struct Parts {
    storage: Arc<dyn Storage>,
    /// Where the guest's data goes: the image's own file, or its external data file.
    data: Arc<dyn Storage>,
    external: bool,
    options: CreateOptions,
    geometry: Geometry,
    cipher: Option<Cipher>,
    flush: bool,
    /// Whether what is never written to `data` reads as zeroes.
    clean: bool,
}

impl Parts {
    /// Checks that the parts go together. `data` is the external data file, there if and only if the
    /// options name one, and is made as long as the disk. The image's own file is left as it is.
    ///
    /// # Errors
    /// As [`CreateOptions::check`]; an encryption method other than the legacy AES; a device for the
    /// data that is smaller than the disk; the system's.
    fn new(
        storage: Arc<dyn Storage>,
        data: Option<Arc<dyn Storage>>,
        options: CreateOptions,
        cipher: Option<Cipher>,
        flush: bool,
    ) -> Result<Self> {
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
            flush,
        })
    }

    /// Overwrites the header of the image that was on a block device.
    ///
    /// # Errors
    /// The system's error.
    fn wipe(&self) -> Result<()> {
        if self.storage.starts_as_zeroes() {
            return Ok(());
        }
        encode::wipe(self.storage.as_ref(), self.geometry)
    }

    /// Makes a block device's part for data read as zeroes where that takes no writing. What is encrypted
    /// is written anyway.
    ///
    /// # Errors
    /// Returns the system's error if the ends of the part can't be written.
    fn clear(&mut self, range: Range<u64>) -> Result<()> {
        if self.cipher.is_none() && !self.clean && !range.is_empty() {
            self.clean = self.data.punch(range)?;
        }
        Ok(())
    }

    /// Whether of a cluster that is stored only the data has to be written. Otherwise all of it is
    /// ciphertext, or has to be written to read as zeroes.
    fn leaves_holes(&self) -> bool {
        self.cipher.is_none() && self.clean
    }

    /// The unit of which L2 entries say how it is stored, in bytes, for buffers.
    fn unit(&self) -> usize {
        self.geometry.subcluster_len()
    }

    /// In which pieces zeroes are worth finding, in bytes.
    fn zero_unit(&self) -> usize {
        if self.leaves_holes() {
            self.unit().min(4096)
        } else {
            self.unit()
        }
    }

    /// The backing file under the new image.
    fn backed(&self) -> Option<Backed> {
        let backing = self.options.backing.as_ref()?;
        Some(Backed {
            size: backing.size,
            unit: self.unit(),
            copies_ends: false,
        })
    }

    /// Cuts what a chunk at `guest` stores to the disk's end where nothing may be behind that.
    fn cut(&self, guest: GuestOffset, pieces: &mut Vec<(Run, HostOffset)>) {
        if self.external {
            let left = self.options.size.next_multiple_of(SECTOR_SIZE) - guest.0;
            runs::cut(pieces, usize::try_from(left).unwrap_or(usize::MAX));
        }
    }

    /// Encrypts a chunk if the image is.
    ///
    /// # Errors
    /// As [`Reservation::encrypt`].
    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        match &self.cipher {
            Some(cipher) => reservation.encrypt(cipher, chunk),
            None => Ok(()),
        }
    }

    /// Writes a chunk's data, then its tables.
    ///
    /// # Errors
    /// The system's error.
    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.data.as_ref(), chunk)?;
        reservation.write_metadata(self.storage.as_ref())
    }

    /// Where chunks can be copied to as they are.
    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.leaves_holes().then_some(self.data.as_ref())
    }

    /// Ends the image: the refcounts, and after all that it points to the header.
    ///
    /// # Errors
    /// The system's error; a table too big for its field.
    fn finish(&self, l1: HostOffset, refcounts: &RefcountLayout) -> Result<()> {
        refcounts.write(self.storage.as_ref(), self.geometry)?;
        if self.external && self.flush {
            self.data.flush()?;
        }
        let header = encode::bytes(
            &self.options,
            self.geometry,
            l1,
            refcounts.table_place(self.geometry),
        )?;
        encode::write_last(self.storage.as_ref(), &header, self.flush)
    }
}

/// Makes an external data file as long as the disk, reading as zeroes where that is possible.
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
