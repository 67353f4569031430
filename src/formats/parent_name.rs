//! The names of parent disks, as Windows programs store them in images.
//!
//! They are in UTF-16, with backslashes between folders. Only names that are relative to the image's folder have a
//! meaning on another system: `C:` or a network share don't exist there.

use byteorder::{ByteOrder as _, LittleEndian};

use crate::error::{Error, Result};

/// Returns the name of a file beside an image in this system's form, from a Windows name in UTF-16. Returns `None` if
/// the name isn't relative or isn't valid UTF-16.
pub fn relative(name: impl IntoIterator<Item = u16>) -> Option<Vec<u8>> {
    let name: Result<String, _> = char::decode_utf16(name).collect();
    let name = name.ok()?;
    let name = name.trim_end_matches('\0').replace('\\', "/");
    let name = name.trim_start_matches("./");
    // Refuses a drive, a share or an absolute path.
    let is_relative = !name.is_empty() && !name.starts_with('/') && !name.contains([':', '\0']);
    is_relative.then(|| name.as_bytes().to_vec())
}

/// Returns the same for a name in UTF-16LE.
pub fn relative_of_bytes(name: &[u8]) -> Option<Vec<u8>> {
    let units = name.chunks_exact(2);
    relative(units.filter_map(|unit| Some(u16::from_le_bytes(unit.try_into().ok()?))))
}

/// Refuses to write to an image if it `has_parent`.
///
/// # Errors
/// Returns an error if it has one.
pub fn refuse_child(has_parent: bool) -> Result<()> {
    match has_parent {
        false => Ok(()),
        true => Err(Error::unsupported(
            "the image is a differencing disk, which this version only reads",
        )),
    }
}

/// Returns the error for a parent whose name isn't relative.
pub fn not_relative() -> Error {
    Error::unsupported(
        "the image is a differencing disk, and its parent has no name that is relative to the image",
    )
}

/// Returns a content id of 64 bits for an id of 128 bits.
pub fn content_id(id: [u8; 16]) -> u64 {
    let (low, high) = id.split_at(8);
    // Both halves are used, since one of them may be the same in many images.
    LittleEndian::read_u64(low) ^ LittleEndian::read_u64(high).rotate_left(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_names_are_followed() {
        let cases: [(&str, Option<&str>); 9] = [
            (".\\parent.vhd", Some("parent.vhd")),
            ("..\\disks\\pärent.vhdx\0\0", Some("../disks/pärent.vhdx")),
            ("parent.vhd", Some("parent.vhd")),
            ("C:\\parent.vhd", None),
            ("\\\\server\\share\\parent.vhd", None),
            ("/etc/passwd", None),
            ("nbd:localhost:1", None),
            ("", None),
            ("a\0b", None),
        ];
        for (name, expected) in cases {
            let found = relative(name.encode_utf16());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{name}");
            let bytes: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            assert_eq!(relative_of_bytes(&bytes), found);
        }
        assert!(relative([0xd800, 0x41]).is_none());
    }

    #[test]
    fn each_half_of_an_id_counts() {
        let id = |at: usize| {
            let mut id = [7; 16];
            id[at] ^= 1;
            content_id(id)
        };
        assert!((0..16).all(|at| id(at) != content_id([7; 16])));
        assert_ne!(id(0), id(8));
    }
}
