//! A new image, laid out front to back from its known final size.
//!
//! ```text
//! header | L1 table | data … L2 tables … data … L2 tables | refcount blocks | refcount table
//! ```
//!
//! - The header cluster and the L1 table have fixed places, since size and options say how big they
//!   are. Data clusters follow in guest order; the L2 tables of a chunk of data stand right behind
//!   it, so that a chunk is one write and its tables another, even with the smallest clusters.
//! - In a new image everything is used exactly once. All refcounts are 1, so the refcount blocks
//!   follow from the number of clusters alone and are generated at the end, and every L1 and L2
//!   entry has the COPIED flag.
//! - The header is written last, after all that it points to (and, where the caller wants the image
//!   on stable storage, after that has been flushed). Until then the file starts with zeroes and no
//!   program takes it for a qcow2 image, however the conversion was ended.
//!
//! Memory: the L1 table (at most 32 MiB, and that for disks of petabytes), one L2 table, and what
//! the reservations carry.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use super::entries::{L1Entry, L2Entry};
use super::extensions;
use super::features;
use super::geometry::{ENTRY_SIZE, Geometry, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES};
use super::header::{CompressionType, EncryptionMethod, MAGIC, V2_LENGTH, V3_LENGTH, Version};
use crate::crypto::AesCbc;
use crate::error::{Error, Result};
use crate::formats::{NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// Refcounts are 16 bits wide in the images that this version writes.
const REFCOUNT_ORDER: u32 = 4;
/// How much of the refcount blocks is written at a time, in bytes.
const WRITE_SIZE: usize = 1 << 20;
/// The cluster sizes that can be asked for, in bytes.
pub const CLUSTER_SIZES: RangeInclusive<u64> = 512..=2 << 20;

/// What a new image is to be like.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The size of the virtual disk in bytes; rounded up to a multiple of 512.
    pub size: u64,
    /// The format's version.
    pub version: Version,
    /// The cluster size in bytes: a power of two of [`CLUSTER_SIZES`].
    pub cluster_size: u64,
    /// Whether refcounts may be updated late (version 3 only).
    pub lazy_refcounts: bool,
    /// How compressed clusters will be compressed (anything but zlib: version 3 only).
    pub compression: CompressionType,
    /// How the guest's data is encrypted.
    pub encryption: EncryptionMethod,
}

impl CreateOptions {
    /// A version 3 image with QEMU's defaults: 64 KiB clusters, not encrypted.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            version: Version::V3,
            cluster_size: 65536,
            lazy_refcounts: false,
            compression: CompressionType::Zlib,
            encryption: EncryptionMethod::None,
        }
    }

    /// The geometry that these options give; nothing is written.
    ///
    /// # Errors
    /// Options that are out of range or exclude each other, worded as `qemu-img` words it.
    pub fn check(&self) -> Result<Geometry> {
        let bits = self.cluster_size.trailing_zeros();
        let geometry = Geometry::new(bits, false, REFCOUNT_ORDER)
            .filter(|geometry| geometry.cluster_size() == self.cluster_size)
            .ok_or_else(|| {
                Error::invalid("Cluster size must be a power of two between 512 and 2048k")
            })?;
        if self.version == Version::V2 {
            if self.lazy_refcounts {
                return Err(Error::invalid(
                    "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                     version=v3 or greater)",
                ));
            }
            if self.compression != CompressionType::Zlib {
                return Err(Error::invalid(
                    "Non-zlib compression type is only supported with compatibility level 1.1 and \
                     above (use version=v3 or greater)",
                ));
            }
        }
        if geometry.l1_entries(self.size) > MAX_L1_BYTES / ENTRY_SIZE {
            return Err(Error::invalid(
                "The image size is too large for file format 'qcow2' (try using a larger cluster \
                 size)",
            ));
        }
        Ok(geometry)
    }
}

/// A qcow2 image being written.
pub struct NewQcow2 {
    storage: Arc<dyn Storage>,
    options: CreateOptions,
    geometry: Geometry,
    cipher: Option<AesCbc>,
    flush: bool,
    layout: Mutex<Layout>,
}

/// Where the next cluster goes, and the tables that are not complete yet.
#[derive(Debug)]
struct Layout {
    next: HostOffset,
    l1: Vec<L1Entry>,
    l1_host: HostOffset,
    /// The L2 table that reservations are filling: its index in the L1 table and its entries as
    /// they will be stored.
    filling: Option<(u64, Vec<u8>)>,
}

impl NewQcow2 {
    /// Starts a new image in `storage`, which must be empty. `cipher` encrypts the data where the
    /// options say that it is encrypted. `flush` says whether [`NewImage::finish`] puts everything
    /// on stable storage, in the order that a power cut can't hurt.
    ///
    /// # Errors
    /// As [`CreateOptions::check`]; an encryption method other than the legacy AES; the system's.
    pub fn create(
        storage: Arc<dyn Storage>,
        options: CreateOptions,
        cipher: Option<AesCbc>,
        flush: bool,
    ) -> Result<Self> {
        let geometry = options.check()?;
        match (options.encryption, &cipher) {
            (EncryptionMethod::None, None) | (EncryptionMethod::Aes, Some(_)) => {}
            (EncryptionMethod::Aes | EncryptionMethod::Luks, None) => {
                return Err(super::missing_secret());
            }
            (EncryptionMethod::None | EncryptionMethod::Luks, Some(_)) => {
                return Err(Error::unsupported(
                    "this version can encrypt with 'aes' only",
                ));
            }
        }
        let entries = geometry.l1_entries(options.size);
        let l1_clusters = geometry.clusters(entries * ENTRY_SIZE);
        // A disk of no bytes has no L1 table, and so no place for one.
        let l1_host = HostOffset(if entries == 0 {
            0
        } else {
            geometry.cluster_size()
        });
        let l1 = usize::try_from(entries).map_err(|_| Error::invalid("L1 table too large"))?;
        let layout = Layout {
            next: HostOffset((1 + l1_clusters) * geometry.cluster_size()),
            l1: vec![L1Entry::default(); l1],
            l1_host,
            filling: None,
        };
        Ok(Self {
            storage,
            options,
            geometry,
            cipher,
            flush,
            layout: Mutex::new(layout),
        })
    }

    /// The runs of a chunk, widened to whole clusters and joined where they touch.
    fn clusters_of(&self, chunk: usize, runs: &[Run]) -> Vec<Run> {
        let size = self.geometry.cluster_len();
        let mut clusters: Vec<Run> = Vec::new();
        for run in runs {
            let start = run.start / size * size;
            // The disk's last cluster may be longer than the chunk.
            let end = run.end.next_multiple_of(size).min(chunk);
            match clusters.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => clusters.push(start..end),
            }
        }
        clusters
    }

    fn write_header(&self, l1: HostOffset, refcounts: &RefcountLayout) -> Result<()> {
        let header = self.header_bytes(l1, refcounts)?;
        self.storage.write_at(0, &header)
    }

    /// The header, field by field as the specification lists them.
    fn header_bytes(&self, l1: HostOffset, refcounts: &RefcountLayout) -> Result<Vec<u8>> {
        let options = &self.options;
        let too_big = |_| Error::invalid("header field out of range");
        let l1_entries = u32::try_from(self.geometry.l1_entries(options.size)).map_err(too_big)?;
        let table_clusters = u32::try_from(refcounts.table_clusters).map_err(too_big)?;
        let crypt_method: u32 = match options.encryption {
            EncryptionMethod::None => 0,
            EncryptionMethod::Aes => 1,
            EncryptionMethod::Luks => 2,
        };
        let version: u32 = match options.version {
            Version::V2 => 2,
            Version::V3 => 3,
        };
        let mut header = Vec::with_capacity(512);
        header.extend(MAGIC);
        header.extend(version.to_be_bytes());
        header.extend(0u64.to_be_bytes()); // backing file offset
        header.extend(0u32.to_be_bytes()); // backing file name length
        header.extend(self.geometry.cluster_bits().to_be_bytes());
        header.extend(options.size.next_multiple_of(SECTOR_SIZE).to_be_bytes());
        header.extend(crypt_method.to_be_bytes());
        header.extend(l1_entries.to_be_bytes());
        header.extend(l1.0.to_be_bytes());
        header.extend(refcounts.table.0.to_be_bytes());
        header.extend(table_clusters.to_be_bytes());
        header.extend(0u32.to_be_bytes()); // number of snapshots
        header.extend(0u64.to_be_bytes()); // snapshot table offset
        debug_assert_eq!(header.len(), V2_LENGTH as usize);
        if options.version == Version::V3 {
            let zstd = options.compression == CompressionType::Zstd;
            let incompatible = if zstd { features::COMPRESSION } else { 0 };
            let compatible = if options.lazy_refcounts {
                features::LAZY_REFCOUNTS
            } else {
                0
            };
            header.extend(incompatible.to_be_bytes());
            header.extend(compatible.to_be_bytes());
            header.extend(0u64.to_be_bytes()); // autoclear features
            header.extend(REFCOUNT_ORDER.to_be_bytes());
            header.extend(V3_LENGTH.to_be_bytes());
            header.push(u8::from(zstd));
            header.extend([0; 7]);
            debug_assert_eq!(header.len(), V3_LENGTH as usize);
            let names = features::name_table();
            extensions::append(&mut header, extensions::FEATURE_NAMES, &names);
        }
        extensions::append(&mut header, extensions::END, &[]);
        Ok(header)
    }
}

impl Layout {
    fn allocate(&mut self, bytes: u64) -> Result<HostOffset> {
        let start = self.next;
        let end = start.0.checked_add(bytes);
        // 2^56: what an L2 entry's offset can hold.
        let end = end.filter(|end| *end < 1 << 56);
        self.next = HostOffset(end.ok_or_else(|| Error::invalid("the image's file is too big"))?);
        Ok(start)
    }

    /// Gives the L2 table that was being filled its place, behind `written`, the tables that go
    /// before it; returns where those start.
    fn place_filling(&mut self, written: &mut Option<(HostOffset, Vec<u8>)>) -> Result<()> {
        let Some((l1_index, table)) = self.filling.take() else {
            return Ok(());
        };
        let host = self.allocate(table.len() as u64)?;
        let index = usize::try_from(l1_index).unwrap_or(usize::MAX);
        let entry = self.l1.get_mut(index);
        *entry.ok_or_else(|| Error::invalid("guest offset beyond the disk's end"))? =
            L1Entry::to_table(host);
        match written {
            Some((_, tables)) => tables.extend(table),
            None => *written = Some((host, table)),
        }
        Ok(())
    }
}

impl NewImage for NewQcow2 {
    fn allocation_unit(&self) -> usize {
        self.geometry.cluster_len()
    }

    fn zero_unit(&self) -> usize {
        match self.cipher {
            // All of a cluster is ciphertext, or none of it.
            Some(_) => self.geometry.cluster_len(),
            None => self.geometry.cluster_len().min(4096),
        }
    }

    fn starts_as_zeroes(&self) -> bool {
        true
    }

    fn reserve(&self, guest: GuestOffset, chunk: usize, runs: &[Run]) -> Result<Reservation> {
        let clusters = self.clusters_of(chunk, runs);
        let size = self.geometry.cluster_len();
        let count: usize = clusters.iter().map(|run| run.len().div_ceil(size)).sum();

        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut host = layout.allocate(count as u64 * self.geometry.cluster_size())?;
        let mut pieces = Vec::with_capacity(clusters.len());
        let mut metadata = None;
        for run in &clusters {
            pieces.push((run.clone(), host));
            for start in run.clone().step_by(size) {
                let offset = GuestOffset(guest.0 + start as u64);
                let l1_index = self.geometry.l1_index(offset);
                if layout.filling.as_ref().map(|(index, _)| *index) != Some(l1_index) {
                    layout.place_filling(&mut metadata)?;
                    layout.filling = Some((l1_index, vec![0; size]));
                }
                let entry = L2Entry::to_data(host).0.to_be_bytes();
                let index = self.geometry.l2_index(offset);
                let slot = layout.filling.as_mut().and_then(|(_, table)| {
                    let (slots, _) = table.as_chunks_mut();
                    slots.get_mut(index)
                });
                *slot.ok_or_else(|| Error::invalid("L2 index out of range"))? = entry;
                host.0 += self.geometry.cluster_size();
            }
        }
        drop(layout);
        if self.cipher.is_none() {
            pieces = narrow(&pieces, runs);
        }
        Ok(Reservation {
            guest,
            pieces,
            metadata,
        })
    }

    fn write(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        for (run, host) in &reservation.pieces {
            let data = chunk
                .get_mut(run.clone())
                .ok_or_else(|| Error::invalid("reservation beyond its chunk"))?;
            if let Some(cipher) = &self.cipher {
                let guest = reservation.guest.0 + run.start as u64;
                cipher.encrypt(guest / SECTOR_SIZE, data);
            }
            self.storage.write_at(host.0, data)?;
        }
        if let Some((host, tables)) = &reservation.metadata {
            self.storage.write_at(host.0, tables)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = None;
        layout.place_filling(&mut table)?;
        if let Some((host, table)) = table {
            self.storage.write_at(host.0, &table)?;
        }
        let refcounts = RefcountLayout::new(self.geometry, layout.next)?;
        refcounts.write(self.storage.as_ref(), self.geometry)?;
        let l1: Vec<u8> = layout.l1.iter().flat_map(|e| e.0.to_be_bytes()).collect();
        if !l1.is_empty() {
            self.storage.write_at(layout.l1_host.0, &l1)?;
        }
        if self.flush {
            self.storage.flush()?;
        }
        self.write_header(layout.l1_host, &refcounts)?;
        if self.flush {
            self.storage.flush()?;
        }
        Ok(())
    }
}

/// Of `pieces` (whole clusters and their places), what `runs` say holds data: in a new file that
/// reads as zeroes, the rest needs no writing.
fn narrow(pieces: &[(Run, HostOffset)], runs: &[Run]) -> Vec<(Run, HostOffset)> {
    let mut pieces = pieces.iter();
    let mut piece = pieces.next();
    let mut narrowed = Vec::with_capacity(runs.len());
    for run in runs {
        while let Some((clusters, host)) = piece {
            if run.start < clusters.end {
                let within = (run.start - clusters.start) as u64;
                narrowed.push((run.clone(), HostOffset(host.0 + within)));
                break;
            }
            piece = pieces.next();
        }
    }
    narrowed
}

/// Where the refcount blocks and the table stand behind everything else, all of them counted too.
#[derive(Debug, PartialEq, Eq)]
struct RefcountLayout {
    blocks: HostOffset,
    block_count: u64,
    table: HostOffset,
    table_clusters: u64,
    /// How many clusters the file has in the end.
    total: u64,
}

impl RefcountLayout {
    /// The layout behind `used`, the end of everything else.
    fn new(geometry: Geometry, used: HostOffset) -> Result<Self> {
        let used_clusters = geometry.host_cluster(used);
        let (mut block_count, mut table_clusters) = (0, 0);
        // Both grow with the total, far more slowly than it does: this ends after a few rounds.
        loop {
            let total = used_clusters + block_count + table_clusters;
            let blocks = total.div_ceil(geometry.refcount_block_entries());
            let table = geometry.clusters(blocks * ENTRY_SIZE);
            if (blocks, table) == (block_count, table_clusters) {
                break;
            }
            (block_count, table_clusters) = (blocks, table);
        }
        if table_clusters * geometry.cluster_size() > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::invalid(
                "the image's file is too big for its cluster size: its refcount table would be \
                 larger than 8 MiB (try using a larger cluster size)",
            ));
        }
        let table = HostOffset(used.0 + block_count * geometry.cluster_size());
        Ok(Self {
            blocks: used,
            block_count,
            table,
            table_clusters,
            total: used_clusters + block_count + table_clusters,
        })
    }

    fn write(&self, storage: &dyn Storage, geometry: Geometry) -> Result<()> {
        const ONE: [u8; 2] = 1u16.to_be_bytes();
        let mut ones = usize::try_from(self.total * 2)
            .map_err(|_| Error::invalid("the image's file is too big"))?;
        let buffer = ONE.repeat(ones.min(WRITE_SIZE).div_ceil(2));
        let mut offset = self.blocks.0;
        while ones > 0 {
            let part = buffer.get(..ones.min(buffer.len())).unwrap_or(&buffer);
            storage.write_at(offset, part)?;
            offset += part.len() as u64;
            ones -= part.len();
        }
        let mut table = Vec::with_capacity(geometry.cluster_len());
        for block in 0..self.block_count {
            let host = self.blocks.0 + block * geometry.cluster_size();
            table.extend(host.to_be_bytes());
        }
        // The rest of the table is written too, so that the file ends with a whole cluster.
        let length = self.table_clusters * geometry.cluster_size();
        table.resize(usize::try_from(length).unwrap_or(table.len()), 0);
        storage.write_at(self.table.0, &table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_count_themselves() {
        let geometry = Geometry::new(16, false, 4).unwrap();
        let layout = RefcountLayout::new(geometry, HostOffset(3 << 16)).unwrap();
        assert_eq!(layout.block_count, 1);
        assert_eq!(layout.table, HostOffset(4 << 16));
        assert_eq!(layout.total, 5);
        // One cluster short of what a block counts: the block and the table need a second one.
        let layout = RefcountLayout::new(geometry, HostOffset(32767 << 16)).unwrap();
        assert_eq!((layout.block_count, layout.total), (2, 32770));
        // 512-byte clusters: blocks of 256 refcounts, tables of 64 entries.
        let geometry = Geometry::new(9, false, 4).unwrap();
        let layout = RefcountLayout::new(geometry, HostOffset(64 * 256 * 512)).unwrap();
        assert_eq!((layout.block_count, layout.table_clusters), (65, 2));
        assert!(RefcountLayout::new(geometry, HostOffset(1 << 40)).is_err());
    }

    #[test]
    fn runs_are_widened_for_allocation_and_narrowed_for_writing() {
        let pieces = [
            (0..2048, HostOffset(10_240)),
            (4096..5120, HostOffset(12_288)),
        ];
        let runs = [512..1024, 1536..2048, 4096..4608];
        assert_eq!(
            narrow(&pieces, &runs),
            [
                (512..1024, HostOffset(10_752)),
                (1536..2048, HostOffset(11_776)),
                (4096..4608, HostOffset(12_288)),
            ]
        );
    }
}
