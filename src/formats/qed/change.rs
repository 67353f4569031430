//! Changes of the header of an existing image: its backing file, its size, its marks.
//!
//! The header is within one sector, of which a power cut leaves the old or the new bytes. The name of a backing file
//! may be longer. So it is written first, next to the present name.

use super::header::{LENGTH, QedHeader, features};
use super::plan::is_raw;
use crate::error::{Error, Result};
use crate::formats::driver::Backing;
use crate::storage::Storage;

/// Returns the header with another backing file, or none.
///
/// # Errors
/// Returns an error if the header has no space for the name.
pub(super) fn with_backing(header: &QedHeader, backing: Option<&Backing>) -> Result<QedHeader> {
    if header.compat_features != 0 {
        return Err(Error::unsupported("Operation not supported"));
    }
    let Some(backing) = backing else {
        return Ok(header.clone().with_backing(None, false, 0));
    };
    let length = backing.name.len() as u64;
    let space = header.header_size * header.cluster_size;
    let old_start = u64::from(header.backing_offset);
    let old_end = old_start + header.backing.as_ref().map_or(0, Vec::len) as u64;
    // The new name goes before or after the present one.
    let front = LENGTH as u64;
    let start = match header.backing {
        None => front,
        Some(_) if front + length <= old_start => front,
        Some(_) => old_end.max(front),
    };
    if length > 1023 || start + length > space {
        return Err(Error::invalid("No space left on device"));
    }
    let start = u32::try_from(start).map_err(|_| Error::invalid("No space left on device"))?;
    Ok(header
        .clone()
        .with_backing(Some(&backing.name), is_raw(backing), start))
}

/// Overwrites the header in a file.
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

/// Returns the header for writing to an image, if it differs from the present one. It lacks the mark of an image that
/// needs a check, since the image was checked, and autoclear features.
pub(super) fn for_writing(header: &QedHeader) -> Option<QedHeader> {
    let changed = QedHeader {
        features: header.features & !features::NEED_CHECK,
        autoclear_features: 0,
        ..header.clone()
    };
    (changed != *header).then_some(changed)
}
