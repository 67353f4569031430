//! Zeroes over what an existing image holds: the space is given back where qemu-img gives it back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Ran, qemu_io, same_contents};
use crate::matrix::{ours, qemu_img};
use crate::trial;

/// The size of the disks.
const SIZE: u64 = 8 << 20;
/// How much more one tool's files may take than the other's: metadata, and how file systems round.
const SLACK: u64 = 128 << 10;

pub fn trials() -> Vec<Trial> {
    let kinds = [
        ("version_3", "compat=1.1", false),
        ("version_2", "compat=0.10", false),
        ("backing", "compat=1.1", true),
        ("backing_version_2", "compat=0.10", true),
        ("data_file", "data_file=target.data", false),
        (
            "raw_data_file",
            "data_file=target.data,data_file_raw=on",
            false,
        ),
    ];
    kinds
        .into_iter()
        .map(|(name, options, backed)| {
            trial(format!("over::{name}"), move || {
                zeroes_over(options, backed)
            })
        })
        .collect()
}

/// A source with data, written zeroes and holes, converted into an image that is full.
fn converted(options: &str, backed: bool, tool: fn(&Path, &[&str]) -> Ran, how: &[&str]) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = fs::File::create(folder.join("source.raw")).unwrap();
    source.set_len(SIZE).unwrap();
    let writes = ["write -P 1 0 1M", "write -P 0 2M 1M", "write -P 2 5M 64k"];
    qemu_io(folder, "raw", "source.raw", &writes);
    let create = ["create", "-q", "-f", "qcow2"];
    let target = ["-o", options, "target", "8M"];
    if backed {
        qemu_img(folder, &[&create[..], &["below", "8M"]].concat()).ok();
        qemu_io(folder, "qcow2", "below", &["write -P 7 0 8M"]);
        let backing = ["-b", "below", "-F", "qcow2"];
        qemu_img(folder, &[&create[..], &backing, &target].concat()).ok();
    } else {
        qemu_img(folder, &[&create[..], &target].concat()).ok();
    }
    qemu_io(folder, "qcow2", "target", &["write -P 9 0 8M"]);
    let convert = ["convert", "-n", "-O", "qcow2"];
    let names = ["-f", "raw", "source.raw", "target"];
    tool(folder, &[&convert[..], how, &names].concat()).ok();

    qemu_img(folder, &["check", "target"]).ok();
    qemu_img(folder, &["compare", "source.raw", "target"]).ok();
    let data = folder.join("target.data");
    if options.contains("raw") {
        assert!(same_contents(&data, &folder.join("source.raw")), "{how:?}");
    }
    let blocks = |path: &Path| fs::metadata(path).map_or(0, |file| file.blocks() * 512);
    Found {
        map: qemu_img(folder, &["map", "--output=json", "target"]).ok(),
        space: blocks(&folder.join("target")) + blocks(&data),
    }
}

/// What a conversion left.
struct Found {
    map: String,
    space: u64,
}

fn zeroes_over(options: &str, backed: bool) {
    for how in [&[][..], &["-S", "0"], &["-S", "64k"]] {
        let theirs = converted(options, backed, qemu_img, how);
        let found = converted(options, backed, ours, how);
        assert_eq!(found.map, theirs.map, "{how:?}");
        let (ours, theirs) = (found.space, theirs.space);
        assert!(
            ours <= theirs + SLACK,
            "{how:?}: {ours} bytes, not {theirs}"
        );
    }
}
