//! Reading the guest's data from an image.
//!
//! Opening for reading changes nothing. A dirty image is read without a repair, since outdated refcounts don't affect
//! its L1 and L2 tables. An image that this version can't read correctly is refused with the reason, and never read
//! as zeroes or ciphertext.
//!
//! - [`tables`]: reading L1 and L2 tables, with a bounded cache;
//! - [`cluster`]: conversion of stored clusters to the guest's data;
//! - [`joined`]: reading several adjacent compressed clusters with one request;
//! - [`mod@preallocated`]: the heuristic for files with holes in allocated clusters.

pub(super) mod cluster;
mod joined;
mod preallocated;
pub mod tables;

use std::sync::Arc;

use self::cluster::ClusterReader;
use self::preallocated::Preallocated;
use self::tables::Tables;
use super::entries::L2Table;
use super::geometry::Geometry;
use super::header::Header;
use super::header::features;
use crate::error::{Error, Result};
use crate::formats::encryption::Cipher;
use crate::formats::status::Holes;
use crate::formats::{Extent, ExtentKind, Image, Status, check_range};
use crate::storage::Storage;
use crate::units::{GuestOffset, SECTOR_SIZE};

/// A qcow2 image open for reading, without its backing file.
pub struct Qcow2Image {
    clusters: ClusterReader,
    geometry: Geometry,
    size: u64,
    tables: Tables,
    preallocated: Preallocated,
    /// The data ranges of the file with the guest's data.
    holes: Holes,
    /// The length of the file with the guest's data at the time of opening, in bytes.
    length: u64,
}

/// The inputs with which an image is opened for reading.
#[derive(Default)]
pub struct ReadOptions {
    /// The cipher of its data, if and only if the image is encrypted.
    pub cipher: Option<Cipher>,
    /// The external data file, if and only if the image has one.
    pub data: Option<Arc<dyn Storage>>,
    /// True if a truncated L1 table is an error only when a missing entry is needed.
    pub salvage: bool,
}

impl Qcow2Image {
    /// Opens the image with this header, which has no external data file. `cipher` decrypts its data; it is `None` if
    /// the image isn't encrypted.
    ///
    /// # Errors
    /// Returns an error as [`open_with`](Self::open_with) does.
    pub fn open(storage: Arc<dyn Storage>, header: Header, cipher: Option<Cipher>) -> Result<Self> {
        let options = ReadOptions {
            cipher,
            ..ReadOptions::default()
        };
        Self::open_with(storage, &header, options)
    }

    /// Opens the image with this header.
    ///
    /// # Errors
    /// Returns an error if there is a cipher and the image isn't encrypted, or the reverse. Returns an error if the
    /// same applies to the external data file, or if the L1 table can't be read.
    pub fn open_with(
        storage: Arc<dyn Storage>,
        header: &Header,
        options: ReadOptions,
    ) -> Result<Self> {
        let ReadOptions {
            cipher,
            data,
            salvage,
        } = options;
        if data.is_some() != header.has_incompatible(features::DATA_FILE) {
            return Err(Error::invalid(match data {
                None => "'data-file' is required for this image",
                Some(_) => "'data-file' can only be set for images with an external data file",
            }));
        }
        if cipher.is_some() != header.encryption().is_some() {
            return Err(super::missing_secret());
        }
        let data = data.unwrap_or_else(|| Arc::clone(&storage));
        let length = data.len()?;
        Ok(Self {
            preallocated: Preallocated::new(Arc::clone(&storage), header),
            holes: Holes::default(),
            tables: Tables::open(storage, header, salvage)?,
            clusters: ClusterReader::new(data, header, cipher),
            geometry: header.geometry(),
            size: header.size(),
            length,
        })
    }

    /// Returns the same image as a backing file `depth` images below another. The deeper it is, the fewer tables its
    /// cache holds.
    #[must_use]
    pub fn at_depth(mut self, depth: usize) -> Self {
        self.tables.share_memory(depth);
        self
    }

    /// Returns the way in which the guest's data is stored from `guest` on, and the number of bytes up to a change.
    fn part(&self, table: &L2Table, guest: GuestOffset) -> Result<(ExtentKind, u64)> {
        let slot = table.get(self.geometry.l2_index(guest));
        let slot = slot.ok_or_else(|| self.clusters.bad_entry(guest, &"beyond the L2 table"))?;
        self.clusters.part(slot, guest, self.length)
    }

    /// Returns the number of bytes after the cluster of `offset` that are stored in the same way, up to `end` or the
    /// end of its cluster. It covers only entries that are equal except for the step between clusters, which is much
    /// faster than decoding each.
    fn repeated(&self, table: &L2Table, offset: GuestOffset, kind: ExtentKind, end: u64) -> u64 {
        let cluster = self.geometry.cluster_size();
        let step = match kind {
            ExtentKind::Encoded => return 0,
            kind => kind.host().map_or(0, |_| cluster),
        };
        let start = offset.0 - self.geometry.within_cluster(offset.0);
        let wanted = end.saturating_sub(start + 1) / cluster;
        let most = match kind {
            // Every cluster must start inside the file.
            ExtentKind::Data(host) => {
                let host = host.0 - self.geometry.within_cluster(host.0);
                wanted.min(self.length.saturating_sub(host + 1) / cluster)
            }
            _ => wanted,
        };
        table.repeats(self.geometry.l2_index(offset), step, most) * cluster
    }

    /// Returns the extent of [`Image::extent_at`], extended over the following L2 tables as long as the data is
    /// contiguous in the file. With small clusters this makes one read of many.
    fn long_extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let mut extent = self.extent_at(offset, limit)?;
        if !matches!(extent.kind, ExtentKind::Data(_)) {
            return Ok(extent);
        }
        while extent.length < limit {
            let next = GuestOffset(offset.0 + extent.length);
            let after = self.extent_at(next, limit - extent.length)?;
            if after.kind != extent.kind.after(extent.length) {
                break;
            }
            extent.length += after.length;
        }
        Ok(extent)
    }

    /// Reads as [`ClusterReader::read_joined`] does, if `guest` is the start of a cluster and `buf` is long enough.
    fn read_joined(&self, guest: GuestOffset, buf: &mut [u8]) -> Result<usize> {
        if self.geometry.within_cluster(guest.0) != 0 || buf.len() < 2 * self.geometry.cluster_len()
        {
            return Ok(0);
        }
        match self.tables.l2(self.geometry.l1_index(guest))? {
            Some(table) => self.clusters.read_joined(&table, guest, self.length, buf),
            None => Ok(0),
        }
    }

    /// Returns the length in bytes of an extent without an L2 table. It extends over all following missing tables.
    fn unallocated(&self, offset: GuestOffset, end: u64) -> Result<u64> {
        let mut l1_index = self.geometry.l1_index(offset) + 1;
        loop {
            let start = self.geometry.guest_start_of_l1(l1_index).0;
            if start >= end {
                return Ok(end - offset.0);
            }
            if self.tables.l2_place(l1_index)?.is_some() {
                return Ok(start - offset.0);
            }
            l1_index += 1;
        }
    }
}

impl Image for Qcow2Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let end = self.size.min(offset.0.saturating_add(limit.max(1)));
        let extent = |length, kind| Extent {
            start: offset,
            length,
            kind,
            depth: 0,
        };
        let Some(table) = self.tables.l2(self.geometry.l1_index(offset))? else {
            let length = self.unallocated(offset, end)?;
            return Ok(extent(length, ExtentKind::Unallocated { kept: None }));
        };
        let (kind, mut length) = self.part(&table, offset)?;
        let next_table = self.geometry.l1_index(offset) + 1;
        let end_here = end.min(self.geometry.guest_start_of_l1(next_table).0);
        length += self.repeated(&table, offset, kind, end_here);
        // A compressed cluster is an extent of its own.
        while kind != ExtentKind::Encoded && offset.0 + length < end_here {
            // An invalid entry ends the extent, and is reported when it is read.
            match self.part(&table, GuestOffset(offset.0 + length)) {
                Ok((next, more)) if next == kind.after(length) => length += more,
                _ => break,
            }
        }
        Ok(extent(length.min(end - offset.0), kind))
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        let extent = self.extent_at(offset, limit)?;
        let mut status = Status::of(&extent, self.plain_storage().is_some());
        if let (true, Some(host)) = (status.data, status.offset)
            && self.preallocated.looks_preallocated()
        {
            let (is_hole, length) = self.holes.at(self.clusters.storage(), host.0)?;
            status.zero = is_hole;
            status.length = status.length.min(length);
        }
        // QEMU reports no offset for a zero cluster at host offset 0, although that is valid in an external data
        // file.
        let cluster = self.geometry.cluster_size();
        if status.zero
            && !status.data
            && !self.geometry.has_subclusters()
            && let Some(host) = status.offset.filter(|host| host.0 < cluster)
        {
            status.offset = None;
            status.length = status.length.min(cluster - host.0);
        }
        Ok(status)
    }

    fn status_step(&self) -> u64 {
        self.geometry.qemu_slice_coverage(self.size)
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.clusters.plain_storage()
    }

    /// Returns the size of the buffers for a compressed cluster and its decompressed data.
    fn memory_to_read(&self) -> usize {
        2 * self.clusters.geometry().cluster_len()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        if !offset.0.is_multiple_of(SECTOR_SIZE) || !(buf.len() as u64).is_multiple_of(SECTOR_SIZE)
        {
            return Err(Error::invalid(format!(
                "reading {:#x} bytes at {offset}: not whole sectors",
                buf.len()
            )));
        }
        let mut guest = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let extent = self.long_extent_at(guest, rest.len() as u64)?;
            if extent.kind == ExtentKind::Encoded {
                let joined = self.read_joined(guest, rest)?;
                if joined > 0 {
                    guest.0 += joined as u64;
                    rest = rest.get_mut(joined..).unwrap_or_default();
                    continue;
                }
            }
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
            let (part, after) = rest
                .split_at_mut_checked(length)
                .ok_or_else(|| Error::invalid("extent longer than asked for"))?;
            match extent.kind {
                ExtentKind::Data(host) => {
                    self.clusters.read_data(guest, host, self.length, part)?
                }
                ExtentKind::Encoded => {
                    let table = self.tables.l2(self.geometry.l1_index(guest))?;
                    let slot = table.and_then(|table| table.get(self.geometry.l2_index(guest)));
                    let slot = slot.unwrap_or_default();
                    self.clusters
                        .read_compressed(slot, guest, self.length, part)?;
                }
                ExtentKind::Zero { .. } | ExtentKind::Unallocated { .. } => part.fill(0),
            }
            guest.0 += extent.length;
            rest = after;
        }
        Ok(())
    }
}
