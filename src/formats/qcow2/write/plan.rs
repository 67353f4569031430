//! The plan of a write: the changes that it makes in each cluster.
//!
//! A cluster that is allocated and not shared is written in place. Otherwise the data goes to a new cluster, or to
//! the preallocated one of a zero cluster. A new cluster also needs the data that the write doesn't cover. Without
//! subclusters that is the rest of the cluster. With subclusters it is the rest of the first and the last subcluster,
//! and all data of the old cluster. So each cluster gets one contiguous run of bytes. Consecutive guest clusters are
//! allocated as one run of the file as far as possible.

use std::ops::Range;

use super::super::entries::{
    EntryError, L2Entry, L2Slot, L2Target, SUBCLUSTERS, Subcluster, SubclusterBitmap,
};
use super::super::geometry::Geometry;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::formats::qcow2::read::cluster::ClusterReader;
use crate::units::{GuestOffset, HostOffset};

/// The data to be written to one cluster.
#[derive(Debug)]
pub(super) struct Piece {
    /// The part of the disk that is written: the caller's part, and the data to be copied.
    pub(super) guest: Range<u64>,
    /// The host offset of its first byte.
    pub(super) host: HostOffset,
    /// The present L2 entry.
    pub(super) old: L2Slot,
    /// The L2 entry after the data is stored, if it changes.
    pub(super) new: Option<L2Slot>,
    /// The host cluster that was allocated for it.
    fresh: Option<u64>,
}

impl Piece {
    /// Returns true if the data goes to a cluster that was handed out for it.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.is_some()
    }
}

/// The present state of a cluster to be written to.
#[derive(Debug)]
struct FoundCluster {
    /// The part of the cluster that the caller writes.
    wanted: Range<u64>,
    slot: L2Slot,
    target: L2Target,
    /// The host offset of the cluster, if it may be written in place.
    owned: Option<HostOffset>,
}

/// Plans a write to `range`, which is in one L2 table, and allocates the clusters for it.
///
/// # Errors
/// Returns an error if metadata is damaged, or if clusters can't be allocated. All clusters are freed again then.
pub(super) fn plan(
    metadata: &mut Metadata,
    clusters: &ClusterReader,
    geometry: Geometry,
    range: Range<u64>,
) -> Result<Vec<Piece>> {
    let owns_table = metadata.owns_l2(GuestOffset(range.start))?;
    let mut found = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let left = geometry.cluster_size() - geometry.within_cluster(start);
        let wanted = start..range.end.min(start.saturating_add(left));
        start = wanted.end;
        found.push(find(metadata, clusters, wanted, owns_table)?);
    }
    let mut pieces = Vec::with_capacity(found.len());
    let mut spare = 0..0;
    let planned = place(
        metadata,
        clusters,
        geometry,
        &found,
        &mut spare,
        &mut pieces,
    );
    if let Err(error) = planned {
        abandon(metadata, &pieces);
        // A cluster that can't be freed is a leak, and the first error is the one to report.
        drop(metadata.free(spare, false));
        return Err(error);
    }
    Ok(pieces)
}

/// Frees the clusters of a plan that isn't carried out.
pub(super) fn abandon(metadata: &mut Metadata, pieces: &[Piece]) {
    for cluster in pieces.iter().filter_map(|piece| piece.fresh) {
        drop(metadata.free(cluster..cluster + 1, false));
    }
}

/// Sets the L2 entries for the written data, and frees the clusters of the old entries.
///
/// # Errors
/// Returns an error as [`Metadata::set_slot`] does.
pub(super) fn refer(
    metadata: &mut Metadata,
    clusters: &ClusterReader,
    pieces: &[Piece],
) -> Result<()> {
    for piece in pieces {
        let Some(new) = piece.new else {
            continue;
        };
        let guest = GuestOffset(piece.guest.start);
        metadata.set_slot(guest, new)?;
        if piece.fresh.is_some() {
            metadata.free_target(clusters.target(piece.old.entry, guest)?, false)?;
        }
    }
    Ok(())
}

fn find(
    metadata: &mut Metadata,
    clusters: &ClusterReader,
    wanted: Range<u64>,
    owns_table: bool,
) -> Result<FoundCluster> {
    let guest = GuestOffset(wanted.start);
    let slot = metadata.slot(guest)?;
    let target = clusters.target(slot.entry, guest)?;
    let owned = match target {
        L2Target::Data { host, copied }
        | L2Target::Zero {
            kept: Some((host, copied)),
        } => {
            let owned = metadata.owns_data(host, copied)? && owns_table;
            owned.then_some(host)
        }
        _ => None,
    };
    Ok(FoundCluster {
        wanted,
        slot,
        target,
        owned,
    })
}

/// Assigns a host offset to each cluster.
fn place(
    metadata: &mut Metadata,
    clusters: &ClusterReader,
    geometry: Geometry,
    found: &[FoundCluster],
    spare: &mut Range<u64>,
    pieces: &mut Vec<Piece>,
) -> Result<()> {
    for (index, cluster) in found.iter().enumerate() {
        let guest = GuestOffset(cluster.wanted.start);
        let (host, fresh) = match (cluster.owned, metadata.fixed_place(guest)) {
            (Some(host), _) | (None, Some(host)) => (host, None),
            (None, None) => {
                if spare.is_empty() {
                    let rest = found.get(index..).unwrap_or_default();
                    let most = rest.iter().take_while(|found| found.owned.is_none());
                    *spare = metadata.allocate(most.count() as u64)?;
                }
                let number = spare.start;
                spare.start += 1;
                let host = geometry.host_offset(number);
                let host = host.ok_or_else(|| Error::invalid("the image's file is too big"))?;
                (host, Some(number))
            }
        };
        let (guest, new) = match cluster.slot.bitmap {
            Some(bitmap) => with_subclusters(clusters, geometry, cluster, bitmap, host)?,
            None => whole(geometry, cluster, host),
        };
        let within = geometry.within_cluster(guest.start);
        pieces.push(Piece {
            host: HostOffset(host.0 + within),
            guest,
            old: cluster.slot,
            new,
            fresh,
        });
    }
    Ok(())
}

/// Returns the range to be written to a cluster without subclusters, and its new entry.
fn whole(
    geometry: Geometry,
    cluster: &FoundCluster,
    host: HostOffset,
) -> (Range<u64>, Option<L2Slot>) {
    let wanted = cluster.wanted.clone();
    if cluster.owned.is_some() && matches!(cluster.target, L2Target::Data { .. }) {
        return (wanted, None);
    }
    let start = wanted.start - geometry.within_cluster(wanted.start);
    let slot = L2Slot::of_entry(L2Entry::to_data(host));
    (start..start + geometry.cluster_size(), Some(slot))
}

/// Returns the range to be written to a cluster with subclusters, and its new entry.
fn with_subclusters(
    clusters: &ClusterReader,
    geometry: Geometry,
    cluster: &FoundCluster,
    bitmap: SubclusterBitmap,
    host: HostOffset,
) -> Result<(Range<u64>, Option<L2Slot>)> {
    let wanted = cluster.wanted.clone();
    let guest = GuestOffset(wanted.start);
    let bad = |why: EntryError| clusters.bad_entry(guest, &why);
    let start = wanted.start - geometry.within_cluster(wanted.start);
    let size = geometry.subcluster_size();
    let first = geometry.subcluster_index(guest);
    let last = geometry.subcluster_index(GuestOffset(wanted.end - 1));
    let mut states = Vec::with_capacity(SUBCLUSTERS as usize);
    for number in 0..SUBCLUSTERS {
        states.push(match cluster.target {
            L2Target::Compressed(_) => Subcluster::Data,
            L2Target::Zero { .. } => return Err(bad(EntryError::Reserved)),
            L2Target::Data { .. } => bitmap.get(number).map_err(bad)?,
            L2Target::Unallocated => match bitmap.get(number).map_err(bad)? {
                Subcluster::Data => return Err(bad(EntryError::Subcluster(number))),
                other => other,
            },
        });
    }
    let is_data = |number: u32| {
        let state = usize::try_from(number).ok().and_then(|at| states.get(at));
        state == Some(&Subcluster::Data)
    };
    if cluster.owned.is_some() && (first..=last).all(is_data) {
        return Ok((wanted, None));
    }
    let (lowest, highest) = if cluster.owned.is_some() {
        (first, last)
    } else {
        // All data of the old cluster is copied.
        let mut held = (0..SUBCLUSTERS).filter(|number| is_data(*number));
        let lowest = held.next().unwrap_or(first);
        let highest = held.next_back().unwrap_or(lowest);
        (lowest.min(first), highest.max(last))
    };
    let in_place = |number| cluster.owned.is_some() && is_data(number);
    let from = if in_place(lowest) {
        wanted.start
    } else {
        start + u64::from(lowest) * size
    };
    let to = if in_place(highest) {
        wanted.end
    } else {
        start + u64::from(highest + 1) * size
    };
    let mut bitmap = SubclusterBitmap::default();
    for (number, state) in (0..SUBCLUSTERS).zip(states) {
        let written = (lowest..=highest).contains(&number);
        bitmap = bitmap.with(number, if written { Subcluster::Data } else { state });
    }
    let slot = L2Slot::with_bitmap(L2Entry::to_data(host), bitmap);
    Ok((from..to, Some(slot)))
}
