//! An image without zero flags, which version 2 doesn't know.
//!
//! The flags of all L2 tables go, those of snapshots' tables too. A cluster that is only kept, and that nothing but
//! its table refers to, stays and is zeroed. Others become nothing where no backing file would show, and new clusters
//! of zeroes where one would. Some tables at a time, in this order:
//!
//! 1. New clusters get their refcounts, and zeroes. *Flush*.
//! 2. The tables are written where they stand. *Flush*.
//! 3. Clusters that they led to lose their references.
//!
//! The disk reads the same at each point, and a torn table is as right as a whole one. Meanwhile the image is marked as
//! dirty, so that a power cut leaves no more than leaks, which the next writer puts right.

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

/// The most bytes of tables that are changed at once.
const BATCH_BYTES: usize = 8 << 20;

/// Returns true if the image has zero flags that [`remove_zero_flags`] can't remove: it can't encrypt the zeroes that
/// would have to hide a backing file.
///
/// # Errors
/// Returns an error if tables are damaged, or the system's error.
pub fn keeps_zero_flags(storage: &Arc<dyn Storage>, header: &Header) -> Result<bool> {
    let needs_zeroes = header.backing_file().is_some() && header.encryption().is_some();
    Ok(needs_zeroes && !flagged_tables(storage, header)?.is_empty())
}

/// Removes the zero flags of the image that `header` was read from, which nobody else may have open. `flush` says that
/// flushes reach the storage.
///
/// # Errors
/// Returns an error if the image is damaged: nothing was written then. Returns the system's error.
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

/// An image whose zero flags go.
struct FlagChange<'a> {
    storage: &'a Arc<dyn Storage>,
    geometry: Geometry,
    is_backed: bool,
    is_encrypted: bool,
    metadata: Metadata,
}

impl FlagChange<'_> {
    /// Changes some tables.
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

    /// Returns an entry of the same meaning without a flag. `times` L1 entries lead to its table. Clusters that lose
    /// as many references go to `freed`.
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
            // Zeroes of an encrypted image would have to be encrypted.
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

    /// Zeroes a cluster, which is inside of the file then.
    fn zero(&self, host: HostOffset) -> Result<()> {
        let end = host.0.saturating_add(self.geometry.cluster_size());
        let storage = self.storage.as_ref();
        match end > storage.len()? {
            true => write_zeroes(storage, host.0..end),
            false => make_zero(storage, host.0..end),
        }
    }
}
