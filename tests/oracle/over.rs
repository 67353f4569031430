//! Tests of zeroes over the data of an existing image: space is freed if qemu-img frees it, and unallocated clusters
//! become zero clusters if they do with qemu-img.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Ran, qemu_io, same_contents};
use crate::tools::{ours, qemu_img};
use crate::trial;

/// The size of the disks in bytes.
const SIZE: u64 = 8 << 20;
/// The number of bytes by which the sizes of both tools' files may differ, because of metadata and rounding of file
/// systems.
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
    let full = kinds.into_iter().map(|(name, options, backed)| {
        trial(format!("over::{name}"), move || {
            zeroes_over(options, backed, "write -P 9 0 8M");
        })
    });
    let more = [
        ("subclusters", "extended_l2=on,cluster_size=128k", false),
        (
            "backing_subclusters",
            "extended_l2=on,cluster_size=128k",
            true,
        ),
        ("preallocated", "preallocation=metadata", false),
    ];
    // Cluster 0 is data, cluster 8 is zero, and most are unallocated.
    let partly = "write -P 9 0 128k,write -z 512k 64k,write -P 5 1M 300k,write -P 7 5M 64k";
    let empty = kinds.into_iter().chain(more);
    let empty = empty.flat_map(|(name, options, backed)| {
        [("empty", ""), ("partly", partly)].map(|(state, writes)| {
            trial(format!("over::{state}_{name}"), move || {
                zeroes_over(options, backed, writes);
            })
        })
    });
    let tables =
        [("version_3", "compat=1.1"), ("version_2", "compat=0.10")].map(|(name, compat)| {
            trial(format!("over::many_tables_{name}"), move || {
                many_tables(compat);
            })
        });
    full.chain(empty).chain(tables).collect()
}

/// Checks a disk of many L2 tables, most of which become zero as a whole. A backing file that is added later must not
/// show through where qemu-img has zeroes, and a version 2 image must not grow.
fn many_tables(compat: &str) {
    let options = format!("{compat},cluster_size=512");
    let [theirs, ours] = [qemu_img, ours].map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let source = fs::File::create(folder.join("source.raw")).unwrap();
        source.set_len(SIZE).unwrap();
        // The writes are in the middle of a table, and across the border of two.
        let writes = ["write -P 1 40k 4k", "write -P 1 4092k 8k"];
        qemu_io(folder, "raw", "source.raw", &writes.map(String::from));
        let create = [
            "create", "-q", "-f", "qcow2", "-o", &options, "target", "9M",
        ];
        qemu_img(folder, &create).ok();
        qemu_io(folder, "qcow2", "target", &["write -P 9 5000000 2k"]);
        let convert = ["convert", "-n", "-O", "qcow2", "-f", "raw"];
        tool(folder, &[&convert[..], &["source.raw", "target"]].concat()).ok();
        qemu_img(folder, &["check", "target"]).ok();
        qemu_img(folder, &["compare", "source.raw", "target"]).ok();
        stored(folder)
    });
    assert_eq!(ours, theirs);
    assert_eq!(
        ours.contains("present: true, zero: true"),
        compat == "compat=1.1"
    );
}

/// Returns the map of the target, without host offsets.
fn stored(folder: &Path) -> String {
    let map = qemu_img(folder, &["map", "--output=json", "target"]).ok();
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let mut runs: Vec<(String, u64)> = Vec::new();
    for run in map {
        let length = run["length"].as_u64().unwrap();
        let of = |name: &str| format!("{name}: {}", run[name]);
        let kind = ["depth", "present", "zero", "data", "compressed"].map(of);
        let kind = kind.join(", ");
        match runs.last_mut() {
            Some(last) if last.0 == kind => last.1 += length,
            _ => runs.push((kind, length)),
        }
    }
    let lines = runs
        .into_iter()
        .map(|(kind, length)| format!("{length} {kind}\n"));
    lines.collect()
}

/// Converts a source with data, zeroes as data and holes into an image that qemu-io has written before.
fn converted(
    (options, backed, first): (&str, bool, &str),
    tool: fn(&Path, &[&str]) -> Ran,
    how: &[&str],
) -> Found {
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
    let first: Vec<_> = first.split(',').filter(|write| !write.is_empty()).collect();
    qemu_io(folder, "qcow2", "target", &first);
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
        map: stored(folder),
        space: blocks(&folder.join("target")) + blocks(&data),
    }
}

/// The result of a conversion.
struct Found {
    map: String,
    space: u64,
}

fn zeroes_over(options: &str, backed: bool, first: &str) {
    for how in [&[][..], &["-S", "0"], &["-S", "64k"]] {
        let theirs = converted((options, backed, first), qemu_img, how);
        let found = converted((options, backed, first), ours, how);
        assert_eq!(found.map, theirs.map, "{how:?}");
        let (ours, theirs) = (found.space, theirs.space);
        assert!(
            ours <= theirs + SLACK,
            "{how:?}: {ours} bytes, not {theirs}"
        );
    }
}
