//! Everything that a new qcow2 image can be: both tools make it, empty and out of a disk, and the
//! results are the same in all that can be asked about them.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::common::Noise;
use crate::matrix::{Tool, ours, qemu_img};
use crate::trial;

/// What is given with `-o`.
const OPTIONS: &[&str] = &[
    "refcount_bits=1",
    "refcount_bits=2,cluster_size=512",
    "refcount_bits=4,cluster_size=2M",
    "refcount_bits=8,compat=v3,lazy_refcounts=on",
    "refcount_bits=16,compat=0.10",
    "refcount_bits=32,cluster_size=4k",
    "refcount_bits=64,cluster_size=8k",
    "refcount_bits=64,preallocation=metadata,cluster_size=512",
    "refcount_bits=1,preallocation=falloc",
    "refcount_bits=2,preallocation=full,cluster_size=1k",
];

/// Options that can't be had, or not together.
const REFUSED: &[&str] = &[
    "refcount_bits=0",
    "refcount_bits=3",
    "refcount_bits=128",
    "refcount_bits=99999999999999999999",
    "refcount_bits=many",
    "refcount_bits=8,compat=0.10",
    "refcount_bits=3,compat=v2",
    "refcount_bits=8,compat=v2,lazy_refcounts=on",
    "refcount_bits=8,compat=v2,compression_type=zstd",
    "refcount_bits=3,cluster_size=3",
];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for options in OPTIONS {
        trials.push(trial(format!("create::[{options}]"), || made(options)));
    }
    trials.push(trial("create::refused", refused));
    trials
}

/// A disk of 3 MiB with data in multiples of the 4 KiB in which the oracle looks for zeroes: some
/// that fills clusters, some that fills them in part, zeroes that are written, and holes.
fn disk(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(3 << 20).unwrap();
    for (start, length) in [(0, 1), (20, 1), (256, 18), (384, 1), (480, 96), (700, 68)] {
        let bytes = Noise(start).bytes(length * 4096);
        file.write_all_at(&bytes, start * 4096).unwrap();
    }
    file.write_all_at(&[0; 9 * 4096], 274 * 4096).unwrap();
}

fn made(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let both = [("ours", ours as Tool), ("theirs", qemu_img)].map(|(name, tool)| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        disk(&folder.join("disk.raw"));
        (folder, tool)
    });
    let created = both.each_ref().map(|(folder, tool)| {
        let printed = tool(folder, &["create", "-f", "qcow2", "-o", options, "x", "5M"]).ok();
        [vec![printed], description(folder, "x")].concat()
    });
    assert_same("created", &created[0], &created[1]);
    let converted = both.each_ref().map(|(folder, tool)| {
        let args = ["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        let printed = tool(folder, &[&args[..], &["disk.raw", "y"]].concat()).ok();
        let compared = qemu_img(folder, &["compare", "disk.raw", "y"]).ok();
        assert_eq!(compared, "Images are identical.\n");
        [vec![printed], description(folder, "y")].concat()
    });
    assert_same("converted", &converted[0], &converted[1]);
}

/// What the oracle says of a consistent image, but for what depends on the places of its clusters.
fn description(folder: &Path, image: &str) -> Vec<String> {
    let ask = |command: &str| -> Value {
        let args = [command, "--output=json", "-f", "qcow2", image];
        serde_json::from_str(&qemu_img(folder, &args).ok()).unwrap()
    };
    let mut lines = Vec::new();
    for command in ["check", "info"] {
        let mut report = ask(command);
        let report = report.as_object_mut().unwrap();
        for name in [
            "image-end-offset",
            "fragmented-clusters",
            "actual-size",
            "children",
        ] {
            report.remove(name);
        }
        lines.extend(
            report
                .iter()
                .map(|(name, value)| format!("{name}: {value}")),
        );
    }
    lines.extend(map(&ask("map")));
    lines
}

/// A line for each run of clusters that are stored in the same way. Whether a part of a cluster is
/// a hole in the file depends on how the cluster lies in the file system's blocks, so that isn't
/// part of it.
fn map(extents: &Value) -> Vec<String> {
    let mut runs: Vec<(String, u64, u64)> = Vec::new();
    for extent in extents.as_array().unwrap() {
        let number = |name: &str| extent[name].as_u64().unwrap();
        let is = |name: &str| extent[name].as_bool().unwrap();
        let kind = format!(
            "depth {}, present {}, data {}, zero {}, compressed {}",
            number("depth"),
            is("present"),
            is("data"),
            is("zero") && !is("data"),
            is("compressed")
        );
        let (start, end) = (number("start"), number("start") + number("length"));
        match runs.last_mut() {
            Some((last, _, last_end)) if *last == kind => *last_end = end,
            _ => runs.push((kind, start, end)),
        }
    }
    let line = |(kind, start, end)| format!("{start} to {end}: {kind}");
    runs.into_iter().map(line).collect()
}

/// Asserts that two descriptions are the same; says what isn't.
fn assert_same(what: &str, ours: &[String], theirs: &[String]) {
    let only = |these: &[String], those: &[String]| -> String {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.fold(String::new(), |text, line| text + "\n  " + line)
    };
    assert!(
        ours == theirs,
        "{what}: only ours:{}\nonly theirs:{}",
        only(ours, theirs),
        only(theirs, ours)
    );
}

fn refused() {
    for options in REFUSED {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let args = ["create", "-f", "qcow2", "-o", options, "x", "5M"];
        let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        assert_eq!(theirs.status, Some(1), "{options}: {theirs:?}");
        assert_eq!(ours.status, theirs.status, "{options}");
        assert_eq!(ours.stdout, theirs.stdout, "{options}");
        let said = ours.stderr.replace("cowhide", "qemu-img");
        assert_eq!(said, theirs.stderr, "{options}");
    }
}
