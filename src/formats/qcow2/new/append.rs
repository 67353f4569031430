//! The layout of a new image whose clusters are appended in guest order.
//!
//! ```text
//! header | L1 table | L2 tables, data … L2 tables, data … | refcount blocks | refcount table
//! ```
//!
//! - The header cluster and the L1 table have fixed places, since their sizes follow from the disk's size and the
//!   options. Data clusters follow in guest order. The L2 tables that a chunk of data begins directly precede it. So
//!   each chunk takes one write for its data and one for its tables, even with the smallest clusters.
//! - An image in which no cluster is allocated has the same bytes as one made by `qemu-img create`.
//! - In a new image every cluster is used exactly once. All refcounts are 1, so that the refcount blocks follow from
//!   the number of clusters alone and are generated at the end. Every L1 and L2 entry has the COPIED flag.
//! - A block device doesn't read as zeroes initially, so that clusters and refcount blocks are written as a whole
//!   there. The old header is overwritten first.
//! - With a backing file, a cluster of zeroes needs a zero cluster, bits for its subclusters, or, in version 2,
//!   zeroes that are written. An unallocated cluster is read from the backing file.
//! - In an external data file a cluster's host offset is its guest offset. The image's own file has only the metadata
//!   then, and only the metadata has refcounts.
//! - The header is written last, after everything that it refers to. If the image is to be on stable storage, a flush
//!   precedes it. Until then the file starts with zeroes, so that no program takes it for a qcow2 image if the
//!   conversion is interrupted.
//!
//! The memory in use is the L1 table (at most 32 MiB, for disks of petabytes), the L2 tables of a chunk, and the
//! contents of reservations.

use std::sync::{Mutex, PoisonError};

use super::layout::Layout;
use super::order::ClusterOrder;
use super::parts::{ImageLayout, NewQcow2Parts, TablePlaces};
use super::refcounts::RefcountLayout;
use super::runs;
use crate::error::Result;
use crate::formats::qcow2::entries::{L2Entry, SubclusterBitmap};
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::qcow2::header::Version;
use crate::formats::zeroes::write_zeroes;
use crate::formats::{Reservation, Run};
use crate::units::{GuestOffset, HostOffset};

/// The layout in which clusters are in the order of their data.
pub(super) struct AppendLayout {
    tables: Mutex<Layout>,
}

impl AppendLayout {
    /// Starts the layout of an image. Overwrites an old header.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the tables for the disk are too large.
    pub(super) fn new(image: &NewQcow2Parts) -> Result<Self> {
        image.wipe()?;
        Ok(Self {
            tables: Mutex::new(Layout::new(image)?),
        })
    }

    /// Sets the L2 entries of a chunk, of which `data` and `zeroes` are whole units. Adds the clusters with data as
    /// pieces to the reservation.
    fn map(
        image: &NewQcow2Parts,
        layout: &mut Layout,
        guest: GuestOffset,
        data: &[Run],
        zeroes: &[Run],
        reservation: &mut Reservation,
    ) -> Result<()> {
        let size = image.geometry.cluster_len();
        let stored = runs::widen(data, size, usize::MAX);
        let mentioned = match zeroes {
            [] => stored.clone(),
            _ => runs::widen(&runs::union(&stored, zeroes), size, usize::MAX),
        };
        let clusters = || mentioned.iter().flat_map(|run| run.clone().step_by(size));
        layout.place_tables(clusters().map(|start| GuestOffset(guest.0 + start as u64)))?;
        let bytes: u64 = stored.iter().map(|run| run.len() as u64).sum();
        let mut host = if image.external {
            HostOffset(0)
        } else {
            layout.allocate(bytes)?
        };
        let mut place = |start: usize| {
            if image.external {
                return HostOffset(guest.0 + start as u64);
            }
            let here = host;
            host.0 += image.geometry.cluster_size();
            here
        };
        for start in clusters() {
            let cluster = start..start + size;
            let has_data = zeroes.is_empty() || runs::overlap(&stored, &cluster);
            let entry = if has_data {
                let host = place(start);
                match reservation.pieces.last_mut() {
                    Some((last, _)) if last.end == start => last.end = cluster.end,
                    _ => reservation.pieces.push((cluster, host)),
                }
                L2Entry::to_data(host)
            } else {
                L2Entry::to_unallocated_zero(image.geometry)
            };
            let bitmap = if image.geometry.has_subclusters() {
                runs::bitmap(start, image.unit(), data, zeroes)
            } else {
                SubclusterBitmap::default()
            };
            layout.set_entry(GuestOffset(guest.0 + start as u64), entry, bitmap)?;
        }
        let end = mentioned.last().map_or(0, |run| run.end);
        reservation.metadata = layout.take_complete(GuestOffset(guest.0 + end as u64));
        Ok(())
    }
}

/// Writes the tables of an image without data. The file ends with the last L1 entry or with a refcount block.
fn write_empty(image: &NewQcow2Parts) -> Result<TablePlaces> {
    let l1_bytes = image.geometry.l1_entries(image.options.size) * ENTRY_SIZE;
    let mut order = ClusterOrder::new(image.geometry, image.front_clusters())?;
    let l1 = match image.geometry.clusters(l1_bytes) {
        // A disk of 0 bytes has no L1 table, and so no place for it.
        0 => 0,
        clusters => order.take(clusters)? * image.geometry.cluster_size(),
    };
    order.write(image.storage.as_ref())?;
    write_zeroes(image.storage.as_ref(), l1..l1 + l1_bytes)?;
    Ok(TablePlaces {
        l1: HostOffset(l1),
        refcount_table: order.refcount_table(),
    })
}

impl ImageLayout for AppendLayout {
    fn reserve(
        &self,
        image: &NewQcow2Parts,
        guest: GuestOffset,
        chunk: usize,
        runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        let everything;
        let (runs, zeroes) = if image.options.version == Version::V2 && !zeroes.is_empty() {
            // Version 2 has no zero clusters, so zeroes are stored as data.
            everything = runs::union(runs, zeroes);
            (everything.as_slice(), [].as_slice())
        } else {
            (runs, zeroes)
        };
        let data = runs::widen(runs, image.unit(), chunk);
        let mut reservation = Reservation {
            guest,
            pieces: Vec::with_capacity(data.len()),
            metadata: Vec::new(),
        };
        let mut layout = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Self::map(image, &mut layout, guest, &data, zeroes, &mut reservation)?;
        drop(layout);
        let written = if image.leaves_holes() { runs } else { &data };
        let pieces = &mut reservation.pieces;
        *pieces = runs::narrow(pieces, written);
        image.cut(guest, pieces);
        Ok(reservation)
    }

    fn finish(&self, image: &NewQcow2Parts) -> Result<TablePlaces> {
        let mut layout = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // The encryption header would overlap with the tables of an empty image.
        if layout.is_empty() && image.front_clusters() == 1 {
            return write_empty(image);
        }
        for (host, tables) in layout.take_rest() {
            image.storage.write_at(host.0, &tables)?;
        }
        let used = image.geometry.host_cluster(layout.next());
        let refcounts = RefcountLayout::new(image.geometry, used, layout.next())?;
        layout.write_l1(image.storage.as_ref())?;
        refcounts.write(image.storage.as_ref(), image.geometry)?;
        Ok(TablePlaces {
            l1: layout.l1_host(),
            refcount_table: refcounts.table_place(image.geometry),
        })
    }
}
