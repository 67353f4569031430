//! Formats of QEMU's that this version knows by name only.
//!
//! Reading such a file as raw would hand out its metadata as the disk's contents, so it is refused by name. A format
//! leaves this file when it gets a driver.

use crate::error::{Error, Result};
use crate::storage::Storage;

/// Returns true if a file's name alone makes it one of a foreign format, as far as its contents don't tell.
pub fn is_named(name: &[u8]) -> bool {
    name.ends_with(b".dmg")
}

/// Refuses a file that [is named](is_named) as one of a foreign format is. A disk image of macOS has its mark
/// at the end.
///
/// # Errors
/// Returns an error that names the format, or one that says that it isn't of that format either.
pub fn refuse_named(file: &dyn Storage) -> Result<()> {
    let mut mark = [0; 4];
    let end = file.len()?.checked_sub(512);
    let read = end.map(|end| file.read_at(end, &mut mark)).transpose()?;
    Err(if read == Some(4) && mark == *b"koly" {
        Error::unsupported(
            "the image looks like 'dmg', a format that this version doesn't support (-f raw reads it \
             as it is)",
        )
    } else {
        Error::invalid("Could not locate UDIF trailer in dmg file")
    })
}

/// Drivers that new images may be of and that have no measure.
pub const UNMEASURED: [&str; 2] = ["file", "host_device"];

/// The names that a backing file's format may have: those of all drivers of QEMU's block devices.
pub const QEMU_DRIVERS: [&str; 42] = [
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "bochs",
    "cloop",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "dmg",
    "file",
    "ftp",
    "ftps",
    "gluster",
    "host_cdrom",
    "host_device",
    "http",
    "https",
    "iscsi",
    "luks",
    "nbd",
    "nfs",
    "null-aio",
    "null-co",
    "nvme",
    "parallels",
    "preallocate",
    "qcow",
    "qcow2",
    "qed",
    "quorum",
    "raw",
    "rbd",
    "replication",
    "snapshot-access",
    "ssh",
    "throttle",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn a_disk_image_of_macos_is_known_by_its_end() {
        assert!(is_named(b"x.dmg") && !is_named(b"x.dmg.raw"));
        let message = |bytes: &[u8]| {
            let refused = refuse_named(&MemoryStorage::new(bytes.to_vec()));
            refused.unwrap_err().to_string()
        };
        for bytes in [&[][..], &[7; 511], &[7; 600]] {
            assert!(message(bytes).contains("Could not locate UDIF trailer"));
        }
        assert!(message(&[&b"koly"[..], &[0; 508]].concat()).contains("'dmg'"));
    }
}
