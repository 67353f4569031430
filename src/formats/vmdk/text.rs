//! The text of a new descriptor, and the names of its extents.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use uuid::Uuid;

use super::descriptor::NO_PARENT;
use super::options::{Subformat, VmdkOptions, fits};
use crate::error::{Error, Result};
use crate::units::SECTOR_SIZE;

/// The number of sectors per track in the disk's geometry.
const SECTORS: u64 = 63;

/// The extents of a new image, each with its length in bytes and its file name.
pub(super) type NamedExtents = Vec<(u64, Vec<u8>)>;

/// The content id and the name of the parent.
#[derive(Debug, Clone)]
pub(super) struct ParentLink {
    pub(super) cid: u32,
    pub(super) name: Vec<u8>,
}

/// Returns the text of a descriptor.
pub(super) fn descriptor(
    options: &VmdkOptions,
    size: u64,
    parent: Option<&ParentLink>,
    extents: &NamedExtents,
) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = |parts: &[&[u8]]| {
        text.extend(parts.concat());
        text.push(b'\n');
    };
    line(&[b"# Disk DescriptorFile"]);
    line(&[b"version=1"]);
    line(&[b"CID=", format!("{:x}", new_cid()).as_bytes()]);
    let parent_cid = parent.map_or(NO_PARENT, |parent| parent.cid);
    line(&[b"parentCID=", format!("{parent_cid:x}").as_bytes()]);
    line(&[b"createType=\"", options.subformat.name().as_bytes(), b"\""]);
    if let Some(parent) = parent {
        line(&[b"parentFileNameHint=\"", &parent.name, b"\""]);
    }
    line(&[b""]);
    line(&[b"# Extent description"]);
    let (kind, end) = match options.subformat.is_flat() {
        true => ("FLAT", " 0"),
        false => ("SPARSE", ""),
    };
    for (length, name) in extents {
        let start = format!("RW {} {kind} \"", length / SECTOR_SIZE);
        line(&[start.as_bytes(), name, b"\"", end.as_bytes()]);
    }
    let heads: u64 = if options.adapter == "ide" { 16 } else { 255 };
    let cylinders = size / (SECTORS * heads * SECTOR_SIZE);
    let rest = format!(
        "\n# The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"{}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{SECTORS}\"\n\
         ddb.adapterType = \"{}\"\n\
         ddb.toolsVersion = \"{}\"",
        options.hardware, options.adapter, options.tools
    );
    line(&[rest.as_bytes()]);
    text
}

/// Returns a random content id, with eight digits and without reserved values.
pub(super) fn new_cid() -> u32 {
    let bytes = Uuid::new_v4();
    let number = bytes
        .as_bytes()
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes);
    (number.unwrap_or(0) | 0x1000_0000).min(NO_PARENT - 2)
}

/// Returns the names and lengths of the extents of a new image at `path`. An extent has at most `most` bytes.
///
/// # Errors
/// Returns an error if a name is invalid in a descriptor, or if there would be too many extents.
pub(super) fn extents(
    subformat: Subformat,
    path: &Path,
    size: u64,
    most: u64,
    most_extents: usize,
) -> Result<NamedExtents> {
    let own = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    if !fits(own) {
        return Err(Error::invalid(
            "the name of the image can't stand in a descriptor",
        ));
    }
    let dot = own.iter().rposition(|byte| *byte == b'.');
    let (base, suffix) = own.split_at(dot.unwrap_or(own.len()));
    let name = |middle: &str| [base, middle.as_bytes(), suffix].concat();
    Ok(match subformat {
        Subformat::MonolithicSparse | Subformat::Stream => vec![(size, own.to_vec())],
        Subformat::MonolithicFlat => vec![(size, name("-flat"))],
        Subformat::SplitSparse | Subformat::SplitFlat => {
            let letter = if subformat == Subformat::SplitFlat {
                'f'
            } else {
                's'
            };
            let count = size.div_ceil(most).max(1);
            if count > most_extents as u64 {
                return Err(Error::invalid(format!(
                    "the disk would have {count} extents, and {most_extents} are the most"
                )));
            }
            (1..=count)
                .map(|number| {
                    let length = (size - (number - 1) * most).min(most);
                    (length, name(&format!("-{letter}{number:03}")))
                })
                .collect()
        }
    })
}
