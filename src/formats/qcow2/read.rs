//! The guest's data, out of an image open for reading.
//!
//! Opening for reading changes nothing: a dirty image is read as it is, since its L1 and L2 tables
//! are right whatever its refcounts are. What this version can't read correctly is refused, by
//! name and with its place, and never handed out as zeroes or ciphertext.
//!
//! A data cluster that starts at or beyond the end of the file is missing, and that is an error. One
//! that the end cuts through reads as zeroes from there on: QEMU writes such files, as it leaves
//! out trailing zeroes of the last cluster. It never does so with ciphertext, and missing
//! ciphertext stands for nothing, so in an encrypted image that is an error too.

use std::cell::RefCell;
use std::sync::Arc;

use super::compressed;
use super::entries::{
    EntryError, L2Entry, L2Table, L2Target, SUBCLUSTERS, Subcluster, SubclusterBitmap,
};
use super::features;
use super::geometry::Geometry;
use super::header::{CompressionType, EncryptionMethod, Header, Version};
use super::tables::Tables;
use crate::crypto::{AesCbc, Secret};
use crate::error::{Error, Result};
use crate::formats::{Extent, ExtentKind, Image, check_range};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// A qcow2 image open for reading, without its backing file.
pub struct Qcow2Image {
    /// Where the guest's data is: the image's own file, or its external data file.
    data: Arc<dyn Storage>,
    external: bool,
    geometry: Geometry,
    size: u64,
    zero_flag: bool,
    compression: CompressionType,
    tables: Tables,
    cipher: Option<AesCbc>,
    /// The length of `data` when it was opened, in bytes.
    length: u64,
}

impl Qcow2Image {
    /// Opens the image that `header` was read from, which has no external data file. `cipher`
    /// decrypts its data; `None` when the image isn't encrypted.
    ///
    /// # Errors
    /// An encrypted image without a cipher (or the other way round); one with an external data file;
    /// an L1 table that can't be read.
    pub fn open(storage: Arc<dyn Storage>, header: Header, cipher: Option<AesCbc>) -> Result<Self> {
        if header.has_incompatible(features::DATA_FILE) {
            return Err(Error::invalid("'data-file' is required for this image"));
        }
        Self::open_parts(Arc::clone(&storage), storage, header, cipher)
    }

    /// As [`open`](Self::open), with `data` as the image's external data file.
    ///
    /// # Errors
    /// As [`open`](Self::open); an image that has no external data file.
    pub fn open_with_data(
        storage: Arc<dyn Storage>,
        data: Arc<dyn Storage>,
        header: Header,
        cipher: Option<AesCbc>,
    ) -> Result<Self> {
        if !header.has_incompatible(features::DATA_FILE) {
            return Err(Error::invalid(
                "'data-file' can only be set for images with an external data file",
            ));
        }
        Self::open_parts(storage, data, header, cipher)
    }

    /// Opens the image with what it takes: its external data file where it has one, and the password
    /// where it is encrypted.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`open_with_data`](Self::open_with_data).
    pub fn open_with(
        storage: Arc<dyn Storage>,
        data: Option<Arc<dyn Storage>>,
        header: Header,
        secret: Option<&Secret>,
    ) -> Result<Self> {
        let cipher = super::reading_cipher(&header, secret)?;
        match data {
            None => Self::open(storage, header, cipher),
            Some(data) => Self::open_with_data(storage, data, header, cipher),
        }
    }

    fn open_parts(
        storage: Arc<dyn Storage>,
        data: Arc<dyn Storage>,
        header: Header,
        cipher: Option<AesCbc>,
    ) -> Result<Self> {
        if cipher.is_some() != (header.encryption() != EncryptionMethod::None) {
            return Err(super::missing_secret());
        }
        let length = data.len()?;
        Ok(Self {
            tables: Tables::open(storage, &header)?,
            data,
            external: header.has_incompatible(features::DATA_FILE),
            geometry: header.geometry(),
            size: header.size(),
            zero_flag: header.version() == Version::V3,
            compression: header.compression(),
            cipher,
            length,
        })
    }

    fn target(&self, entry: L2Entry, guest: GuestOffset) -> Result<L2Target> {
        let target = if self.external {
            entry.target_in_data_file(self.geometry, self.zero_flag)
        } else {
            entry.target(self.geometry, self.zero_flag)
        };
        target.map_err(|why| self.bad_entry(guest, &why))
    }

    fn bad_entry(&self, guest: GuestOffset, why: &dyn std::fmt::Display) -> Error {
        Error::corrupt(format!(
            "L2 entry {} of L1 entry {} (guest offset {guest}) is invalid: {why}",
            self.geometry.l2_index(guest),
            self.geometry.l1_index(guest),
        ))
    }

    /// How the guest's data is stored from `guest` on, and for how many bytes: to the end of the
    /// cluster, or of the run of subclusters that are stored in the same way.
    fn part(&self, table: &L2Table, guest: GuestOffset) -> Result<(ExtentKind, u64)> {
        let (entry, bitmap) = table
            .get(self.geometry.l2_index(guest))
            .ok_or_else(|| self.bad_entry(guest, &"beyond the L2 table"))?;
        let target = self.target(entry, guest)?;
        let within = self.geometry.within_cluster(guest.0);
        let rest = self.geometry.cluster_size() - within;
        match (target, bitmap) {
            (L2Target::Compressed(_), _) if self.external => Err(self.bad_entry(
                guest,
                &"a compressed cluster can't be in an external data file",
            )),
            (L2Target::Compressed(range), _) => {
                self.check_start(guest, range.host, "compressed cluster")?;
                Ok((ExtentKind::Encoded, rest))
            }
            (_, Some(bitmap)) => self.subclusters(target, bitmap, guest),
            (L2Target::Unallocated, None) => Ok((ExtentKind::Unallocated { kept: None }, rest)),
            (L2Target::Zero { kept }, None) => {
                let kept = kept.map(|(host, _)| HostOffset(host.0 + within));
                Ok((ExtentKind::Zero { kept }, rest))
            }
            (L2Target::Data { host, .. }, None) => {
                self.check_start(guest, host, "cluster")?;
                Ok((ExtentKind::Data(HostOffset(host.0 + within)), rest))
            }
        }
    }

    /// As [`part`](Self::part), for a cluster with subclusters.
    fn subclusters(
        &self,
        target: L2Target,
        bitmap: SubclusterBitmap,
        guest: GuestOffset,
    ) -> Result<(ExtentKind, u64)> {
        let within = self.geometry.within_cluster(guest.0);
        let first = self.geometry.subcluster_index(guest);
        let state = |number| {
            bitmap
                .get(number)
                .map_err(|why| self.bad_entry(guest, &why))
        };
        let kind = state(first)?;
        let same = |number: &u32| state(*number).ok() == Some(kind);
        let count = (first..SUBCLUSTERS).take_while(same).count() as u64;
        let end = (u64::from(first) + count) * self.geometry.subcluster_size();
        let host = match target {
            L2Target::Data { host, .. } => Some(host),
            _ => None,
        };
        let kept = host.map(|host| HostOffset(host.0 + within));
        let kind = match (kind, host, kept) {
            (Subcluster::Unallocated, ..) => ExtentKind::Unallocated { kept },
            (Subcluster::Zero, ..) => ExtentKind::Zero { kept },
            (Subcluster::Data, Some(host), Some(kept)) => {
                self.check_start(guest, host, "cluster")?;
                ExtentKind::Data(kept)
            }
            (Subcluster::Data, ..) => {
                return Err(self.bad_entry(guest, &EntryError::Subcluster(first)));
            }
        };
        Ok((kind, end - within))
    }

    /// That a cluster starts inside the file.
    fn check_start(&self, guest: GuestOffset, host: HostOffset, what: &str) -> Result<()> {
        if host.0 < self.length {
            return Ok(());
        }
        let why = format!(
            "its {what} at {host} is beyond the end of the file ({} bytes)",
            self.length
        );
        Err(self.bad_entry(guest, &why))
    }

    /// As [`Image::extent_at`], but an extent of data goes on over the L2 tables that follow, as far
    /// as the data does in the file: one read instead of many where clusters are small.
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

    /// The extent where no L2 table is: it goes on over all following tables that are missing.
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

    fn read_data(&self, guest: GuestOffset, host: HostOffset, buf: &mut [u8]) -> Result<()> {
        let read = self.data.read_at(host.0, buf)?;
        let expected = usize::try_from(self.length.saturating_sub(host.0))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if read < expected {
            return Err(Error::corrupt(format!(
                "the file ended at byte {} while it was read; it had {} bytes when it was opened",
                host.0 + read as u64,
                self.length
            )));
        }
        match (&self.cipher, buf.get_mut(read..)) {
            (Some(cipher), None | Some([])) => cipher.decrypt(guest.0 / SECTOR_SIZE, buf),
            (Some(_), Some(_)) => {
                return Err(Error::corrupt(format!(
                    "the encrypted cluster at guest offset {guest} is cut off by the end of the \
                     file ({} bytes)",
                    self.length
                )));
            }
            (None, Some(missing)) => missing.fill(0),
            (None, None) => {}
        }
        Ok(())
    }
}

impl Qcow2Image {
    /// Reads from the compressed cluster that holds `guest`, to its end at most. Compressed clusters
    /// are never encrypted, whatever the image's method.
    fn read_compressed(&self, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let table = self.tables.l2(self.geometry.l1_index(guest))?;
        let entry = table
            .as_ref()
            .and_then(|table| table.get(self.geometry.l2_index(guest)));
        let target = entry.map(|(entry, _)| self.target(entry, guest));
        let target = target.transpose()?;
        let Some(L2Target::Compressed(range)) = target else {
            return Err(self.bad_entry(guest, &"not compressed any more"));
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { stored, cluster } = scratch;
            // The last sector of the range may reach beyond the end of the file.
            let most = range.length.min(self.length.saturating_sub(range.host.0));
            stored.resize(usize::try_from(most).unwrap_or(0), 0);
            let what = format!("the compressed cluster of guest offset {guest}");
            self.data.read_exact_at(range.host.0, stored, &what)?;
            let decode = |cluster: &mut [u8]| {
                compressed::decompress(self.compression, stored, cluster)
                    .map_err(|why| self.bad_entry(guest, &why))
            };
            if buf.len() == self.geometry.cluster_len() {
                return decode(buf);
            }
            cluster.resize(self.geometry.cluster_len(), 0);
            decode(cluster)?;
            let within = usize::try_from(self.geometry.within_cluster(guest.0)).unwrap_or(0);
            let part = cluster.get(within..).and_then(|rest| rest.get(..buf.len()));
            let part = part.ok_or_else(|| Error::invalid("reading over a cluster's end"))?;
            buf.copy_from_slice(part);
            Ok(())
        })
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
        // A compressed cluster is decoded on its own.
        while kind != ExtentKind::Encoded && offset.0 + length < end_here {
            // An entry that is in error ends the extent; whoever reads it is told.
            match self.part(&table, GuestOffset(offset.0 + length)) {
                Ok((next, more)) if next == kind.after(length) => length += more,
                _ => break,
            }
        }
        Ok(extent(length.min(end - offset.0), kind))
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        match self.cipher {
            Some(_) => None,
            None => Some(self.data.as_ref()),
        }
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
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
            let (part, after) = rest
                .split_at_mut_checked(length)
                .ok_or_else(|| Error::invalid("extent longer than asked for"))?;
            match extent.kind {
                ExtentKind::Data(host) => self.read_data(guest, host, part)?,
                ExtentKind::Encoded => self.read_compressed(guest, part)?,
                ExtentKind::Zero { .. } | ExtentKind::Unallocated { .. } => part.fill(0),
            }
            guest.0 += extent.length;
            rest = after;
        }
        Ok(())
    }
}

/// Buffers for compressed clusters, kept for each thread.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    cluster: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}
