//! The space reserved for a chunk's data in a new image, and the writing of that data.

use super::Run;
use super::encryption::Cipher;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// A chunk's data after [`NewImage::compress`](super::NewImage::compress): the stored bytes, in guest order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressedChunk {
    /// The allocation units that are stored.
    pub parts: Vec<ChunkPart>,
    /// The other parts that read as zeroes, for an image with a backing file: whole units, in bytes from the chunk's
    /// start.
    pub zeroes: Vec<Run>,
}

/// The data of one allocation unit after compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPart {
    /// The unit's start in the chunk before compression, in bytes from the chunk's start.
    pub start: usize,
    /// The range of the unit's stored bytes in the chunk's buffer.
    pub stored: Run,
    /// True if it is compressed. Otherwise compression wouldn't make it smaller, and it is stored unchanged.
    pub compressed: bool,
}

/// The space that [`NewImage::reserve`](super::NewImage::reserve) reserved for a chunk.
#[derive(Debug)]
pub struct Reservation {
    /// The chunk's guest offset.
    pub guest: GuestOffset,
    /// The runs of the chunk's buffer, and the host offset to which each is written.
    pub pieces: Vec<(Run, HostOffset)>,
    /// The metadata that became complete with this reservation, and its host offset.
    pub metadata: Vec<(HostOffset, Vec<u8>)>,
}

impl Reservation {
    /// Returns a reservation of no space for the chunk at `guest`.
    pub fn empty(guest: GuestOffset) -> Self {
        Self {
            guest,
            pieces: Vec::new(),
            metadata: Vec::new(),
        }
    }

    /// Appends the reservation of a later part of the chunk, which begins `start` bytes after the chunk's start.
    /// Joins runs that are contiguous both in the buffer and in the file.
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

    /// Returns the number of bytes of data in the reservation.
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

/// Appends metadata, and joins it with the last run if it directly follows that in the file.
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

/// Returns the error for an image that gets compressed data and doesn't compress, or the reverse.
pub(super) fn compression_mismatch() -> Error {
    Error::invalid("data is compressed for images that take it so, and for no other")
}

fn foreign() -> Error {
    Error::invalid("the reservation is for another chunk")
}
