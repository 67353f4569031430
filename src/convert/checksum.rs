//! The checksum of a disk. Workers read, decrypt and decompress in parallel, and hash one after the other.

use std::num::NonZeroUsize;

use super::buffer::Buffer;
use super::chunks::Chunk;
use super::digest::{Algorithm, Digest};
use super::parallel_read::{ReadStep, parallel_read};
use super::reading::read_chunk;
use super::sequential::SequentialStage;
use super::settings::Observer;
use crate::error::{Error, Result};
use crate::formats::Image;

/// Returns the checksum of all bytes of `disk`.
///
/// # Errors
/// Returns the first error of reading, with its offset.
pub fn checksum(
    disk: &dyn Image,
    algorithm: Algorithm,
    workers: NonZeroUsize,
    observer: &dyn Observer,
) -> Result<Digest> {
    let hash = Hash {
        disk,
        observer,
        sequential: SequentialStage::new(Some(algorithm), observer),
    };
    let size = disk.size();
    observer.progress(0, size);
    parallel_read(disk, size, false, workers, &hash)?;
    observer.progress(size, size);
    let digest = hash.sequential.finish(Some(size));
    digest.ok_or_else(|| Error::invalid("no checksum was computed"))
}

struct Hash<'a> {
    disk: &'a dyn Image,
    observer: &'a dyn Observer,
    sequential: SequentialStage<'a>,
}

impl ReadStep for Hash<'_> {
    fn step(&self, chunk: &Chunk, [buffer, _]: &mut [Buffer; 2], read: &dyn Fn()) -> Result<bool> {
        self.observer.go_on()?;
        let data = buffer.get(chunk.length);
        read_chunk(self.disk, chunk, data)?;
        read();
        let done = self
            .sequential
            .take(chunk.number, chunk.guest, data, Vec::new());
        let (end, size) = (chunk.guest.0 + chunk.length as u64, self.disk.size());
        self.observer.progress(end.min(size), size);
        Ok(done.is_some())
    }

    fn stop(&self) {
        self.sequential.stop();
    }
}
