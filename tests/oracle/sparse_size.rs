//! Tests of `convert -S`: zeroes are skipped in the same units as with qemu-img, for every cluster size.

use std::path::Path;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::tools::{Tool, assert_reads_as, ours, qemu_img, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let sizes = ["512", "1k", "4k", "64k"];
    let trial_of = |size: &'static str| {
        let name = format!("sparse_size::clusters_of_{size}");
        trial(&name, move || clusters(size))
    };
    sizes.into_iter().map(trial_of).collect()
}

/// Returns a disk with data of different lengths, with gaps of different lengths between.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 256 << 10];
    for (start, length) in [
        (0, 1024),
        (3072, 1024),
        (8192, 512),
        (20 << 10, 3 << 10),
        (65 << 10, 1 << 10),
        (100 << 10, 10 << 10),
        (115 << 10, 5 << 10),
        (133 << 10, 7 << 10),
    ] {
        disk[start..start + length].fill(7);
    }
    disk
}

fn clusters(size: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("disk"), disk()).unwrap();
    for sparse in ["0", "512", "4k", "8k", "16k", "64k"] {
        for more in ["", "-c "] {
            let convert = |tool: Tool, to: &str| {
                let options = format!("{more}-S {sparse} -O qcow2 -o cluster_size={size}");
                tool(
                    folder,
                    &words(&format!("convert -f raw {options} disk {to}")),
                )
                .ok();
                present(folder, to)
            };
            let (our, their) = (convert(ours, "ours"), convert(qemu_img, "theirs"));
            assert_eq!(our, their, "-S {sparse} {more}");
            assert!(!our.is_empty());
            assert_reads_as(folder, "ours", "disk");
        }
    }
}

/// Returns the stored parts of a disk, as qemu-img maps them.
fn present(folder: &Path, image: &str) -> Vec<(u64, u64)> {
    let map = qemu_img(folder, &words(&format!("map --output=json {image}"))).ok();
    let extents: Vec<Value> = serde_json::from_str(&map).unwrap();
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for extent in extents.iter().filter(|one| one["present"] == true) {
        let start = extent["start"].as_u64().unwrap();
        let end = start + extent["length"].as_u64().unwrap();
        match parts.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => parts.push((start, end)),
        }
    }
    parts
}
