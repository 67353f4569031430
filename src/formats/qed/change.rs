//! Changes of the header of an image that exists: another backing file, another size, marks cleared.
//!
//! The header is in one sector, of which a power cut leaves the old bytes or the new ones. The name of a backing
//! file may be longer than that sector has room for. So it is written first, beside the name that is there.

use super::header::{LENGTH, QedHeader, features};
use super::plan::is_raw;
use crate::error::{Error, Result};
use crate::formats::driver::Backing;
use crate::storage::Storage;

/// Returns the header that names another backing file, or none.
///
/// # Errors
/// Returns an error if the header has no room for the name.
pub(super) fn with_backing(header: &QedHeader, backing: Option<&Backing>) -> Result<QedHeader> {
    if header.compat_features != 0 {
        return Err(Error::unsupported("Operation not supported"));
    }
    let Some(backing) = backing else {
        return Ok(header.clone().with_backing(None, false, 0));
    };
    let length = backing.name.len() as u64;
    let room = header.header_size * header.cluster_size;
    let old_start = u64::from(header.backing_offset);
    let old_end = old_start + header.backing.as_ref().map_or(0, Vec::len) as u64;
    // In front of the name that there is, or behind it.
    let front = LENGTH as u64;
    let start = match header.backing {
        None => front,
        Some(_) if front + length <= old_start => front,
        Some(_) => old_end.max(front),
    };
    if length > 1023 || start + length > room {
        return Err(Error::invalid("No space left on device"));
    }
    let start = u32::try_from(start).map_err(|_| Error::invalid("No space left on device"))?;
    Ok(header
        .clone()
        .with_backing(Some(&backing.name), is_raw(backing), start))
}

/// Stores a header in the place of another one.
///
/// # Errors
/// Returns the system's error.
pub(super) fn write(file: &dyn Storage, header: &QedHeader, flush: bool) -> Result<()> {
    if let Some(name) = &header.backing {
        file.write_at(header.backing_offset.into(), name)?;
        file.flush_if(flush)?;
    }
    file.write_at(0, &header.encode())?;
    file.flush_if(flush)
}

/// Returns the header of an image that is going to be written, if it differs. It has no mark of one that has
/// to be checked, which it was, and no features that a writer doesn't know.
pub(super) fn for_writing(header: &QedHeader) -> Option<QedHeader> {
    let changed = QedHeader {
        features: header.features & !features::NEED_CHECK,
        autoclear_features: 0,
        ..header.clone()
    };
    (changed != *header).then_some(changed)
}
