//! Which format an image has, told from its first 512 bytes.
//!
//! Probing decides only for images whose format nobody stated: what a guest writes at the start of
//! a raw disk could otherwise choose how the host reads it. Formats that are known but not built
//! here are refused by name, since reading them as raw would hand out their metadata as disk
//! contents. The marks are those that QEMU's drivers look for.

use super::Format;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// How much of an image is looked at, in bytes.
const PROBE_LENGTH: usize = 512;

/// Marks of formats that this version can't read: name, offset, bytes.
const OTHERS: [(&str, usize, &[u8]); 11] = [
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    ("qed", 0, b"QED\0"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("luks", 0, b"LUKS\xba\xbe\0\x01"),
];

/// Tells an image's format from its first bytes; what has no known mark is raw.
///
/// # Errors
/// The system's error; a format that is known but not supported.
pub fn probe(storage: &dyn Storage) -> Result<Format> {
    let mut start = [0; PROBE_LENGTH];
    // A file that has more than it gives must not be taken for another format's.
    let length = storage.read_padded_at(0, &mut start, storage.len()?)?;
    of_start(start.get(..length).unwrap_or_default())
}

/// As [`probe`], of an image's first bytes.
pub(super) fn of_start(start: &[u8]) -> Result<Format> {
    if starts_as_qcow2(start) {
        return Ok(Format::Qcow2);
    }
    for (name, offset, mark) in OTHERS {
        if start
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(mark))
        {
            return Err(Error::unsupported(format!(
                "the image looks like '{name}', a format that this version doesn't support \
                 (-f raw reads it as it is)"
            )));
        }
    }
    if is_vmdk_descriptor(start) {
        return Err(Error::unsupported(
            "the image looks like a 'vmdk' descriptor, a format that this version doesn't support",
        ));
    }
    Ok(Format::Raw)
}

/// The mark of qcow2: `QFI\xfb` and a version of 2 or more (1 is the older format `qcow`).
fn starts_as_qcow2(start: &[u8]) -> bool {
    let version = start.get(4..8).and_then(|bytes| bytes.try_into().ok());
    start.starts_with(b"QFI\xfb") && version.is_some_and(|bytes| u32::from_be_bytes(bytes) >= 2)
}

/// A VMDK descriptor is text: comments and blank lines, then `version=1`, `2` or `3`.
fn is_vmdk_descriptor(start: &[u8]) -> bool {
    start
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .find(|line| !line.starts_with(b"#") && !line.iter().all(|byte| *byte == b' '))
        .is_some_and(|line| matches!(line, b"version=1" | b"version=2" | b"version=3"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn probe_bytes(bytes: &[u8]) -> Result<Format> {
        probe(&MemoryStorage::new(bytes.to_vec()))
    }

    #[test]
    fn qcow2_is_known_by_magic_and_version() {
        assert_eq!(probe_bytes(b"QFI\xfb\0\0\0\x03").unwrap(), Format::Qcow2);
        assert_eq!(probe_bytes(b"QFI\xfb\0\0\0").unwrap(), Format::Raw);
    }

    #[test]
    fn anything_else_is_raw() {
        assert_eq!(probe_bytes(b"").unwrap(), Format::Raw);
        assert_eq!(probe_bytes(&[0; 600]).unwrap(), Format::Raw);
        assert_eq!(
            probe_bytes(b"# a text file\nversion=9\n").unwrap(),
            Format::Raw
        );
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let cases: [(&str, &[u8]); 4] = [
            ("qcow", b"QFI\xfb\0\0\0\x01"),
            ("vhdx", b"vhdxfile...."),
            ("luks", b"LUKS\xba\xbe\0\x01"),
            ("vmdk", b"# Disk DescriptorFile\r\nversion=1\r\n"),
        ];
        for (name, bytes) in cases {
            let message = probe_bytes(bytes).unwrap_err().to_string();
            assert!(message.contains(&format!("'{name}'")), "{message}");
        }
    }
}
