//! The removal of zero flags, which version 2 doesn't have.
//!
//! The flags are removed from all L2 tables, including those of snapshots. A zero cluster with a host cluster to
//! which only its table refers becomes a data cluster, which is zeroed. Any other becomes unallocated, or a new
//! cluster of zeroes if a backing file would be visible. A few tables are changed at a time, in this order:
//!
//! 1. New clusters get their refcounts and zeroes. *Flush*.
//! 2. The tables are written in place. *Flush*.
//! 3. The references of the old entries are subtracted.
//!
//! The disk reads the same at each point, and a torn table is valid as well. The image is marked as dirty meanwhile,
//! so that a power cut leaves at most leaks, which the next writer repairs.

use std::sync::Arc;

use super::super::entries::{L1Entry, L2Entry, L2Lead};
use super::super::geometry::Geometry;
use super::super::header::Header;
use super::super::read::tables::read_table;
use super::super::snapshots::read_snapshots;
use super::metadata::Metadata;
use super::open::{open_state, refuse_damaged};
use super::snapshots::{CountedL2, l2_tables};
use crate::error::{Error, Result};
use crate::formats::zeroes::{make_zero, write_zeroes};
use crate::storage::{Pace, Pieces, Storage};
use crate::units::HostOffset;

/// The largest number of bytes of tables that are changed at once.
const BATCH_BYTES: usize = 8 << 20;

/// Returns true if [`remove_zero_flags`] can't remove the zero flags of the image: it can't write encrypted zeroes,
/// which would have to hide a backing file.
///
/// # Errors
/// Returns an error if a table is damaged, or the system's error.
pub fn keeps_zero_flags(storage: &Arc<dyn Storage>, header: &Header) -> Result<bool> {
    let needs_zeroes = header.backing_file().is_some() && header.encryption().is_some();
    Ok(needs_zeroes && !flagged_tables(storage, header)?.is_empty())
}

/// Removes the zero flags of the image with this header, which must not be open elsewhere. With `flush`, the changes
/// are flushed to stable storage.
///
/// # Errors
/// Returns an error if the image is damaged; nothing was written then. Returns the system's error.
pub fn remove_zero_flags(storage: &Arc<dyn Storage>, header: &Header, flush: bool) -> Result<()> {
    let geometry = header.geometry();
    let tables = flagged_tables(storage, header)?;
    if tables.is_empty() {
        return Ok(());
    }
    refuse_damaged(storage.as_ref(), header)?;
    let (state, _) = open_state(storage, None, header, flush)?;
    let mut change = FlagChange {
        storage,
        geometry,
        is_backed: header.backing_file().is_some(),
        is_encrypted: header.encryption().is_some(),
        metadata: state.metadata,
    };
    change.metadata.begin_recount()?;
    let batch = (BATCH_BYTES / geometry.cluster_len()).max(1);
    for some in tables.chunks(batch) {
        change.change(some)?;
    }
    change.metadata.close()
}

/// Returns the L2 tables that have entries with the flag.
fn flagged_tables(storage: &Arc<dyn Storage>, header: &Header) -> Result<Vec<CountedL2>> {
    let geometry = header.geometry();
    let mut entries = read_table(storage.as_ref(), header.l1(), "the L1 table")?;
    for snapshot in read_snapshots(storage.as_ref(), header)? {
        let l1 = snapshot.l1_table(geometry)?;
        entries.extend(read_table(storage.as_ref(), l1, "the snapshot's L1 table")?);
    }
    let tables = l2_tables(entries.into_iter().map(L1Entry), geometry)?;
    let mut flagged = Vec::new();
    let pace = Pace::default();
    Pieces::new(
        storage.as_ref(),
        storage.len()?,
        geometry.cluster_len(),
        &pace,
    )
    .each(
        &tables,
        |table| table.host.0,
        |table, bytes| {
            let (words, _) = bytes.as_chunks::<8>();
            let any = words.iter().any(|word| is_zero(*word, geometry));
            Ok(any.then_some(*table))
        },
        |table| {
            flagged.extend(table);
            Ok(())
        },
    )?;
    Ok(flagged)
}

fn is_zero(word: [u8; 8], geometry: Geometry) -> bool {
    let entry = L2Entry(u64::from_be_bytes(word));
    matches!(
        entry.lead(geometry, false),
        L2Lead::Zero | L2Lead::Stored { zero: true, .. }
    )
}

/// An image whose zero flags are being removed.
struct FlagChange<'a> {
    storage: &'a Arc<dyn Storage>,
    geometry: Geometry,
    is_backed: bool,
    is_encrypted: bool,
    metadata: Metadata,
}

impl FlagChange<'_> {
    /// Removes the flags of some tables.
    fn change(&mut self, tables: &[CountedL2]) -> Result<()> {
        let mut changed = Vec::with_capacity(tables.len());
        let mut freed = Vec::new();
        for table in tables {
            let mut bytes = vec![0; self.geometry.cluster_len()];
            let what = "an L2 table";
            self.storage.read_exact_at(table.host.0, &mut bytes, what)?;
            let (words, _) = bytes.as_chunks_mut::<8>();
            for word in words {
                if is_zero(*word, self.geometry) {
                    let entry = L2Entry(u64::from_be_bytes(*word));
                    *word = self
                        .without_flag(entry, table.times, &mut freed)?
                        .0
                        .to_be_bytes();
                }
            }
            changed.push((table.host, bytes));
        }
        self.metadata.commit()?;
        self.metadata.flush()?;
        for (host, bytes) in changed {
            self.storage.write_at(host.0, &bytes)?;
        }
        self.metadata.flush()?;
        for (cluster, times) in freed {
            for _ in 0..times {
                self.metadata.free(cluster..cluster + 1, true)?;
            }
        }
        Ok(())
    }

    /// Returns an equivalent entry without the flag. `times` is the number of L1 entries that refer to its table.
    /// Adds clusters that lose that many references to `freed`.
    fn without_flag(
        &mut self,
        entry: L2Entry,
        times: u64,
        freed: &mut Vec<(u64, u64)>,
    ) -> Result<L2Entry> {
        if let L2Lead::Stored { host, .. } = entry.lead(self.geometry, false) {
            if !self.geometry.is_aligned(host) {
                return Err(Error::corrupt(format!(
                    "L2 entry {:#x} is invalid: offset {host} is not cluster-aligned",
                    entry.0
                )));
            }
            // In an encrypted image the zeroes would have to be encrypted.
            if !self.is_encrypted && self.metadata.refcount(host)? == times {
                self.zero(host)?;
                return Ok(L2Entry::to_data(host).with_copied(times == 1));
            }
            freed.push((self.geometry.host_cluster(host), times));
        }
        if !self.is_backed {
            return Ok(L2Entry(0));
        }
        let host = self.metadata.allocate_cluster()?;
        self.metadata.raise(host, times - 1)?;
        self.zero(host)?;
        Ok(L2Entry::to_data(host).with_copied(times == 1))
    }

    /// Zeroes a cluster. The file is extended if it doesn't have the whole cluster.
    fn zero(&self, host: HostOffset) -> Result<()> {
        let end = host.0.saturating_add(self.geometry.cluster_size());
        let storage = self.storage.as_ref();
        match end > storage.len()? {
            true => write_zeroes(storage, host.0..end),
            false => make_zero(storage, host.0..end),
        }
    }
}
