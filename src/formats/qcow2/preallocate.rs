//! A new image whose every cluster has its place beforehand (`preallocation=…`).
//!
//! ```text
//! header | L1 table | L2 tables | refcount blocks | refcount table | data, in guest order
//! ```
//!
//! Nothing depends on the data, so all tables are generated from numbers and written in long runs,
//! and the data stands in one piece behind them: guest offset plus a constant is host offset.
//!
//! A cluster that was never written reads as zeroes, as the file has a hole there. With encryption
//! a hole would decrypt to noise, so then, and with [`Preallocation::Full`], every cluster has to be
//! written: [`NewImage::starts_as_zeroes`] says so.

use std::sync::Arc;

use super::create_options::CreateOptions;
use super::entries::{L1Entry, L2Entry};
use super::geometry::{ENTRY_SIZE, Geometry};
use super::new_header;
use super::new_refcounts::RefcountLayout;
use crate::crypto::AesCbc;
use crate::error::{Error, Result};
use crate::formats::{NewImage, Preallocation, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// How much of the tables is written at a time, in bytes: at least a cluster, and a multiple of all.
const WRITE_SIZE: u64 = 2 << 20;

/// A preallocated qcow2 image being written.
pub struct NewPreallocated {
    storage: Arc<dyn Storage>,
    options: CreateOptions,
    geometry: Geometry,
    cipher: Option<AesCbc>,
    starts_as_zeroes: bool,
    flush: bool,
    l1: HostOffset,
    l2: HostOffset,
    l2_tables: u64,
    refcounts: RefcountLayout,
    data: HostOffset,
}

impl NewPreallocated {
    /// Starts a new image in `storage`, which must be empty. As `NewQcow2::create`, with all of the
    /// space taken as `preallocation` says.
    ///
    /// # Errors
    /// As `NewQcow2::create`; that there isn't so much space.
    pub fn create(
        storage: Arc<dyn Storage>,
        options: CreateOptions,
        cipher: Option<AesCbc>,
        preallocation: Preallocation,
        flush: bool,
    ) -> Result<Self> {
        let geometry = options.check()?;
        options.check_cipher(cipher.as_ref())?;
        let place = |cluster| {
            let host = geometry
                .host_offset(cluster)
                .filter(|host| host.0 < 1 << 56);
            host.ok_or_else(|| Error::invalid("the image's file is too big"))
        };
        let l2_tables = geometry.l1_entries(options.size);
        let clusters = geometry.clusters(options.size);
        let l1_clusters = geometry.clusters(l2_tables * ENTRY_SIZE);
        let tables_end = 1 + l1_clusters + l2_tables;
        let refcounts = RefcountLayout::new(geometry, tables_end + clusters, place(tables_end)?)?;
        let data = place(tables_end + refcounts.block_count + refcounts.table_clusters)?;
        let end = place(geometry.host_cluster(data) + clusters)?.0;
        storage.set_len(end)?;
        let reserved = preallocation == Preallocation::Metadata || storage.reserve(end)?;
        Ok(Self {
            starts_as_zeroes: cipher.is_none() && reserved && preallocation != Preallocation::Full,
            storage,
            geometry,
            cipher,
            flush,
            l1: place(u64::from(l2_tables > 0))?,
            l2: place(1 + l1_clusters)?,
            l2_tables,
            refcounts,
            data,
            options,
        })
    }

    /// Writes `count` entries of 8 bytes at `host`, made by `entry` from their numbers, and zeroes
    /// to the end of the last cluster.
    fn write_entries(
        &self,
        host: HostOffset,
        count: u64,
        entry: impl Fn(u64) -> u64,
    ) -> Result<()> {
        let per_write = WRITE_SIZE / ENTRY_SIZE;
        let mut buffer = Vec::new();
        let mut first = 0;
        while first < count {
            let end = count.min(first + per_write);
            buffer.clear();
            for number in first..end {
                buffer.extend(entry(number).to_be_bytes());
            }
            let whole = buffer.len().next_multiple_of(self.geometry.cluster_len());
            buffer.resize(whole, 0);
            self.storage
                .write_at(host.0 + first * ENTRY_SIZE, &buffer)?;
            first = end;
        }
        Ok(())
    }
}

impl NewImage for NewPreallocated {
    fn allocation_unit(&self) -> usize {
        self.geometry.cluster_len()
    }

    fn zero_unit(&self) -> usize {
        self.geometry.cluster_len().min(4096)
    }

    fn starts_as_zeroes(&self) -> bool {
        self.starts_as_zeroes
    }

    fn reserve(&self, guest: GuestOffset, _chunk: usize, runs: &[Run]) -> Result<Reservation> {
        let place = |run: &Run| {
            let host = HostOffset(self.data.0 + guest.0 + run.start as u64);
            (run.clone(), host)
        };
        Ok(Reservation {
            guest,
            pieces: runs.iter().map(place).collect(),
            metadata: None,
        })
    }

    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        match &self.cipher {
            Some(cipher) => reservation.encrypt(cipher, chunk),
            None => Ok(()),
        }
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.storage.as_ref(), chunk)
    }

    fn writes_serially(&self) -> bool {
        self.storage.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.cipher.is_none().then_some(self.storage.as_ref())
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let size = self.geometry.cluster_size();
        let clusters = self.geometry.clusters(self.options.size);
        self.write_entries(self.l2, clusters, |number| {
            L2Entry::to_data(HostOffset(self.data.0 + number * size)).0
        })?;
        self.write_entries(self.l1, self.l2_tables, |number| {
            L1Entry::to_table(HostOffset(self.l2.0 + number * size)).0
        })?;
        self.refcounts.write(self.storage.as_ref(), self.geometry)?;
        let header = new_header::bytes(&self.options, self.geometry, self.l1, &self.refcounts)?;
        new_header::write_last(self.storage.as_ref(), &header, self.flush)
    }
}
