//! Changes of the refcounts of many clusters, and of the COPIED flags that depend on them.
//!
//! If so many refcounts and flags change, no order of writes keeps them consistent all the time. So a version 3 image
//! is marked as dirty meanwhile: after a power cut, the next writer repairs its refcounts and flags. Version 2 has no
//! dirty bit. There the order of writes ensures that a power cut leaves nothing worse than refcounts that are too
//! high and missing COPIED flags.

use std::ops::Range;
use std::sync::Arc;

use super::Metadata;
use super::commit::punch_hole;
use crate::error::{Error, Result};
use crate::formats::qcow2::check::references::References;
use crate::formats::qcow2::entries::L1Entry;
use crate::formats::qcow2::header::{TablePlace, Version, features, fields};
use crate::units::HostOffset;

impl Metadata {
    /// Returns the active L1 table.
    pub(in super::super) fn l1(&self) -> &[L1Entry] {
        &self.parts.l1
    }

    /// Returns the place of the active L1 table.
    pub(in super::super) fn l1_place(&self) -> TablePlace {
        self.parts.l1_place
    }

    /// Marks the image as dirty until it is closed, if its version has the dirty bit. From here on each commit stores
    /// all refcounts, even if they are lazy.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in super::super) fn begin_recount(&mut self) -> Result<()> {
        self.parts.lazy = false;
        if self.parts.version == Version::V2 {
            return Ok(());
        }
        self.parts.incompatible |= features::DIRTY;
        fields::set_incompatible(self.parts.storage.as_ref(), self.parts.incompatible)?;
        self.flush()
    }

    /// Returns the refcount of a cluster.
    ///
    /// # Errors
    /// Returns an error if its refcount block can't be read.
    pub(in super::super) fn refcount(&mut self, host: HostOffset) -> Result<u64> {
        let cluster = self.parts.geometry.host_cluster(host);
        self.parts.refcounts.get(cluster)
    }

    /// Adds `times` references to a cluster in use.
    ///
    /// # Errors
    /// Returns an error if the refcount would exceed the highest one, or if its block can't be read.
    pub(in super::super) fn raise(&mut self, host: HostOffset, times: u64) -> Result<()> {
        let cluster = self.parts.geometry.host_cluster(host);
        self.unflushed = true;
        for _ in 0..times {
            if !self.parts.refcounts.raise(cluster)? {
                return Err(Error::invalid(format!(
                    "cluster {cluster} would be in use more often than its refcount can say"
                )));
            }
        }
        Ok(())
    }

    /// Returns the first cluster whose refcount can't grow by its number of references.
    ///
    /// # Errors
    /// Returns an error as [`Refcounts::first_overflow`](super::Refcounts::first_overflow) does.
    pub(in super::super) fn first_overflow(
        &mut self,
        references: &References,
    ) -> Result<Option<u64>> {
        self.parts.refcounts.first_overflow(references)
    }

    /// Adds references that are about to be stored.
    ///
    /// # Errors
    /// Returns an error as [`Refcounts::raise_all`](super::Refcounts::raise_all) does.
    pub(in super::super) fn raise_all(&mut self, references: &References) -> Result<()> {
        self.unflushed = true;
        self.parts.refcounts.raise_all(references)
    }

    /// Subtracts references that are no longer stored, and punches holes for the clusters whose refcount becomes 0.
    ///
    /// # Errors
    /// Returns an error as [`Refcounts::lower_all`](super::Refcounts::lower_all) does.
    pub(in super::super) fn lower_all(&mut self, references: &References) -> Result<()> {
        self.unflushed = true;
        let storage = Arc::clone(&self.parts.storage);
        let size = self.parts.geometry.cluster_size();
        self.parts.refcounts.lower_all(references, &mut |run| {
            let hole: Range<u64> = run.start * size..run.end * size;
            punch_hole(storage.as_ref(), Some(hole))
        })
    }
}
