//! Which `-o` options each format has, how their values are written, and what help says of them.
//!
//! Options that `qemu-img` has and this version doesn't are in the lists, so that they are refused by name
//! and not as a mistake of the user's.

use std::fmt::Write as _;

use super::Driver;
use crate::commands::Protocol;
use crate::formats::Format;

/// How an option's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Switch,
    Size,
    Number,
}

/// One option of a format.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Option<&'static str>,
    help: &'static str,
}

const fn spec(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Spec {
    Spec {
        name,
        kind,
        default,
        help,
    }
}

const QCOW2: &[Spec] = &[
    spec(
        "encryption",
        Kind::Switch,
        None,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    spec(
        "encrypt.format",
        Kind::Text,
        None,
        "Encrypt the image, format choices: 'aes', 'luks'",
    ),
    spec(
        "encrypt.key-secret",
        Kind::Text,
        None,
        "ID of secret providing qcow AES key or LUKS passphrase",
    ),
    spec(
        "cluster_size",
        Kind::Size,
        Some("65536"),
        "qcow2 cluster size",
    ),
    spec(
        "extended_l2",
        Kind::Switch,
        Some("off"),
        "Extended L2 tables",
    ),
    spec(
        "preallocation",
        Kind::Text,
        None,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    spec(
        "compression_type",
        Kind::Text,
        Some("zlib"),
        "Compression method used for image cluster compression",
    ),
    spec("size", Kind::Size, None, "Virtual disk size"),
    spec(
        "compat",
        Kind::Text,
        None,
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    spec(
        "backing_file",
        Kind::Text,
        None,
        "File name of a base image",
    ),
    spec(
        "backing_fmt",
        Kind::Text,
        None,
        "Image format of the base image",
    ),
    spec(
        "data_file",
        Kind::Text,
        None,
        "File name of an external data file",
    ),
    spec(
        "data_file_raw",
        Kind::Switch,
        None,
        "The external data file must stay valid as a raw image",
    ),
    spec(
        "lazy_refcounts",
        Kind::Switch,
        Some("off"),
        "Postpone refcount updates",
    ),
    spec(
        "refcount_bits",
        Kind::Number,
        Some("16"),
        "Width of a reference count entry in bits",
    ),
    NOCOW,
    EXTENT_SIZE_HINT,
];

/// For btrfs: blocks of the file are written where they are.
const NOCOW: Spec = spec(
    "nocow",
    Kind::Switch,
    None,
    "Turn off copy-on-write (valid only on btrfs)",
);

/// For XFS, which does well without; it is accepted, and has no effect here.
const EXTENT_SIZE_HINT: Spec = spec(
    "extent_size_hint",
    Kind::Size,
    None,
    "Extent size hint for the image file, 0 to disable",
);

const RAW: &[Spec] = &[
    spec("size", Kind::Size, None, "Virtual disk size"),
    NOCOW,
    spec(
        "preallocation",
        Kind::Text,
        None,
        "Preallocation mode (allowed values: off, falloc, full)",
    ),
    EXTENT_SIZE_HINT,
];

const HOST_DEVICE: &[Spec] = &[
    spec("size", Kind::Size, None, "Virtual disk size"),
    spec(
        "preallocation",
        Kind::Text,
        None,
        "Preallocation mode (allowed values: off)",
    ),
];

/// The options of a format or driver, in the order in which `Formatting '…'` prints them.
pub(super) fn specs(driver: Driver) -> &'static [Spec] {
    match driver {
        Driver::Format(format) if format != Format::RAW => QCOW2,
        Driver::Format(_) | Driver::Protocol(Protocol::File) => RAW,
        Driver::Protocol(Protocol::HostDevice) => HOST_DEVICE,
    }
}

/// What a backing file's format may be: everything that a block device of QEMU may be.
pub(super) const DRIVERS: [&str; 42] = [
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

/// The text that `-o help` prints. Without a file's name `qemu-img` leaves out what the file may have
/// options for, such as the preallocation of a raw image.
pub fn help(driver: Driver, has_name: bool) -> String {
    let mut specs: Vec<&Spec> = specs(driver).iter().collect();
    specs.sort_by_key(|spec| spec.name);
    let mut text = if has_name {
        "Supported options:\n".to_owned()
    } else {
        specs.retain(|spec| match (driver, spec.name) {
            (Driver::Protocol(_), _) => true,
            (Driver::Format(_), "nocow" | "extent_size_hint") => false,
            (Driver::Format(format), "preallocation") => format != Format::RAW,
            (Driver::Format(_), _) => true,
        });
        format!("Supported {} options:\n", driver.name())
    };
    for Spec {
        name, kind, help, ..
    } in specs
    {
        let kind = match kind {
            Kind::Text => "<str>",
            Kind::Switch => "<bool (on/off)>",
            Kind::Size => "<size>",
            Kind::Number => "<num>",
        };
        let left = format!("{name}={kind}");
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {left:<22} - {help}");
    }
    if !has_name {
        text.push_str(
            "\nThe protocol level may support further options.\n\
             Specify the target filename to include those options.\n",
        );
    }
    text
}
