//! A new image whose every cluster has its place beforehand (`preallocation=…`).
//!
//! ```text
//! header | L1 table | L2 tables | refcount blocks | refcount table | data, in guest order
//! ```
//!
//! Nothing depends on the data, so all tables are generated from numbers and written in long runs. The data
//! stands in one piece behind them: guest offset plus a constant is host offset. In an external data file
//! that constant is 0. An image whose external data file is to be a raw image at all times is one of these,
//! whatever was asked for.
//!
//! A cluster that was never written reads as zeroes, as the file has a hole there. With encryption
//! a hole would decrypt to noise, so then, and with [`Preallocation::Full`], every cluster has to be
//! written: [`NewImage::starts_as_zeroes`](crate::formats::NewImage::starts_as_zeroes) says so.
//!
//! With subclusters a cluster has its place, and yet nothing is stored there until the bits of its
//! subclusters say so. So a backing file shows through, holes do no harm, and the tables do depend on the
//! data. The last table for which there was data is kept, and written when the next one begins.

use std::sync::{Mutex, PoisonError};

use super::parts::{ImageLayout, NewQcow2Parts, TablePlaces};
use super::refcounts::RefcountLayout;
use super::runs;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{self, L1Entry, L2Entry, SubclusterBitmap};
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::zeroes::write_zeroes;
use crate::formats::{Preallocation, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The length of the pieces in which tables are written, in bytes: at least a cluster, and a multiple of all.
const WRITE_SIZE: u64 = 2 << 20;

/// A preallocated qcow2 image being written.
pub(super) struct PreallocatedLayout {
    starts_as_zeroes: bool,
    may_share: bool,
    l1: HostOffset,
    l2: HostOffset,
    l2_tables: u64,
    refcounts: RefcountLayout,
    first: HostOffset,
    subclusters: Mutex<Subclusters>,
}

/// The L2 tables that depend on the data.
#[derive(Debug, Default)]
struct Subclusters {
    /// The one that is being filled: its number, and its bytes.
    filling: Option<(u64, Vec<u8>)>,
    /// The numbers of those that are complete and were handed out, in order.
    done: Vec<u64>,
}

/// Makes a file so long; a block device is that or isn't.
///
/// # Errors
/// Returns the system's error, or an error if a device is too small.
fn make_room(storage: &dyn Storage, length: u64) -> Result<()> {
    if storage.starts_as_zeroes() {
        return storage.set_len(length);
    }
    if storage.len()? < length {
        return Err(Error::invalid(format!(
            "the image takes {length} bytes, for which the device is too small"
        )));
    }
    Ok(())
}

impl PreallocatedLayout {
    /// Takes the image's space as `preallocation` says.
    ///
    /// # Errors
    /// Returns an error if there isn't so much space.
    pub(super) fn new(image: &mut NewQcow2Parts, preallocation: Preallocation) -> Result<Self> {
        let (geometry, size) = (image.geometry, image.options.size);
        let place = |cluster| {
            let host = geometry
                .host_offset(cluster)
                .filter(|host| host.0 < 1 << 56);
            host.ok_or_else(|| Error::invalid("the image's file is too big"))
        };
        let l2_tables = geometry.l1_entries(size);
        let clusters = geometry.clusters(size);
        let l1_clusters = geometry.clusters(l2_tables * ENTRY_SIZE);
        let front = image.front_clusters();
        let tables_end = front + l1_clusters + l2_tables;
        let counted = if image.external {
            tables_end
        } else {
            tables_end + clusters
        };
        let refcounts = RefcountLayout::new(geometry, counted, place(tables_end)?)?;
        let metadata_end = place(tables_end + refcounts.block_count + refcounts.table_clusters)?;
        let (first, end) = if image.external {
            make_room(image.storage.as_ref(), metadata_end.0)?;
            (HostOffset(0), size.next_multiple_of(SECTOR_SIZE))
        } else {
            let end = place(geometry.host_cluster(metadata_end) + clusters)?.0;
            make_room(image.storage.as_ref(), end)?;
            (metadata_end, end)
        };
        image.wipe()?;
        let takes_space = !matches!(preallocation, Preallocation::Off | Preallocation::Metadata);
        if !takes_space {
            image.clear(first.0..end)?;
        }
        let mut written =
            !takes_space || image.data.reserve(0..end)? && preallocation != Preallocation::Full;
        if geometry.has_subclusters() && !written {
            // The bits say that nothing is stored, so no one will write it later.
            write_zeroes(image.data.as_ref(), first.0..end)?;
            written = true;
        }
        let holes_are_zeroes = geometry.has_subclusters() || image.leaves_holes();
        Ok(Self {
            may_share: matches!(preallocation, Preallocation::Off | Preallocation::Metadata),
            starts_as_zeroes: image.options.backing.is_none() && holes_are_zeroes && written,
            l1: place(if l2_tables > 0 { front } else { 0 })?,
            l2: place(front + l1_clusters)?,
            l2_tables,
            refcounts,
            first,
            subclusters: Mutex::default(),
        })
    }

    /// Writes `count` entries of 8 bytes at `host`, made by `entry` from their numbers, and zeroes
    /// to the end of the last cluster.
    fn write_entries(
        image: &NewQcow2Parts,
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
            let whole = buffer.len().next_multiple_of(image.geometry.cluster_len());
            buffer.resize(whole, 0);
            image
                .storage
                .write_at(host.0 + first * ENTRY_SIZE, &buffer)?;
            first = end;
        }
        Ok(())
    }

    /// Returns the entry that leads to a guest cluster's data.
    fn entry(&self, image: &NewQcow2Parts, cluster: u64) -> L2Entry {
        let guest = cluster * image.geometry.cluster_size();
        L2Entry::to_data(HostOffset(self.first.0 + guest))
    }

    /// Returns the place of an L2 table.
    fn table_host(&self, image: &NewQcow2Parts, number: u64) -> HostOffset {
        HostOffset(self.l2.0 + number * image.geometry.cluster_size())
    }

    /// Makes an L2 table of clusters that have their places, with nothing stored there.
    fn table_of_nothing(&self, image: &NewQcow2Parts, number: u64) -> Vec<u8> {
        let mut table = vec![0; image.geometry.cluster_len()];
        let first = number * image.geometry.l2_entries();
        let end = image.geometry.clusters(image.options.size);
        for (index, cluster) in (first..end).enumerate() {
            let (entry, bitmap) = (self.entry(image, cluster), SubclusterBitmap::default());
            if entries::set_l2(&mut table, image.geometry, index, entry, bitmap).is_none() {
                break;
            }
        }
        table
    }

    /// Sets the bits of a chunk's subclusters, of which `data` and `zeroes` are whole. Returns the
    /// table that is complete, as the chunk needs another one.
    fn map(
        &self,
        image: &NewQcow2Parts,
        guest: GuestOffset,
        data: &[Run],
        zeroes: &[Run],
    ) -> Result<Option<(HostOffset, Vec<u8>)>> {
        let size = image.geometry.cluster_len();
        let mut complete = None;
        let mut subclusters = self
            .subclusters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mentioned = runs::widen(&runs::union(data, zeroes), size, usize::MAX);
        for start in mentioned.iter().flat_map(|run| run.clone().step_by(size)) {
            let offset = GuestOffset(guest.0 + start as u64);
            let number = image.geometry.l1_index(offset);
            let (_, table) = match subclusters.filling.take() {
                Some(filling) if filling.0 == number => subclusters.filling.insert(filling),
                other => {
                    if let Some((number, table)) = other {
                        complete = Some((self.table_host(image, number), table));
                        subclusters.done.push(number);
                    }
                    let table = self.table_of_nothing(image, number);
                    subclusters.filling.insert((number, table))
                }
            };
            let entry = self.entry(image, image.geometry.guest_cluster(offset));
            let bitmap = runs::bitmap(start, image.geometry.subcluster_len(), data, zeroes);
            let index = image.geometry.l2_index(offset);
            entries::set_l2(table, image.geometry, index, entry, bitmap)
                .ok_or_else(|| Error::invalid("L2 index out of range"))?;
        }
        Ok(complete)
    }

    /// Writes the L2 tables that were not handed out.
    fn write_l2_tables(&self, image: &NewQcow2Parts) -> Result<()> {
        if !image.geometry.has_subclusters() {
            let clusters = image.geometry.clusters(image.options.size);
            return Self::write_entries(image, self.l2, clusters, |number| {
                self.entry(image, number).0
            });
        }
        let mut subclusters = self
            .subclusters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((number, table)) = subclusters.filling.take() {
            image
                .storage
                .write_at(self.table_host(image, number).0, &table)?;
            subclusters.done.push(number);
        }
        for number in 0..self.l2_tables {
            if subclusters.done.binary_search(&number).is_err() {
                let table = self.table_of_nothing(image, number);
                image
                    .storage
                    .write_at(self.table_host(image, number).0, &table)?;
            }
        }
        Ok(())
    }
}

impl ImageLayout for PreallocatedLayout {
    fn starts_as_zeroes(&self, _image: &NewQcow2Parts) -> bool {
        self.starts_as_zeroes
    }

    fn may_share(&self) -> bool {
        self.may_share
    }

    fn reserve(
        &self,
        image: &NewQcow2Parts,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        let data = runs::widen(runs, image.geometry.subcluster_len(), chunk);
        let complete = if image.geometry.has_subclusters() {
            self.map(image, guest, &data, zeroes)?
        } else {
            None
        };
        let place = |run: &Run| {
            let host = HostOffset(self.first.0 + guest.0 + run.start as u64);
            (run.clone(), host)
        };
        let written = if image.leaves_holes() { runs } else { &data };
        let mut pieces = written.iter().map(place).collect();
        image.cut(guest, &mut pieces);
        Ok(Reservation {
            guest,
            pieces,
            metadata: complete.into_iter().collect(),
        })
    }

    fn finish(&self, image: &NewQcow2Parts) -> Result<TablePlaces> {
        self.write_l2_tables(image)?;
        Self::write_entries(image, self.l1, self.l2_tables, |number| {
            L1Entry::to_table(self.table_host(image, number)).0
        })?;
        self.refcounts
            .write(image.storage.as_ref(), image.geometry)?;
        Ok(TablePlaces {
            l1: self.l1,
            refcount_table: self.refcounts.table_place(image.geometry),
        })
    }
}
