//! Reading the disk of an image, chunk by chunk.
//!
//! A chunk is longer than a typical read, so the most recently decoded ones are cached.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use super::adc;
use super::lzfse;
use super::tables::{ChunkKind, DmgChunk};
use crate::error::{Error, Result};
use crate::formats::codec::{Codec, decompress_whole};
use crate::formats::{Extent, ExtentKind, Image, check_range};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// The largest number of decoded chunks in the cache. Few chunks are longer than 1 MiB.
const MOST_KEPT: usize = 8;
/// The largest number of bytes in the cache, without the most recent chunk.
const MOST_KEPT_BYTES: usize = 64 << 20;

/// The largest memory of an xz decoder in KiB. A chunk has at most 64 MiB, so that a larger dictionary would be
/// useless.
const MOST_XZ_MEMORY: u32 = 66 << 10;

/// A disk open for reading.
pub(super) struct DmgImage {
    file: Arc<dyn Storage>,
    size: u64,
    /// The chunks, sorted by their start.
    chunks: Arc<Vec<DmgChunk>>,
    /// Decoded chunks with their indexes, the most recent first.
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
}

impl DmgImage {
    /// Returns the disk of `size` bytes whose chunks are in `file`.
    pub(super) fn new(file: Arc<dyn Storage>, size: u64, chunks: Arc<Vec<DmgChunk>>) -> Self {
        Self {
            file,
            size,
            chunks,
            kept: Mutex::default(),
        }
    }

    /// Returns the chunk that holds a byte, with its index, or `None` for a gap. Also returns the number of bytes up
    /// to the end of either.
    fn at(&self, offset: u64) -> (Option<(usize, DmgChunk)>, u64) {
        let next = self.chunks.partition_point(|chunk| chunk.start <= offset);
        let end = self.chunks.get(next).map_or(self.size, |next| next.start);
        let end = end.min(self.size);
        let found = next
            .checked_sub(1)
            .and_then(|index| Some((index, *self.chunks.get(index)?)));
        match found {
            Some((index, chunk)) if offset < chunk.start + chunk.length => {
                let end = end.min(chunk.start + chunk.length);
                (Some((index, chunk)), end - offset)
            }
            _ => (None, end - offset),
        }
    }

    /// Returns the decoded bytes of a chunk.
    fn decoded(&self, index: usize, chunk: &DmgChunk) -> Result<Arc<Vec<u8>>> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = lock().iter().find(|(kept, _)| *kept == index) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.decode(chunk)?);
        let mut kept = lock();
        kept.push_front((index, Arc::clone(&bytes)));
        kept.truncate(MOST_KEPT);
        while kept.len() > 1
            && kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > MOST_KEPT_BYTES
        {
            kept.pop_back();
        }
        Ok(bytes)
    }

    fn decode(&self, chunk: &DmgChunk) -> Result<Vec<u8>> {
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or_default();
        let mut stored = vec![0; length(chunk.stored)];
        self.file
            .read_exact_at(chunk.host, &mut stored, "a chunk of the disk")?;
        let mut bytes = vec![0; length(chunk.length)];
        let is_whole = match chunk.kind {
            ChunkKind::Adc => adc::decode(&stored, &mut bytes).is_some(),
            ChunkKind::Zlib => {
                let yielded = decompress_whole(Codec::Zlib, &stored, &mut bytes);
                yielded.is_ok_and(|yielded| yielded == bytes.len())
            }
            ChunkKind::Bzip2 => {
                let decoder = bzip2::read::MultiBzDecoder::new(stored.as_slice());
                fills(decoder, &mut bytes)
            }
            ChunkKind::Lzfse => lzfse::decode(&stored, &mut bytes).is_some(),
            ChunkKind::Xz => {
                let decoder =
                    lzma_rust2::XzReader::new_mem_limit(stored.as_slice(), true, MOST_XZ_MEMORY);
                fills(decoder, &mut bytes)
            }
            ChunkKind::Unknown(kind) => {
                return Err(Error::unsupported(format!(
                    "a chunk of the disk is compressed in a way ({kind:x}) that this version doesn't read"
                )));
            }
            ChunkKind::Zero | ChunkKind::Raw => false,
        };
        if !is_whole {
            return Err(Error::corrupt(format!(
                "the chunk at offset {:#x} doesn't yield the {} bytes that it should",
                chunk.host, chunk.length
            )));
        }
        Ok(bytes)
    }
}

/// Fills a buffer from a decoder. Returns true if the decoder yields exactly as many bytes.
fn fills(mut decoder: impl Read, bytes: &mut [u8]) -> bool {
    // Another read detects a stream that yields too many bytes.
    decoder.read_exact(bytes).is_ok() && decoder.read(&mut [0]).is_ok_and(|more| more == 0)
}

impl Image for DmgImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let (chunk, length) = self.at(offset.0);
        let kind = match chunk {
            None => ExtentKind::Zero { kept: None },
            Some((_, chunk)) => match chunk.kind {
                ChunkKind::Zero => ExtentKind::Zero { kept: None },
                ChunkKind::Raw if chunk.stored == chunk.length => {
                    ExtentKind::Data(HostOffset(chunk.host + (offset.0 - chunk.start)))
                }
                _ => ExtentKind::Encoded,
            },
        };
        Ok(Extent {
            start: offset,
            length: length.min(limit),
            kind,
            depth: 0,
        })
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        Some(self.file.as_ref())
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let mut offset = offset.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let (chunk, length) = self.at(offset);
            let length = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (part, after) = rest.split_at_mut(length);
            match chunk {
                None => part.fill(0),
                Some((index, chunk)) => self.read_chunk(index, &chunk, offset, part)?,
            }
            offset += length as u64;
            rest = after;
        }
        Ok(())
    }
}

impl DmgImage {
    fn read_chunk(
        &self,
        index: usize,
        chunk: &DmgChunk,
        offset: u64,
        part: &mut [u8],
    ) -> Result<()> {
        let within = offset - chunk.start;
        match chunk.kind {
            ChunkKind::Zero => part.fill(0),
            ChunkKind::Raw if chunk.stored == chunk.length => {
                let host = chunk.host + within;
                self.file.read_exact_at(host, part, "a chunk of the disk")?;
            }
            _ => {
                let bytes = self.decoded(index, chunk)?;
                let within = usize::try_from(within).unwrap_or(usize::MAX);
                let found = bytes.get(within..).and_then(|rest| rest.get(..part.len()));
                let found =
                    found.ok_or_else(|| Error::corrupt("a chunk of the disk is too short"))?;
                part.copy_from_slice(found);
            }
        }
        Ok(())
    }
}
