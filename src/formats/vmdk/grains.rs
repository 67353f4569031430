//! The tables of a sparse extent: a grain directory, whose entries point to grain tables, whose entries point to
//! grains.
//!
//! Three formats of extents have such tables. They differ in the size and the encoding of an entry. The grain
//! directory is small, and is read as a whole when the image is opened. Of the grain tables only those that were used
//! recently, and changed ones that aren't stored yet, are in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::formats::block_map::{Block, BlockTable};
use crate::formats::codec::{self, Codec};
use crate::formats::fields::u32_le;
use crate::storage::Storage;
use crate::units::{HostOffset, SECTOR_SIZE};

/// The number of unchanged grain tables in memory: 2 MiB of tables with 512 entries.
const MOST_CLEAN: usize = 1024;
/// The length of the marker before a compressed grain, in bytes: the grain's guest sector, and the length of the
/// stream.
pub(super) const MARKER_LENGTH: usize = 12;
/// The number of bytes by which a compressed grain may exceed the limit of QEMU, which is twice the length of a
/// grain.
const MOST_LONGER: u64 = 4096;

/// The layout of an extent: the places of its tables, and the encoding of their entries. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GrainLayout {
    /// The size of the extent's part of the disk in bytes, a multiple of 512.
    pub(super) size: u64,
    /// The length of a grain in bytes, a multiple of 512.
    pub(super) grain: u64,
    /// The number of entries in a grain table.
    pub(super) entries: u64,
    /// The offset of the grain directory.
    pub(super) directory: u64,
    /// The offset of the second grain directory, which has its own copies of the grain tables.
    pub(super) second_directory: Option<u64>,
    pub(super) kind: EntryKind,
    /// The offset of the header's field with the first free sector, if it has one.
    pub(super) next_free: Option<u64>,
}

/// The encoding of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// 32-bit sector numbers.
    Sectors {
        /// True if an entry of 1 marks a grain of zeroes.
        has_zero: bool,
        is_compressed: bool,
        /// True if each grain has a marker before it.
        has_markers: bool,
    },
    /// 64-bit indexes of grain tables and of grains, relative to these offsets.
    SeSparse { tables: u64, grains: u64 },
}

impl GrainLayout {
    /// Returns the number of grain tables.
    pub(super) fn tables(&self) -> u64 {
        self.size.div_ceil(self.grain.saturating_mul(self.entries))
    }

    /// Returns the number of grains.
    pub(super) fn grains(&self) -> u64 {
        self.size.div_ceil(self.grain)
    }

    /// Returns the length of an entry in bytes.
    pub(super) fn entry_length(&self) -> u64 {
        match self.kind {
            EntryKind::Sectors { .. } => 4,
            EntryKind::SeSparse { .. } => 8,
        }
    }

    /// Returns the length of a grain table in bytes.
    pub(super) fn table_length(&self) -> u64 {
        self.entries * self.entry_length()
    }

    /// Returns true if the grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(
            self.kind,
            EntryKind::Sectors {
                is_compressed: true,
                ..
            }
        )
    }
}

/// The tables of an extent.
pub(super) struct GrainMap {
    pub(super) file: Arc<dyn Storage>,
    pub(super) layout: GrainLayout,
    /// The length of the file when it was opened, in bytes.
    length: u64,
    pub(super) state: Mutex<GrainTableState>,
}

/// The grain directory, and the grain tables in memory.
#[derive(Debug, Default)]
pub(super) struct GrainTableState {
    /// The offset of each grain table in bytes, or 0 if it isn't allocated.
    pub(super) directory: Vec<u64>,
    /// The grain tables in memory, by their indexes.
    pub(super) loaded: HashMap<u64, GrainTable>,
    /// The same for the second grain directory, if there is one and the extent is written to.
    pub(super) second: Vec<u64>,
    /// True if a grain table was added to the directories.
    pub(super) has_new_tables: bool,
    /// The number of tables that have changed and aren't stored.
    pub(super) changed: usize,
    /// The offset of the next new grain in bytes, if the extent is written to.
    pub(super) end: u64,
    /// The end of the allocated space in bytes, or 0 if nothing was allocated.
    pub(super) handed_out: u64,
    /// True if flushes reach stable storage.
    pub(super) flushes: bool,
}

/// A grain table in memory.
#[derive(Debug)]
pub(super) struct GrainTable {
    pub(super) bytes: Vec<u8>,
    pub(super) is_changed: bool,
}

/// An entry of a grain table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// Not allocated.
    Absent,
    /// Reads as zeroes.
    Zero,
    /// At this offset of the file, in bytes.
    At(u64),
}

impl GrainMap {
    /// Reads the grain directory of the extent in `file`.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the grain directory isn't inside the file or is invalid.
    pub(super) fn open(file: Arc<dyn Storage>, layout: GrainLayout) -> Result<Self> {
        let length = file.len()?;
        let directory = read_directory(file.as_ref(), &layout, layout.directory, length)?;
        Ok(Self {
            file,
            layout,
            length,
            state: Mutex::new(GrainTableState {
                directory,
                ..GrainTableState::default()
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, GrainTableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the length of the file in bytes, including what has been allocated since it was opened.
    pub(super) fn file_length(&self, state: &GrainTableState) -> u64 {
        self.length.max(state.handed_out)
    }

    /// Returns the entry of a grain without checking its offset.
    ///
    /// # Errors
    /// Returns an error if its grain table can't be read, or if the entry has an unknown type.
    pub(super) fn entry(&self, state: &mut GrainTableState, grain: u64) -> Result<Grain> {
        let table = grain / self.layout.entries;
        let Some(table) = self.table(state, table)? else {
            return Ok(Grain::Absent);
        };
        let at = usize::try_from(grain % self.layout.entries).unwrap_or(usize::MAX);
        let lost = || Error::invalid("a grain table is too short");
        match self.layout.kind {
            EntryKind::Sectors { has_zero, .. } => {
                let (entries, _) = table.bytes.as_chunks::<4>();
                let entry = u32::from_le_bytes(*entries.get(at).ok_or_else(lost)?);
                Ok(match entry {
                    0 => Grain::Absent,
                    1 if has_zero => Grain::Zero,
                    sector => Grain::At(u64::from(sector) * SECTOR_SIZE),
                })
            }
            EntryKind::SeSparse { grains, .. } => {
                let (entries, _) = table.bytes.as_chunks::<8>();
                let entry = u64::from_le_bytes(*entries.get(at).ok_or_else(lost)?);
                se_sparse_grain(entry, grains, self.layout.grain).ok_or_else(|| {
                    Error::corrupt(format!("grain {grain} of the disk has entry {entry:#x}"))
                })
            }
        }
    }

    /// Returns the grain table with an index, or `None` if it isn't allocated.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if there is no grain table with that index, or if it is beyond
    /// the end of the file.
    pub(super) fn table<'s>(
        &self,
        state: &'s mut GrainTableState,
        table: u64,
    ) -> Result<Option<&'s mut GrainTable>> {
        let index = usize::try_from(table).unwrap_or(usize::MAX);
        let Some(place) = state.directory.get(index).copied() else {
            return Err(Error::invalid(format!("there is no grain table {table}")));
        };
        if !state.loaded.contains_key(&table) {
            if place == 0 {
                return Ok(None);
            }
            let length = self.layout.table_length();
            if place.saturating_add(length) > self.file_length(state) {
                return Err(Error::corrupt(format!(
                    "grain table {table} at offset {place:#x} is beyond the end of the file"
                )));
            }
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            self.file
                .read_exact_at(place, &mut bytes, "a grain table")?;
            if state.loaded.len() >= MOST_CLEAN {
                state.loaded.retain(|_, table| table.is_changed);
            }
            let is_changed = false;
            state.loaded.insert(table, GrainTable { bytes, is_changed });
        }
        Ok(state.loaded.get_mut(&table))
    }

    /// Returns the smallest number of bytes that the file must have for an allocated grain. That is its length, for
    /// the disk's last grain the part inside the disk, and for a compressed grain 1.
    pub(super) fn stored_length(&self, grain: u64) -> u64 {
        match self.layout.is_compressed() {
            true => 1,
            false => {
                let rest = self.layout.size.saturating_sub(grain * self.layout.grain);
                rest.min(self.layout.grain)
            }
        }
    }

    /// Returns an upper limit of the length of a compressed grain at `host`: the distance to the next one, if that is
    /// known.
    fn compressed_length(&self, state: &mut GrainTableState, grain: u64, host: u64) -> Result<u64> {
        let most = (2 * self.layout.grain + MOST_LONGER).min(self.file_length(state) - host);
        let is_last = (grain + 1).is_multiple_of(self.layout.entries);
        if is_last || grain + 1 >= self.layout.grains() {
            return Ok(most);
        }
        Ok(match self.entry(state, grain + 1)? {
            Grain::At(next) if next > host => most.min(next - host),
            _ => most,
        })
    }
}

impl BlockTable for GrainMap {
    fn size(&self) -> u64 {
        self.layout.size
    }

    fn block_size(&self) -> u64 {
        self.layout.grain
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        let mut state = self.lock();
        let host = match self.entry(&mut state, block)? {
            Grain::Absent => return Ok(Block::Absent),
            Grain::Zero => return Ok(Block::Zero),
            Grain::At(host) => host,
        };
        // The first sector has the header.
        if host < SECTOR_SIZE || host >= self.file_length(&state) {
            return Err(Error::corrupt(format!(
                "grain {block} of the disk is at offset {host:#x}, where the file has none"
            )));
        }
        if !self.layout.is_compressed() {
            return Ok(Block::At(HostOffset(host)));
        }
        let length = self.compressed_length(&mut state, block, host)?;
        Ok(Block::Compressed {
            host: HostOffset(host),
            length,
        })
    }

    fn stores_zeroes(&self) -> bool {
        matches!(self.layout.kind, EntryKind::Sectors { has_zero: true, .. })
    }

    fn set_zero(&self, block: u64) -> Result<()> {
        self.enter_zero(block)
    }

    fn decompress(&self, compressed: &[u8], block: &mut [u8]) -> Result<()> {
        let EntryKind::Sectors { has_markers, .. } = self.layout.kind else {
            return Err(Error::invalid("the extent has no compressed grains"));
        };
        let stream = match has_markers {
            true => stream_of(compressed)?,
            false => compressed,
        };
        let produced = codec::decompress_whole(Codec::Zlib, stream, block)
            .map_err(|why| Error::corrupt(format!("a compressed grain is damaged: {why}")))?;
        // The disk's last grain may be truncated at the disk's end.
        let last = self.layout.size % self.layout.grain;
        let rest = block.get_mut(produced..).unwrap_or_default();
        if !rest.is_empty() && produced as u64 != last {
            return Err(Error::corrupt(format!(
                "a compressed grain has only {produced} bytes"
            )));
        }
        rest.fill(0);
        Ok(())
    }
}

/// Returns the compressed stream after a marker.
fn stream_of(compressed: &[u8]) -> Result<&[u8]> {
    let short = || Error::corrupt("a compressed grain is cut off");
    let (marker, rest) = compressed
        .split_at_checked(MARKER_LENGTH)
        .ok_or_else(short)?;
    let length = u32_le(marker, 8);
    let length = usize::try_from(length).ok().filter(|length| *length > 0);
    rest.get(..length.ok_or_else(short)?).ok_or_else(short)
}

/// Decodes an entry of an SEsparse grain table. Its highest four bits are the type, and the index of the grain is
/// stored in two parts.
fn se_sparse_grain(entry: u64, grains: u64, length: u64) -> Option<Grain> {
    match entry >> 60 {
        0 if entry == 0 => Some(Grain::Absent),
        1 | 2 => Some(Grain::Zero),
        3 => {
            let index = (entry & 0xffff_ffff_ffff) << 12 | entry >> 48 & 0xfff;
            let offset = index.checked_mul(length)?;
            Some(Grain::At(grains.checked_add(offset)?))
        }
        _ => None,
    }
}

/// Reads a grain directory: the offset of each grain table in bytes.
///
/// # Errors
/// Returns the system's error. Returns an error if the grain directory isn't inside the file or is invalid.
pub(super) fn read_directory(
    file: &dyn Storage,
    layout: &GrainLayout,
    start: u64,
    length: u64,
) -> Result<Vec<u64>> {
    let tables = layout.tables();
    let bytes = tables.saturating_mul(layout.entry_length());
    // The memory for the directory is limited by the length of the file.
    if start.saturating_add(bytes) > length {
        return Err(Error::corrupt(format!(
            "the grain directory at offset {start:#x} ({bytes} bytes) is cut off by the end of the file"
        )));
    }
    let mut stored = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_exact_at(start, &mut stored, "the grain directory")?;
    Ok(match layout.kind {
        EntryKind::Sectors { .. } => {
            let (entries, _) = stored.as_chunks::<4>();
            let sectors = entries.iter().map(|entry| u32::from_le_bytes(*entry));
            sectors
                .map(|sector| u64::from(sector) * SECTOR_SIZE)
                .collect()
        }
        EntryKind::SeSparse { tables, .. } => {
            let (entries, _) = stored.as_chunks::<8>();
            let entries = entries.iter().map(|entry| u64::from_le_bytes(*entry));
            let places: Result<_> = entries
                .map(|entry| match (entry >> 32, entry & 0xffff_ffff) {
                    _ if entry == 0 => Ok(0),
                    (0x1000_0000, index) => {
                        Ok(tables.saturating_add(index * layout.table_length()))
                    }
                    _ => Err(Error::corrupt(format!(
                        "an entry of the grain directory is {entry:#x}"
                    ))),
                })
                .collect();
            places?
        }
    })
}
