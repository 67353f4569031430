//! Room for one chunk's data in a new image, and how the data gets there.

use super::Run;
use super::encryption::Cipher;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// A chunk's data after [`NewImage::pack`](super::NewImage::pack): the bytes that are stored, in guest order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Each allocation unit that is stored.
    pub parts: Vec<PackedPart>,
    /// The parts of the rest that read as zeroes, for an image with a backing file: whole units, in bytes
    /// from the chunk's start.
    pub zeroes: Vec<Run>,
}

/// One allocation unit's data after packing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPart {
    /// Its place in the chunk before packing, in bytes from the chunk's start.
    pub start: usize,
    /// Its place in the chunk's buffer now, as it is to be stored.
    pub stored: Run,
    /// True if it is compressed; otherwise it couldn't be made smaller and is as it was.
    pub compressed: bool,
}

/// The room that [`NewImage::reserve`](super::NewImage::reserve) hands out.
#[derive(Debug)]
pub struct Reservation {
    /// The chunk's place on the virtual disk.
    pub guest: GuestOffset,
    /// The runs of the chunk's buffer, and the offset in the file to which each is written.
    pub pieces: Vec<(Run, HostOffset)>,
    /// Metadata that became complete with this reservation, and where it goes.
    pub metadata: Vec<(HostOffset, Vec<u8>)>,
}

impl Reservation {
    /// Makes room for nothing, in a chunk at `guest`.
    pub fn empty(guest: GuestOffset) -> Self {
        Self {
            guest,
            pieces: Vec::new(),
            metadata: Vec::new(),
        }
    }

    /// Adds the room for a later part of the chunk, whose pieces start `start` bytes further on in the
    /// chunk's buffer than they say. A run that is one in the buffer and in the file is one piece.
    pub fn append(&mut self, part: Self, start: usize) {
        for (run, host) in part.pieces {
            let run = run.start + start..run.end + start;
            match self.pieces.last_mut() {
                Some((last, first))
                    if last.end == run.start && first.0 + last.len() as u64 == host.0 =>
                {
                    last.end = run.end;
                }
                _ => self.pieces.push((run, host)),
            }
        }
        for (host, bytes) in part.metadata {
            add_metadata(&mut self.metadata, host, bytes);
        }
    }

    /// Returns the number of bytes of data that it is for.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|(run, _)| run.len() as u64).sum()
    }

    /// Encrypts the pieces of `chunk` in place.
    ///
    /// # Errors
    /// Returns an error if the reservation is for another chunk.
    pub fn encrypt(&self, cipher: &Cipher, chunk: &mut [u8]) -> Result<()> {
        for (run, host) in &self.pieces {
            let data = chunk.get_mut(run.clone()).ok_or_else(foreign)?;
            let guest = GuestOffset(self.guest.0 + run.start as u64);
            cipher.encrypt(guest, *host, data);
        }
        Ok(())
    }

    /// Writes the pieces of `chunk`.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn write_data(&self, storage: &dyn Storage, chunk: &[u8]) -> Result<()> {
        for (run, host) in &self.pieces {
            let data = chunk.get(run.clone()).ok_or_else(foreign)?;
            storage.write_at(host.0, data)?;
        }
        Ok(())
    }

    /// Writes the metadata, if there is any.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn write_metadata(&self, storage: &dyn Storage) -> Result<()> {
        self.metadata
            .iter()
            .try_for_each(|(host, tables)| storage.write_at(host.0, tables))
    }
}

/// Adds a run of metadata, to the last one where that ends at its place.
pub(super) fn add_metadata(
    metadata: &mut Vec<(HostOffset, Vec<u8>)>,
    host: HostOffset,
    bytes: Vec<u8>,
) {
    match metadata.last_mut() {
        Some((last, tables)) if last.0 + tables.len() as u64 == host.0 => tables.extend(bytes),
        _ => metadata.push((host, bytes)),
    }
}

/// Returns the error for data that is to be stored in the other of the two ways.
pub(super) fn not_packed() -> Error {
    Error::invalid("data is packed for images that compress, and for no other")
}

fn foreign() -> Error {
    Error::invalid("the reservation is for another chunk")
}
