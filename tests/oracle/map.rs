//! Tests of `map`, whose output is the same to the byte. [`crate::features`] has images with random features.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, qemu_io, write_disk};
use crate::tools::{SECRET, ours, qemu_img, same_answer, spec};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("map::raw_files", raw_files),
        trial("map::parts_of_a_disk", parts),
        trial("map::preallocated_metadata", preallocated),
        trial("map::encrypted_images", encrypted),
        trial("map::chains_with_short_backing_files", short_backing_files),
        trial("map::ways_to_name_an_image", names),
        trial("map::zeroes_in_data_files", zeroes_in_data_files),
        trial("map::mistakes", mistakes),
    ]
}

/// Asserts that both formats of the map are the same, with other options.
fn same_map(folder: &Path, args: &[&str]) {
    for output in ["--output=human", "--output=json"] {
        same_answer(folder, &[&["map", output], args].concat());
    }
}

fn raw_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for size in [
        0, 1, 511, 512, 1000, 4096, 4097, 10_000, 3_000_320, 3_000_321,
    ] {
        write_disk(&folder.join("x.raw"), size, size);
        same_map(folder, &["-f", "raw", "x.raw"]);
        // The file is longer than its data.
        let file = std::fs::File::options()
            .write(true)
            .open(folder.join("x.raw"));
        file.unwrap().set_len(size + 70_001).unwrap();
        same_map(folder, &["-f", "raw", "x.raw"]);
    }
}

fn parts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x.qcow2", "3M"]).ok();
    let commands = ["write 64k 1M", "write -z 1M 100k", "write -c 2M 64k"];
    qemu_io(folder, "qcow2", "x.qcow2", &commands);
    let mut noise = Noise(5);
    for _ in 0..12 {
        let start = noise.below(4 << 20).to_string();
        let length = noise.below(2 << 20).to_string();
        let both = ["--start-offset", &start, "--max-length", &length, "x.qcow2"];
        same_map(folder, &both);
    }
    for (start, length) in [("0", "0"), ("3M", "1"), ("7E", "7E"), ("0x100", "1k")] {
        same_map(folder, &["-s", start, "-l", length, "x.qcow2"]);
    }
}

fn preallocated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for options in [
        "preallocation=metadata",
        "preallocation=metadata,cluster_size=512,refcount_bits=1",
        "preallocation=metadata,extended_l2=on",
        "preallocation=metadata,data_file=x.data",
        "preallocation=falloc",
        "preallocation=full",
    ] {
        for tool in [ours, qemu_img] {
            let args = [
                "create", "-q", "-f", "qcow2", "-o", options, "x.qcow2", "20M",
            ];
            let created = tool(folder, &args);
            // cowhide can't create all of these.
            if created.status != Some(0) && created.stderr.starts_with("cowhide") {
                continue;
            }
            created.ok();
            same_map(folder, &["x.qcow2"]);
            qemu_io(folder, "qcow2", "x.qcow2", &["write 1M 2M", "write 5M 12k"]);
            same_map(folder, &["x.qcow2"]);
            qemu_io(folder, "qcow2", "x.qcow2", &["write 3M 17M"]);
            same_map(folder, &["x.qcow2"]);
        }
    }
}

fn encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3_000_320, 9);
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let args = ["convert", "-O", "qcow2", "--object", SECRET, "-o", options];
    ours(folder, &[&args[..], &["disk.raw", "x.qcow2"]].concat()).ok();
    let image = spec("x.qcow2", "qcow2", true);
    same_map(folder, &["--object", SECRET, "--image-opts", &image]);
    std::fs::write(folder.join("pw"), "correct horse battery").unwrap();
    let with_file = ["map", "--output=json", "--password-file", "pw", "x.qcow2"];
    let with_object = ["map", "--output=json", "--object", SECRET, "--image-opts"];
    assert_eq!(
        ours(folder, &with_file).ok(),
        qemu_img(folder, &[&with_object[..], &[&image]].concat()).ok()
    );
}

fn short_backing_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("sub")).unwrap();
    let create = ["create", "-q", "-f", "qcow2"];
    let below = |name| ["-b", name, "-F", "qcow2"];
    qemu_img(folder, &[&create[..], &["sub/base", "300k"]].concat()).ok();
    let middle = [&create[..], &below("base"), &["sub/middle", "1M"]].concat();
    qemu_img(folder, &middle).ok();
    let top = [&create[..], &below("middle"), &["sub/top", "2M"]].concat();
    qemu_img(folder, &top).ok();
    qemu_io(
        folder,
        "qcow2",
        "sub/base",
        &["write 64k 64k", "write 299k 1k"],
    );
    same_map(folder, &["sub/top"]);
    qemu_io(
        folder,
        "qcow2",
        "sub/middle",
        &["write 128k 64k", "write 960k 64k"],
    );
    same_map(folder, &["sub/top"]);
    qemu_io(
        folder,
        "qcow2",
        "sub/top",
        &["write 192k 64k", "write -z 1M 64k"],
    );
    same_map(folder, &["sub/top"]);
    same_map(folder, &["sub/middle"]);
}

/// Checks that offset 0 is valid for data in an external data file, and not for a zero cluster.
fn zeroes_in_data_files() {
    for options in ["", ",extended_l2=on"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let options = format!("data_file=x.data{options}");
        let create = ["create", "-q", "-f", "qcow2", "-o", &options];
        qemu_img(folder, &[&create[..], &["x.qcow2", "2M"]].concat()).ok();
        let image = |name: &'static str| ["-s", "64k", name];
        for commands in [
            &["write 0 512k"][..],
            &["write -z 0 192k"],
            &["write 64k 64k"],
            &["write -z 0 1M"],
        ] {
            qemu_io(folder, "qcow2", "x.qcow2", commands);
            same_map(folder, &["x.qcow2"]);
            same_map(folder, &image("x.qcow2"));
            same_map(folder, &["-s", "512", "-l", "128k", "x.qcow2"]);
        }
    }
}

fn names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x.qcow2", "1M"]).ok();
    qemu_io(folder, "qcow2", "x.qcow2", &["write 64k 64k"]);
    for name in ["x.qcow2", "./x.qcow2", "file:x.qcow2"] {
        same_map(folder, &[name]);
        same_map(folder, &["-f", "raw", name]);
    }
    let image = spec("x.qcow2", "qcow2", false);
    same_map(folder, &["--image-opts", &image]);
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("x.raw"), "x").unwrap();
    for args in [
        "",
        "x.raw x.raw",
        "nope",
        "/",
        "-f qcow2 x.raw",
        "-f nope x.raw",
        "-f raw --image-opts x.raw",
        "-s abc x.raw",
        "-s -1 x.raw",
        "-l 8E x.raw",
        "-l 1.5 x.raw",
        "--output=xml x.raw",
        "-z x.raw",
        "--start-offset",
    ] {
        let args: Vec<&str> = ["map"].into_iter().chain(args.split_whitespace()).collect();
        same_answer(folder, &args);
    }
}
