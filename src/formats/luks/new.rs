//! Writing a new LUKS image.
//!
//! The header is written last, so that no program takes the file for an image before all data is stored. Unwritten
//! parts would decrypt to noise, so the whole disk is written, including zeroes.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::encryption::Cipher;
use crate::formats::new_image::{wipe_old_header, write_header_last};
use crate::formats::{NewImage, Preallocation, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

use super::image::UNIT;

/// The number of bytes at the start of the header that identify the format.
const MARK: usize = 512;

/// A new LUKS image.
pub(super) struct NewLuks {
    file: Arc<dyn Storage>,
    cipher: Cipher,
    /// The header, up to the end of the first key slot's key material.
    header: Vec<u8>,
    payload: u64,
    /// The size of the disk in bytes, or `None` for a detached header.
    size: Option<u64>,
    flush: bool,
}

impl NewLuks {
    /// Prepares `file` for a header and a disk of `size` bytes at byte `payload`, or for a detached header without a
    /// size.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a device is smaller than the image.
    pub(super) fn create(
        file: Arc<dyn Storage>,
        (header, cipher): (Vec<u8>, Cipher),
        payload: u64,
        size: Option<u64>,
        preallocation: Preallocation,
        flush: bool,
    ) -> Result<Self> {
        let length = payload + size.unwrap_or(0);
        if file.starts_as_zeroes() {
            file.set_len(length).map_err(too_large)?;
        } else {
            if file.len()? < length {
                return Err(Error::invalid("Cannot grow device files"));
            }
            wipe_old_header(file.as_ref(), MARK)?;
        }
        if preallocation == Preallocation::Falloc {
            file.reserve(0..length)?;
        }
        Ok(Self {
            file,
            cipher,
            header,
            payload,
            size,
            flush,
        })
    }
}

/// Replaces the error of a file system that doesn't support files of that size by QEMU's.
fn too_large(error: Error) -> Error {
    match error.io_kind() {
        Some(ErrorKind::FileTooLarge) => Error::invalid("The requested file size is too large"),
        _ => error,
    }
}

impl NewImage for NewLuks {
    fn allocation_unit(&self) -> usize {
        UNIT
    }

    fn zero_unit(&self) -> usize {
        UNIT
    }

    fn starts_as_zeroes(&self) -> bool {
        false
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        _chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        let mut reservation = Reservation::empty(guest);
        // Only whole sectors inside the disk are encrypted.
        let Some(size) = self.size else {
            return Err(Error::invalid(
                "A detached LUKS header holds no disk: create it, and convert into the file that it is for with -n",
            ));
        };
        let end = size.next_multiple_of(SECTOR_SIZE);
        let left = usize::try_from(end.saturating_sub(guest.0)).unwrap_or(usize::MAX);
        let mut all: Vec<&Run> = runs.iter().chain(zeroes).collect();
        all.sort_unstable_by_key(|run| run.start);
        for run in all {
            let mut part = Reservation::empty(guest);
            let run = run.start.min(left)..run.end.min(left);
            let host = HostOffset(self.payload + guest.0 + run.start as u64);
            part.pieces.push((run, host));
            reservation.append(part, 0);
        }
        Ok(reservation)
    }

    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        reservation.encrypt(&self.cipher, chunk)
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.file.as_ref(), chunk)
    }

    fn writes_serially(&self) -> bool {
        self.file.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let (mark, rest) = self.header.split_at(MARK.min(self.header.len()));
        self.file.write_at(MARK as u64, rest)?;
        write_header_last(self.file.as_ref(), mark, self.flush)
    }
}
