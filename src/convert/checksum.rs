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
        observer,
        in_order: InOrder::new(Some(algorithm), observer),
    };
    let size = disk.size();
    observer.progress(0, size);
    scan(disk, size, false, workers, &hash)?;
    observer.progress(size, size);
    let digest = hash.in_order.finish(Some(size));
    digest.ok_or_else(|| Error::invalid("no checksum was computed"))
}

struct Hash<'a> {
    disk: &'a dyn Image,
    observer: &'a dyn Observer,
    in_order: InOrder<'a>,
}

impl Step for Hash<'_> {
    fn step(&self, chunk: &Chunk, [buffer, _]: &mut [Buffer; 2], read: &dyn Fn()) -> Result<bool> {
        let data = buffer.get(chunk.length);
        read_chunk(self.disk, chunk, data)?;
        read();
        let done = self
            .in_order
            .take(chunk.number, chunk.guest, data, Vec::new());
        let (end, size) = (chunk.guest.0 + chunk.length as u64, self.disk.size());
        self.observer.progress(end.min(size), size);
        Ok(done.is_some())
    }

    fn stop(&self) {
        self.in_order.stop();
    }
}
