//! The comparison of the stored refcounts with the counted references.
//!
//! 64 clusters are compared at a time. If the bits of both agree and no count is above 1, there is nothing else to
//! do. That is the case for nearly all clusters of nearly every image.

use super::finding::Finding;
use super::references::WORD;
use super::walk::Walk;
use crate::error::Result;
use crate::formats::qcow2::geometry::Geometry;

/// The result of the comparison for the image as a whole.
#[derive(Debug, Default)]
pub struct Compared {
    /// The last cluster with a refcount or a reference.
    pub highest: u64,
    /// True if a cluster is referenced and has no refcount, so that the refcount structures must be rebuilt.
    pub rebuild: bool,
}

impl Compared {
    /// Returns the end of the last cluster in use, in bytes of the file.
    pub fn image_end(&self, geometry: Geometry) -> u64 {
        let end = geometry.host_offset(self.highest.saturating_add(1));
        end.map_or(u64::MAX, |end| end.0)
    }
}

impl Walk<'_> {
    /// Compares all clusters in ascending order. Calls `differs` with each difference.
    ///
    /// # Errors
    /// Returns the system's error, or the error of `differs`.
    pub fn compare(&self, differs: &mut dyn FnMut(Finding) -> Result<()>) -> Result<Compared> {
        let mut compared = Compared::default();
        let beyond = self.references.get(self.clusters) != 0;
        let end = self.clusters + u64::from(beyond);
        for word in 0..end.div_ceil(WORD) {
            let first = word * WORD;
            let in_file = match end - first {
                count @ 0..WORD => (1 << count) - 1,
                _ => u64::MAX,
            };
            let references = self.references.bits(word) & in_file;
            let ones = self.stored.ones(word) & in_file;
            let more = self.stored.more(word) & in_file;
            let used = references | ones | more;
            if used == 0 {
                continue;
            }
            compared.highest = first + u64::from(63 - used.leading_zeros());
            if references == ones && more == 0 && !self.references.is_shared(word) {
                continue;
            }
            for bit in 0..WORD {
                if used >> bit & 1 != 0 {
                    compared.rebuild |= self.compare_one(first + bit, differs)?;
                }
            }
        }
        Ok(compared)
    }

    fn compare_one(
        &self,
        cluster: u64,
        differs: &mut dyn FnMut(Finding) -> Result<()>,
    ) -> Result<bool> {
        let most = self.geometry.max_refcount();
        let refcount = self.stored.get(cluster)?;
        let mut references = self.references.get(cluster);
        if references > most {
            differs(Finding::TooManyReferences {
                cluster,
                references,
                most,
            })?;
            references = most;
        }
        if refcount > references {
            differs(Finding::Leak {
                cluster,
                refcount,
                references,
            })?;
        } else if refcount < references {
            differs(Finding::RefcountTooLow {
                cluster,
                refcount,
                references,
            })?;
        }
        Ok(refcount == 0 && references != 0)
    }
}
