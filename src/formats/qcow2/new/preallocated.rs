//! The layout of a new image in which every cluster is allocated beforehand (`preallocation=…`), at `qemu-img`'s
//! places.
//!
//! ```text
//! metadata:      header | tables as of an empty image | L2 table, its data, L2 table, its data, …
//! falloc, full:  header | an L2 table | … | refcount blocks and table | data | L2 tables
//! ```
//!
//! The tables don't depend on the data, so they are generated from the places. With `metadata`, each L2 table
//! precedes the data that it maps, and refcount blocks are between them according to [`ClusterOrder`]. With `falloc`
//! and `full`, the data is contiguous. It is also contiguous on a device. The same holds for a disk with so many L2
//! tables that recording the place of each would take too much memory. In an external data file, host offsets equal
//! guest offsets. An image whose external data file must be a raw image has this layout with any `preallocation`.
//!
//! A cluster that is never written reads as zeroes, since the file has a hole there. Decryption would turn a hole
//! into noise. So with encryption, and with [`Preallocation::Full`], every cluster has to be written, and
//! [`NewImage::starts_as_zeroes`](crate::formats::NewImage::starts_as_zeroes) returns false.
//!
//! With subclusters, a cluster is allocated, but its subclusters are unallocated until they are written. So a backing
//! file is visible through it, holes are never read, and the tables depend on the data. The table with the latest
//! data is kept in memory, and written when the next one begins.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::order::ClusterOrder;
use super::parts::{ImageLayout, NewQcow2Parts, TablePlaces};
use super::places::PlacedRuns;
use super::runs;
use crate::error::{Error, Result};
use crate::formats::qcow2::entries::{self, L1Entry, L2Entry, SubclusterBitmap};
use crate::formats::qcow2::geometry::{ENTRY_SIZE, Geometry};
use crate::formats::zeroes::write_zeroes;
use crate::formats::{Preallocation, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The largest number of bytes of tables that are written at once, though at least a cluster.
const MOST_WRITTEN: u64 = 2 << 20;

/// The largest number of L2 tables that are placed between the data.
const MOST_APART: u64 = 1 << 20;

/// The largest number of bytes of data that QEMU allocates as one run.
const MOST_DATA: u64 = i32::MAX as u64;

/// The layout of a preallocated image.
pub(super) struct PreallocatedLayout {
    starts_as_zeroes: bool,
    may_share: bool,
    order: ClusterOrder,
    l1: HostOffset,
    l2: PlacedRuns,
    l2_tables: u64,
    data: PlacedRuns,
    subclusters: Mutex<Subclusters>,
}

/// The L2 tables with subclusters, which depend on the data.
#[derive(Debug, Default)]
struct Subclusters {
    /// The number and the bytes of the table that is being filled.
    filling: Option<(u64, Vec<u8>)>,
    /// The numbers of the completed tables, which are already in a reservation, in order.
    done: Vec<u64>,
}

/// Sets the length of a file. For a block device, checks that it is long enough.
///
/// # Errors
/// Returns the system's error, or an error if a device is too small.
fn make_space(storage: &dyn Storage, length: u64) -> Result<()> {
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

/// Allocates the guest clusters that one L2 table maps.
fn take_data(
    order: &mut ClusterOrder,
    data: &mut PlacedRuns,
    geometry: Geometry,
    clusters: Range<u64>,
) -> Result<()> {
    let most = MOST_DATA / geometry.cluster_size();
    let mut start = clusters.start;
    while start < clusters.end {
        let count = (clusters.end - start).min(most);
        data.push(start, order.take(count)?);
        start += count;
    }
    Ok(())
}

impl PreallocatedLayout {
    /// Preallocates the image's space according to `preallocation`.
    ///
    /// # Errors
    /// Returns an error if there isn't enough space.
    pub(super) fn new(image: &mut NewQcow2Parts, preallocation: Preallocation) -> Result<Self> {
        let (geometry, size) = (image.geometry, image.options.size);
        let l2_tables = geometry.l1_entries(size);
        let clusters = geometry.clusters(size);
        let takes_space = !matches!(preallocation, Preallocation::Off | Preallocation::Metadata);
        let mut order = ClusterOrder::new(geometry, image.front_clusters())?;
        let l1 = match geometry.clusters(l2_tables * ENTRY_SIZE) {
            // A disk of 0 bytes has no L1 table, and so no place for it.
            0 => 0,
            l1_clusters => order.take(l1_clusters)?,
        };
        let (mut l2, mut data) = (PlacedRuns::default(), PlacedRuns::default());
        // A device is often exactly as large as `measure` says, with no space for former refcount tables.
        let is_tight = !image.storage.starts_as_zeroes() && clusters > 0;
        if !image.external && (takes_space || is_tight || l2_tables > MOST_APART) {
            data.push(0, order.take_counted(clusters, l2_tables, is_tight)?);
            for number in 0..l2_tables {
                l2.push(number, order.take(1)?);
            }
        } else {
            for number in 0..l2_tables {
                l2.push(number, order.take(1)?);
                let first = number * geometry.l2_entries();
                let end = clusters.min(first + geometry.l2_entries());
                match image.external {
                    true => data.push(first, first),
                    false => take_data(&mut order, &mut data, geometry, first..end)?,
                }
            }
        }
        let end_of = |cluster| geometry.host_offset(cluster).map_or(u64::MAX, |end| end.0);
        let metadata_end = end_of(order.end());
        let (first, end) = if image.external {
            (0, size.next_multiple_of(SECTOR_SIZE))
        } else {
            (end_of(data.find(0).0), metadata_end)
        };
        // The file ends with the last subcluster of the disk, unless a table follows it.
        let beyond = end_of(clusters) - size.next_multiple_of(geometry.subcluster_len() as u64);
        let is_last = clusters > 0 && data.find(clusters - 1).0 + 1 == order.end();
        let length = match is_last && !image.external && !takes_space {
            true => metadata_end - beyond,
            false => metadata_end,
        };
        make_space(image.storage.as_ref(), length)?;
        image.wipe()?;
        if !takes_space {
            image.clear(first..end)?;
        }
        let mut written =
            !takes_space || image.data.reserve(0..end)? && preallocation != Preallocation::Full;
        if geometry.has_subclusters() && !written {
            // The subclusters are unallocated, so that the zeroes won't be written later.
            write_zeroes(image.data.as_ref(), first..end)?;
            written = true;
        }
        let holes_are_zeroes = geometry.has_subclusters() || image.leaves_holes();
        Ok(Self {
            may_share: matches!(preallocation, Preallocation::Off | Preallocation::Metadata),
            starts_as_zeroes: image.options.backing.is_none() && holes_are_zeroes && written,
            order,
            l1: HostOffset(end_of(l1)),
            l2,
            l2_tables,
            data,
            subclusters: Mutex::default(),
        })
    }

    /// Returns the L2 entry of a guest cluster.
    fn entry(&self, image: &NewQcow2Parts, cluster: u64) -> L2Entry {
        let (host, _) = self.data.find(cluster);
        L2Entry::to_data(HostOffset(host * image.geometry.cluster_size()))
    }

    /// Returns the host offset of an L2 table.
    fn table_host(&self, image: &NewQcow2Parts, number: u64) -> HostOffset {
        HostOffset(self.l2.find(number).0 * image.geometry.cluster_size())
    }

    /// Appends an L2 table whose clusters are all data.
    fn append_table(&self, image: &NewQcow2Parts, number: u64, buffer: &mut Vec<u8>) {
        let end = buffer.len() + image.geometry.cluster_len();
        let mut cluster = number * image.geometry.l2_entries();
        let behind = image.geometry.clusters(image.options.size);
        let behind = behind.min(cluster + image.geometry.l2_entries());
        while cluster < behind {
            let (host, count) = self.data.find(cluster);
            let count = count.min(behind - cluster);
            for host in host..host + count {
                let entry = L2Entry::to_data(HostOffset(host * image.geometry.cluster_size()));
                buffer.extend(entry.0.to_be_bytes());
            }
            cluster += count;
        }
        buffer.resize(end, 0);
    }

    /// Returns an L2 table whose clusters are allocated and whose subclusters are all unallocated.
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

    /// Sets the bits for a chunk's subclusters, of which `data` and `zeroes` are multiples. Returns the table before
    /// if the chunk begins another one, since that table is complete.
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

    /// Writes the L2 tables without subclusters, contiguous ones at once.
    fn write_plain_tables(&self, image: &NewQcow2Parts) -> Result<()> {
        let mut buffer = Vec::new();
        let mut number = 0;
        while number < self.l2_tables {
            let host = self.table_host(image, number);
            let (_, count) = self.l2.find(number);
            let most = MOST_WRITTEN / image.geometry.cluster_size();
            let end = number + count.min(most).min(self.l2_tables - number);
            buffer.clear();
            for number in number..end {
                self.append_table(image, number, &mut buffer);
            }
            image.storage.write_at(host.0, &buffer)?;
            number = end;
        }
        Ok(())
    }

    /// Writes the L2 tables that weren't part of a reservation.
    fn write_l2_tables(&self, image: &NewQcow2Parts) -> Result<()> {
        if !image.geometry.has_subclusters() {
            return self.write_plain_tables(image);
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
        let written = if image.leaves_holes() { runs } else { &data };
        let places = |run| self.data.cut(image.geometry, guest, run);
        let mut pieces = written.iter().flat_map(places).collect();
        image.cut(guest, &mut pieces);
        Ok(Reservation {
            guest,
            pieces,
            metadata: complete.into_iter().collect(),
        })
    }

    fn finish(&self, image: &NewQcow2Parts) -> Result<TablePlaces> {
        self.write_l2_tables(image)?;
        let entries = (0..self.l2_tables).map(|number| {
            L1Entry::to_table(self.table_host(image, number))
                .0
                .to_be_bytes()
        });
        let l1: Vec<u8> = entries.flatten().collect();
        image.storage.write_at(self.l1.0, &l1)?;
        self.order.write(image.storage.as_ref())?;
        Ok(TablePlaces {
            l1: self.l1,
            refcount_table: self.order.refcount_table(),
        })
    }
}
