//! The change of the refcount width.
//!
//! New refcount structures are built from the references, as in a repair. One write then makes the header refer to
//! them, with their width. So a power cut leaves the old or the new structures, and at most leaked clusters.

use super::references::WORD;
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::Header;
use crate::storage::Storage;

/// Changes the refcount width to `bits`, a power of two of at most 64. Leaked clusters are freed by that.
///
/// # Errors
/// Returns an error, in QEMU's words, if a cluster has more references than the new refcounts can count. Returns an
/// error if the image is damaged. Nothing was written in both cases. Returns the system's error.
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
