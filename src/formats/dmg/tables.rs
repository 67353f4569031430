//! The tables of chunks, which are combined to one list in guest order.

use byteorder::{BigEndian, ByteOrder as _};

use super::property_list;
use super::trailer::Trailer;
use crate::error::{Error, Result};
use crate::formats::fields::{u32_be, u64_be};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The magic number of a table.
const MARK: &[u8; 4] = b"mish";
/// The length of a table's header in bytes.
const TABLE_HEADER: usize = 204;
/// The length of a chunk's entry in bytes.
const ENTRY: usize = 40;
/// The largest property list or resource fork in bytes.
const LONGEST_LIST: u64 = 16 << 20;
/// The largest number of sectors in a chunk that isn't zero.
const MOST_SECTORS: u64 = 131_072;
/// The largest number of stored bytes of a chunk.
const MOST_STORED: u64 = 64 << 20;

/// The encoding of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkKind {
    /// Zeroes, without stored bytes.
    Zero,
    /// Uncompressed bytes.
    Raw,
    /// Compressed with ADC.
    Adc,
    /// As a zlib stream.
    Zlib,
    /// As a bzip2 stream.
    Bzip2,
    /// As an LZFSE stream.
    Lzfse,
    /// As an xz stream.
    Xz,
    /// An encoding that isn't supported, with its number.
    Unknown(u32),
}

/// A run of the disk with the same encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DmgChunk {
    /// The encoding.
    pub(super) kind: ChunkKind,
    /// The guest offset in bytes.
    pub(super) start: u64,
    /// The length on the disk in bytes.
    pub(super) length: u64,
    /// The host offset in bytes.
    pub(super) host: u64,
    /// The length in the file in bytes.
    pub(super) stored: u64,
}

/// Reads all tables.
///
/// # Errors
/// Returns the system's error. Returns an error if a table is invalid, or if a disk that isn't empty has none.
pub(super) fn read_chunks(file: &dyn Storage, trailer: &Trailer) -> Result<Vec<DmgChunk>> {
    let part = |(start, length): (u64, u64)| {
        if length > LONGEST_LIST {
            return Err(Error::corrupt("the tables of the image are too long"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(start, &mut bytes, "the tables of the image")?;
        Ok(bytes)
    };
    let tables = match (trailer.resources.1, trailer.list.1) {
        (0, 0) => Vec::new(),
        (0, _) => property_list::tables(&part(trailer.list)?)?,
        _ => resources(&part(trailer.resources)?)?,
    };
    let mut chunks = Vec::new();
    for table in &tables {
        add_table(table, trailer, &mut chunks)?;
    }
    if chunks.is_empty() && trailer.size > 0 {
        return Err(Error::corrupt("the image has no tables for its disk"));
    }
    chunks.sort_by_key(|chunk| chunk.start);
    Ok(chunks)
}

/// Returns the resources of a fork, each of which is preceded by its length.
fn resources(fork: &[u8]) -> Result<Vec<Vec<u8>>> {
    let wrong = || Error::corrupt("the resource fork of the image is damaged");
    let number = |at: usize| {
        let field = fork.get(at..at.checked_add(4)?)?;
        usize::try_from(BigEndian::read_u32(field)).ok()
    };
    let start = number(0).ok_or_else(wrong)?;
    let length = number(8).filter(|length| *length > 0).ok_or_else(wrong)?;
    let end = start.checked_add(length).filter(|end| *end <= fork.len());
    let end = end.ok_or_else(wrong)?;
    let mut at = start;
    let mut found = Vec::new();
    while at < end {
        let length = number(at).filter(|length| *length > 0).ok_or_else(wrong)?;
        at += 4;
        let resource = at.checked_add(length).and_then(|end| fork.get(at..end));
        found.push(resource.ok_or_else(wrong)?.to_vec());
        at += length;
    }
    Ok(found)
}

fn add_table(table: &[u8], trailer: &Trailer, chunks: &mut Vec<DmgChunk>) -> Result<()> {
    // Resources of other types are skipped.
    if !table.starts_with(MARK) || table.len() < TABLE_HEADER + ENTRY {
        return Ok(());
    }
    let (first, data) = (u64_be(table, 8), u64_be(table, 24));
    let count = usize::try_from(u32_be(table, 200)).unwrap_or(usize::MAX);
    let entries = table.get(TABLE_HEADER..).unwrap_or_default();
    for (index, entry) in entries.chunks_exact(ENTRY).take(count).enumerate() {
        let kind = match u32_be(entry, 0) {
            0 | 2 => ChunkKind::Zero,
            1 => ChunkKind::Raw,
            // These are comments and the end of the table.
            0x7fff_fffe | 0xffff_ffff => continue,
            0x8000_0004 => ChunkKind::Adc,
            0x8000_0005 => ChunkKind::Zlib,
            0x8000_0006 => ChunkKind::Bzip2,
            0x8000_0007 => ChunkKind::Lzfse,
            0x8000_0008 => ChunkKind::Xz,
            other => ChunkKind::Unknown(other),
        };
        let [sector, sectors, offset, stored] = [8, 16, 24, 32].map(|at| u64_be(entry, at));
        if kind != ChunkKind::Zero && sectors > MOST_SECTORS {
            return Err(Error::corrupt(format!(
                "sector count {sectors} for chunk {index} is larger than max ({MOST_SECTORS})"
            )));
        }
        if kind != ChunkKind::Zero && stored > MOST_STORED {
            return Err(Error::corrupt(format!(
                "length {stored} for chunk {index} is larger than max ({MOST_STORED})"
            )));
        }
        let wrong = || Error::corrupt(format!("chunk {index} of a table is in no possible place"));
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR_SIZE);
        let start = first
            .checked_add(sector)
            .and_then(bytes)
            .ok_or_else(wrong)?;
        let length = bytes(sectors).ok_or_else(wrong)?;
        start.checked_add(length).ok_or_else(wrong)?;
        let host = trailer.data.checked_add(data);
        let host = host.and_then(|host| host.checked_add(offset));
        let chunk = DmgChunk {
            kind,
            start,
            length,
            host: match kind {
                ChunkKind::Zero => 0,
                _ => host.ok_or_else(wrong)?,
            },
            stored,
        };
        if length > 0 {
            chunks.push(chunk);
        }
    }
    Ok(())
}
