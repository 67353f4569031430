//! A new streamOptimized image, in VMware's layout.
//!
//! Every grain is compressed, and follows a marker with its guest sector. Each grain table follows its last grain.
//! The grain directory is at the end, followed by a copy of the header with its place, the footer. So a reader can
//! take the file from a pipe. QEMU writes the tables at the front instead, which some importers refuse.
//!
//! All threads compress grains, and space is allocated in guest order. So the file is the same for any number of
//! threads.
//!
//! A grain that doesn't get smaller must be a zlib stream nevertheless, which is longer than the grain. It stays
//! uncompressed in the chunk, and is converted to a stream when it is written. Its piece begins after the marker and
//! the headers of the stream. It is recognised by that offset, which isn't a multiple of 512.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use byteorder::{ByteOrder as _, LittleEndian};

use super::grains::MARKER_LENGTH;
use super::new_sparse::{DESCRIPTOR, DESCRIPTOR_LENGTH, GRAIN, GRAIN_ENTRIES, MOST_SECTORS, TABLE};
use super::sparse_header::{self, AT_END, DEFLATE, SparseHeader, flag};
use crate::error::{Error, Result};
use crate::formats::codec::{Codec, compress, stored_length, write_stored};
use crate::formats::compress_units::compress_units;
use crate::formats::fields::u32_le;
use crate::formats::new_image::write_header_last;
use crate::formats::reservation::compression_mismatch;
use crate::formats::{Backed, CompressedChunk, NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_LEN, SECTOR_SIZE};

/// The length of a grain in bytes.
const GRAIN_LENGTH: usize = 64 << 10;
/// The largest length of a compressed stream in bytes, so that it and its marker take fewer sectors than a grain.
const MOST_STREAM: usize = GRAIN_LENGTH - SECTOR_LEN - MARKER_LENGTH;
/// The number of bytes before the data of an uncompressed grain: the marker, and the first headers of the stream.
const BEFORE_STORED: u64 = MARKER_LENGTH as u64 + 7;

/// The entry of a grain of zeroes.
const ZERO_GRAIN: u32 = 1;

/// The types of metadata markers.
pub(super) mod marker {
    pub(in crate::formats::vmdk) const TABLE: u32 = 1;
    pub(in crate::formats::vmdk) const DIRECTORY: u32 = 2;
    pub(in crate::formats::vmdk) const FOOTER: u32 = 3;
}

/// A new image.
pub(super) struct NewStream {
    file: Arc<dyn Storage>,
    header: SparseHeader,
    text: Vec<u8>,
    /// The size of the backing file's disk in bytes, if there is one.
    backing_size: Option<u64>,
    flush: bool,
    space: Mutex<StreamSpace>,
}

/// The end of the file, and the grain tables.
#[derive(Debug)]
struct StreamSpace {
    /// The next sector.
    next: u64,
    /// The sector of each grain table, or 0 if it isn't allocated.
    directory: Vec<u32>,
    /// The index of the grain table that has grains and isn't written yet.
    table: usize,
    /// The entries of that table.
    entries: Vec<u32>,
}

impl NewStream {
    /// Starts an image with this header in `file`. `backing_size` is the size of the backing file's disk in bytes, if
    /// there is one.
    ///
    /// # Errors
    /// Returns an error if the file is a device.
    pub(super) fn create(
        file: Arc<dyn Storage>,
        header: SparseHeader,
        text: Vec<u8>,
        backing_size: Option<u64>,
        flush: bool,
    ) -> Result<Self> {
        if !file.starts_as_zeroes() {
            return Err(Error::unsupported(
                "a streamOptimized image ends where its file does, which a device doesn't",
            ));
        }
        let tables = usize::try_from(header.tables()).unwrap_or(usize::MAX);
        let space = StreamSpace {
            next: GRAIN,
            directory: vec![0; tables],
            table: 0,
            entries: vec![0; GRAIN_ENTRIES as usize],
        };
        Ok(Self {
            file,
            header,
            text,
            backing_size,
            flush,
            space: Mutex::new(space),
        })
    }

    /// Returns true if an entry can mark a grain as zero.
    fn stores_zeroes(&self) -> bool {
        self.header.flags & flag::ZERO_GRAINS != 0
    }
}

/// Returns the header of a new image of `size` bytes.
pub(super) fn header(size: u64, zero_grains: bool) -> SparseHeader {
    let zero_flag = if zero_grains { flag::ZERO_GRAINS } else { 0 };
    SparseHeader {
        version: 3,
        flags: flag::LINE_ENDS | flag::COMPRESSED | flag::MARKERS | zero_flag,
        capacity: size.div_ceil(SECTOR_SIZE),
        grain: GRAIN,
        descriptor: DESCRIPTOR,
        descriptor_length: DESCRIPTOR_LENGTH,
        grain_entries: GRAIN_ENTRIES,
        second_directory: 0,
        directory: AT_END,
        overhead: GRAIN,
        compression: DEFLATE,
    }
}

impl StreamSpace {
    /// Allocates sectors for `bytes` bytes at the end.
    fn take(&mut self, bytes: usize) -> Result<u32> {
        let sector = u32::try_from(self.next)
            .map_err(|_| Error::unsupported("an extent of a VMDK image has at most 2 TiB"))?;
        self.next += (bytes as u64).div_ceil(SECTOR_SIZE);
        Ok(sector)
    }

    /// Allocates space for a grain. Adds the previous grain table to `metadata` if it is complete.
    fn place(
        &mut self,
        grain: u64,
        bytes: usize,
        metadata: &mut Vec<(HostOffset, Vec<u8>)>,
    ) -> Result<u64> {
        self.go_to(grain, metadata)?;
        let sector = self.take(bytes)?;
        self.enter(grain, sector)?;
        Ok(u64::from(sector) * SECTOR_SIZE)
    }

    /// Completes the previous grain table if a grain is in another one.
    fn go_to(&mut self, grain: u64, metadata: &mut Vec<(HostOffset, Vec<u8>)>) -> Result<()> {
        let table = usize::try_from(grain / u64::from(GRAIN_ENTRIES)).unwrap_or(usize::MAX);
        if table != self.table {
            metadata.extend(self.end_table()?);
            self.table = table;
        }
        Ok(())
    }

    /// Sets the entry of a grain in the current grain table.
    fn enter(&mut self, grain: u64, value: u32) -> Result<()> {
        let index = usize::try_from(grain % u64::from(GRAIN_ENTRIES)).unwrap_or(usize::MAX);
        let entry = self.entries.get_mut(index);
        *entry.ok_or_else(|| Error::invalid("a grain without an entry"))? = value;
        Ok(())
    }

    /// Completes the grain table. Returns its host offset and its bytes with their marker, or `None` if it has no
    /// grains.
    fn end_table(&mut self) -> Result<Option<(HostOffset, Vec<u8>)>> {
        if self.entries.iter().all(|entry| *entry == 0) {
            return Ok(None);
        }
        let mut bytes = marker_of(TABLE, marker::TABLE).to_vec();
        bytes.extend(self.entries.iter().flat_map(|entry| entry.to_le_bytes()));
        let sector = self.take(bytes.len())?;
        let place = self.directory.get_mut(self.table);
        *place.ok_or_else(|| Error::invalid("a grain beyond the end of the disk"))? = sector + 1;
        self.entries.fill(0);
        Ok(Some((HostOffset(u64::from(sector) * SECTOR_SIZE), bytes)))
    }
}

/// Returns a marker before `sectors` sectors of metadata.
pub(super) fn marker_of(sectors: u64, kind: u32) -> [u8; SECTOR_LEN] {
    let mut bytes = [0; SECTOR_LEN];
    LittleEndian::write_u64(&mut bytes, sectors);
    if let Some(field) = bytes.get_mut(MARKER_LENGTH..) {
        LittleEndian::write_u32(field, kind);
    }
    bytes
}

thread_local! {
    /// The zlib stream of an uncompressed grain.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::default();
}

/// Returns the marker before a grain.
fn grain_marker(sector: u64, stream: usize) -> [u8; MARKER_LENGTH] {
    let mut bytes = [0; MARKER_LENGTH];
    LittleEndian::write_u64(&mut bytes, sector);
    if let Some(field) = bytes.get_mut(8..) {
        LittleEndian::write_u32(field, u32::try_from(stream).unwrap_or(u32::MAX));
    }
    bytes
}

fn foreign() -> Error {
    Error::invalid("a run isn't whole grains")
}

const _: () = assert!(GRAIN_LENGTH as u64 == GRAIN * SECTOR_SIZE);

impl NewImage for NewStream {
    fn allocation_unit(&self) -> usize {
        GRAIN_LENGTH
    }

    fn zero_unit(&self) -> usize {
        GRAIN_LENGTH
    }

    fn starts_as_zeroes(&self) -> bool {
        self.backing_size.is_none()
    }

    fn backed(&self) -> Option<Backed> {
        self.backing_size.map(|size| Backed {
            size,
            unit: GRAIN_LENGTH,
            copies_ends: true,
        })
    }

    /// Returns the size of a buffer for a compressed grain, and about the same for the encoder.
    fn memory_to_write(&self) -> usize {
        4 * GRAIN_LENGTH
    }

    fn compresses(&self) -> bool {
        true
    }

    /// Puts each grain after its marker. The marker has the grain's sector relative to the chunk, to which
    /// [`encode`](Self::encode) adds the chunk's.
    fn compress(&self, chunk: &mut [u8], runs: &[Run], zeroes: &[Run]) -> Result<CompressedChunk> {
        let grains = |runs: &[Run]| -> Vec<usize> {
            let starts = runs
                .iter()
                .flat_map(|run| run.clone().step_by(GRAIN_LENGTH));
            starts.collect()
        };
        let mut starts = grains(runs);
        if !self.stores_zeroes() {
            starts.extend(grains(zeroes));
            starts.sort_unstable();
        }
        let starts = starts.into_iter();
        let parts = compress_units(chunk, GRAIN_LENGTH, starts, |start, grain, stream| {
            let compressed = compress(Codec::Zlib, grain, MOST_STREAM, stream)?;
            if compressed {
                let marker = grain_marker(start as u64 / SECTOR_SIZE, stream.len());
                stream.splice(..0, marker);
                stream.resize(stream.len().next_multiple_of(SECTOR_LEN), 0);
            }
            Ok(compressed)
        })?;
        let zeroes = match self.stores_zeroes() {
            true => zeroes.to_vec(),
            false => Vec::new(),
        };
        Ok(CompressedChunk { parts, zeroes })
    }

    fn reserve_compressed(
        &self,
        guest: GuestOffset,
        compressed: &CompressedChunk,
    ) -> Result<Reservation> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reservation = Reservation::empty(guest);
        let zeroes = compressed.zeroes.iter();
        let mut zeroes = zeroes
            .flat_map(|run| run.clone().step_by(GRAIN_LENGTH))
            .peekable();
        let grain_at = |start: usize| (guest.0 + start as u64) / GRAIN_LENGTH as u64;
        for part in &compressed.parts {
            while let Some(start) = zeroes.next_if(|start| *start < part.start) {
                space.go_to(grain_at(start), &mut reservation.metadata)?;
                space.enter(grain_at(start), ZERO_GRAIN)?;
            }
            let at = guest.0 + part.start as u64;
            let grain = at / GRAIN_LENGTH as u64;
            let stream = stored_length(GRAIN_LENGTH);
            let bytes = match part.compressed {
                true => part.stored.len(),
                false => MARKER_LENGTH + stream,
            };
            let host = space.place(grain, bytes, &mut reservation.metadata)?;
            let before = if part.compressed { 0 } else { BEFORE_STORED };
            if !part.compressed {
                let marker = grain_marker(at / SECTOR_SIZE, stream).to_vec();
                reservation.metadata.push((HostOffset(host), marker));
            }
            let piece = (part.stored.clone(), HostOffset(host + before));
            reservation.pieces.push(piece);
        }
        for start in zeroes {
            space.go_to(grain_at(start), &mut reservation.metadata)?;
            space.enter(grain_at(start), ZERO_GRAIN)?;
        }
        Ok(reservation)
    }

    fn reserve(
        &self,
        _guest: GuestOffset,
        _chunk: usize,
        _runs: &[Run],
        _zeroes: &[Run],
    ) -> Result<Reservation> {
        Err(compression_mismatch())
    }

    /// Adds the chunk's sector to that in each marker.
    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        let first = reservation.guest.0 / SECTOR_SIZE;
        for (run, host) in &reservation.pieces {
            if !host.0.is_multiple_of(SECTOR_SIZE) {
                continue;
            }
            let mut rest = chunk.get_mut(run.clone()).ok_or_else(foreign)?;
            while let Some((marker, _)) = rest.split_first_chunk_mut::<MARKER_LENGTH>() {
                let sector = LittleEndian::read_u64(marker) + first;
                LittleEndian::write_u64(marker, sector);
                let stream = u32_le(marker, 8);
                let used = MARKER_LENGTH + stream as usize;
                let next = used.next_multiple_of(SECTOR_LEN);
                rest = rest.get_mut(next..).ok_or_else(foreign)?;
            }
        }
        Ok(())
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        for (run, host) in &reservation.pieces {
            let data = chunk.get(run.clone()).ok_or_else(foreign)?;
            if host.0.is_multiple_of(SECTOR_SIZE) {
                self.file.write_at(host.0, data)?;
                continue;
            }
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.clear();
                write_stored(data, scratch);
                let end = MARKER_LENGTH + scratch.len();
                scratch.resize(end.next_multiple_of(SECTOR_LEN) - MARKER_LENGTH, 0);
                let start = host.0 - BEFORE_STORED + MARKER_LENGTH as u64;
                self.file.write_at(start, scratch)
            })?;
        }
        self.write_metadata(reservation)
    }

    fn writes_serially(&self) -> bool {
        self.file.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn write_metadata(&self, reservation: &Reservation) -> Result<()> {
        reservation.write_metadata(self.file.as_ref())
    }

    fn finish(&self) -> Result<()> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((host, bytes)) = space.end_table()? {
            self.file.write_at(host.0, &bytes)?;
        }
        let mut directory: Vec<u8> = space
            .directory
            .iter()
            .flat_map(|sector| sector.to_le_bytes())
            .collect();
        directory.resize(directory.len().next_multiple_of(SECTOR_LEN), 0);
        let sectors = directory.len() as u64 / SECTOR_SIZE;
        let start = space.next;
        let footer = SparseHeader {
            directory: start + 1,
            ..self.header
        };
        if start + sectors >= MOST_SECTORS {
            return Err(Error::unsupported(
                "an extent of a VMDK image has at most 2 TiB",
            ));
        }
        let end = [
            &marker_of(sectors, marker::DIRECTORY)[..],
            &directory,
            &marker_of(1, marker::FOOTER),
            &footer.encode(),
            &[0; SECTOR_LEN],
        ];
        let end = end.concat();
        self.file.set_len(start * SECTOR_SIZE + end.len() as u64)?;
        self.file.write_at(start * SECTOR_SIZE, &end)?;
        self.file.write_at(DESCRIPTOR * SECTOR_SIZE, &self.text)?;
        debug_assert_eq!(self.header.encode().len(), sparse_header::LENGTH);
        write_header_last(self.file.as_ref(), &self.header.encode(), self.flush)
    }
}
