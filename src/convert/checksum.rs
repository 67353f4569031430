//! The checksum of a disk: workers read (and decrypt, and decompress), and hash in turns.

use std::num::NonZeroUsize;

use super::buffer::Buffer;
use super::chunks::Chunk;
use super::digest::{Algorithm, Digest};
use super::in_order::InOrder;
use super::scan::{Step, scan};
use super::{Observer, read_chunk};
use crate::error::{Error, Result};
use crate::formats::Image;

/// The checksum of all bytes of `disk`.
///
/// # Errors
/// The first error of reading, saying where.
pub fn checksum(
    disk: &dyn Image,
    algorithm: Algorithm,
    workers: NonZeroUsize,
    observer: &dyn Observer,
) -> Result<Digest> {
    let hash = Hash {
        disk,
        in_order: InOrder::new(Some(algorithm), observer),
    };
    scan(disk, disk.size(), workers, observer, &hash)?;
    let digest = hash.in_order.finish(Some(disk.size()));
    digest.ok_or_else(|| Error::invalid("no checksum was computed"))
}

struct Hash<'a> {
    disk: &'a dyn Image,
    in_order: InOrder<'a>,
}

impl Step for Hash<'_> {
    fn step(&self, chunk: &Chunk, [buffer, _]: &mut [Buffer; 2]) -> Result<bool> {
        let data = buffer.get(chunk.length);
        read_chunk(self.disk, chunk, data)?;
        let done = self
            .in_order
            .take(chunk.number, chunk.guest, data, Vec::new());
        Ok(done.is_some())
    }

    fn stop(&self) {
        self.in_order.stop();
    }
}
