//! Refcounts of another width.
//!
//! New refcount structures are made from the references, as a repair makes them, and the header is switched to them and
//! to their width by one write. So a power cut leaves the old ones or the new ones, and at most leaked clusters.

use super::references::WORD;
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::Header;
use crate::storage::Storage;

/// Gives an image refcounts of `bits` bits: a power of two, at most 64. Leaked clusters are given back on the way.
///
/// # Errors
/// Returns an error, in QEMU's words, if a cluster has more references than such a refcount counts, or an error if the
/// image is damaged. Nothing was written then. Returns the system's error.
pub fn change_refcount_width(storage: &dyn Storage, header: &Header, bits: u32) -> Result<()> {
    let old = header.geometry();
    let order = bits.trailing_zeros();
    let new = Geometry::new(old.cluster_bits(), old.has_subclusters(), order);
    let new = new.ok_or_else(|| Error::invalid("no refcounts are that wide"))?;
    let walk = Walk::open(storage, header, true)?;
    let mut is_damaged = false;
    let walked = walk.run(header, &mut |finding| is_damaged |= !finding.is_leak())?;
    let compared = walk.compare(&mut |finding| {
        is_damaged |= !finding.is_leak();
        Ok(())
    })?;
    if is_damaged || compared.rebuild || walked.rebuild || walked.unfollowed {
        return Err(Error::corrupt(
            "the image is damaged, and its refcounts can't be made anew; repair it first (check -r all)",
        ));
    }
    for word in walk.references.words() {
        let used = walk.references.bits(word);
        for cluster in (0..WORD)
            .filter(|bit| used >> bit & 1 != 0)
            .map(|bit| word * WORD + bit)
        {
            let references = walk.references.get(cluster);
            if references > new.max_refcount() {
                return Err(Error::invalid(format!(
                    "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {:#x} has a refcount \
                     of {references}",
                    cluster << old.cluster_bits()
                )));
            }
        }
    }
    walk.rebuild_as(&walked, new)?;
    Ok(())
}
