//! Tests of `measure`: the same numbers, which cowhide's images don't exceed.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{qemu_io, write_disk};
use crate::tools::{SECRET, ours, qemu_img, same_answer, spec, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("measure::empty_disks", empty_disks),
        trial("measure::options", target_options),
        trial("measure::sources", sources),
        trial("measure::bitmaps", bitmaps),
        trial("measure::snapshots", snapshots),
        trial("measure::what_we_make_fits", fits),
        trial("measure::mistakes", mistakes),
    ]
}

/// Asserts that both formats of the report are the same.
fn same_measure(folder: &Path, args: &[&str]) {
    for output in ["--output=human", "--output=json"] {
        same_answer(folder, &[&["measure", output], args].concat());
    }
}

fn empty_disks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for size in ["0", "1", "513", "1M", "1000001", "3G", "1T", "7P"] {
        same_measure(folder, &["--size", size]);
        for bits in 9..=21 {
            for more in [
                "",
                ",refcount_bits=1",
                ",refcount_bits=64",
                ",extended_l2=on",
            ] {
                let options = format!("cluster_size={}{more}", 1u64 << bits);
                let args = ["measure", "-O", "qcow2", "--size", size, "-o", &options];
                same_answer(folder, &args);
            }
        }
    }
}

fn target_options() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3_000_321, 9);
    for options in [
        "compat=0.10",
        "compat=1.1",
        "preallocation=off",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
        "backing_file=nope",
        "backing_file=nope,backing_fmt=qcow2,preallocation=full",
        "encryption=on",
        "encrypt.format=aes,encrypt.key-secret=nope",
        "lazy_refcounts=on,compression_type=zstd",
        "data_file=x,data_file_raw=on",
        "size=9M",
        "cluster_size=1M,cluster_size=512",
        "compat=0.10,refcount_bits=16",
        "compat=0.10,extended_l2=on",
    ] {
        for of in [&["--size", "1M"][..], &["-f", "raw", "disk.raw"]] {
            same_measure(folder, &[&["-O", "qcow2", "-o", options], of].concat());
        }
    }
    same_measure(folder, &words("-o preallocation=full -f raw disk.raw"));
    let repeated = "-O qcow2 -o cluster_size=512 -o refcount_bits=1 --size 1M";
    same_measure(folder, &words(repeated));
}

/// Checks the contents of an image that count.
fn sources() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3_000_321, 9);
    let convert = |options: &str, target: &str| {
        let line = format!("convert -O qcow2 {options} disk.raw {target}");
        qemu_img(folder, &words(&line)).ok();
    };
    convert("-o cluster_size=512", "small");
    convert("-o cluster_size=2M,extended_l2=on", "large");
    convert("-c", "compressed");
    convert("-o compat=0.10", "version2");
    convert("-o preallocation=metadata", "preallocated");
    qemu_img(
        folder,
        &words("create -q -f qcow2 -b small -F qcow2 above 9M"),
    )
    .ok();
    qemu_io(
        folder,
        "qcow2",
        "above",
        &["write 4M 1k", "write -z 0 100k"],
    );
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let args = ["convert", "-O", "qcow2", "--object", SECRET, "-o", options];
    qemu_img(folder, &[&args[..], &["disk.raw", "encrypted"]].concat()).ok();
    let encrypted = spec("encrypted", "qcow2", true);
    for cluster in ["512", "4k", "64k", "2M"] {
        let options = format!("cluster_size={cluster}");
        let to = ["-O", "qcow2", "-o", &options];
        for source in [
            "disk.raw",
            "small",
            "large",
            "compressed",
            "version2",
            "preallocated",
            "above",
        ] {
            same_measure(folder, &[&to[..], &[source]].concat());
        }
        let source = ["--object", SECRET, "--image-opts", &encrypted];
        same_measure(folder, &[&to[..], &source].concat());
    }
    same_measure(folder, &["above"]);
    same_measure(folder, &["-f", "raw", "above"]);
}

fn bitmaps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &words("create -q -f qcow2 x.qcow2 100M")).ok();
    for line in [
        "bitmap --add x.qcow2 b0",
        "bitmap --add -g 512 x.qcow2 a_longer_name",
        "bitmap --disable x.qcow2 b0",
    ] {
        qemu_img(folder, &words(line)).ok();
        for options in [
            "",
            "-o cluster_size=512",
            "-o cluster_size=2M",
            "-o compat=0.10",
        ] {
            let line = format!("-O qcow2 {options} x.qcow2");
            same_measure(folder, &words(&line));
        }
        same_measure(folder, &["x.qcow2"]);
    }
}

fn snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &words("create -q -f qcow2 x.qcow2 10M")).ok();
    qemu_io(folder, "qcow2", "x.qcow2", &["write 0 1M"]);
    qemu_img(folder, &words("snapshot -c before x.qcow2")).ok();
    qemu_io(folder, "qcow2", "x.qcow2", &["write 3M 5M"]);
    for line in ["", "-l before", "-l 1", "-l snapshot.name=before"] {
        let line = format!("-O qcow2 {line} x.qcow2");
        same_measure(folder, &words(&line));
    }
    for line in ["measure -l nope x.qcow2", "measure -f raw -l nope x.qcow2"] {
        assert_eq!(qemu_img(folder, &words(line)).status, Some(1));
        ours(folder, &words(line)).fails(1, "Failed to load snapshot: ");
    }
}

/// Returns a number from a report.
fn number(report: &str, name: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(": ").parse().unwrap()
}

fn fits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for size in [0, 512, 3_000_321, 150 << 20] {
        write_disk(&folder.join("disk.raw"), size, 9);
        for cluster in ["512", "4k", "64k", "2M"] {
            for more in ["", ",encryption=on", ",preallocation=metadata"] {
                let options = format!("cluster_size={cluster}{more}");
                if options == "cluster_size=512,preallocation=metadata" && size > 8 << 20 {
                    // qemu-img leaves tables that became too short, and so does cowhide, but not on a device.
                    continue;
                }
                let to = ["-f", "raw", "-O", "qcow2", "-o", &options];
                let report = ours(folder, &[&["measure"], &to[..], &["disk.raw"]].concat()).ok();
                let fully = number(&report, "fully allocated size");
                let required = match more {
                    // Unallocated data has its preallocated clusters nevertheless.
                    ",preallocation=metadata" => fully,
                    _ => number(&report, "required size"),
                };
                let mut options = options.clone();
                if more == ",encryption=on" {
                    options.push_str(",encrypt.key-secret=s");
                }
                let to = [
                    "-f", "raw", "-O", "qcow2", "--object", SECRET, "-o", &options,
                ];
                let names = ["disk.raw", "x.qcow2"];
                ours(folder, &[&["convert"], &to[..], &names].concat()).ok();
                let length = std::fs::metadata(folder.join("x.qcow2")).unwrap().len();
                assert!(
                    length <= required,
                    "{size} {options}: {length} > {required}"
                );
            }
        }
    }
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("x"), "x").unwrap();
    for line in [
        "",
        "x x",
        "--size 1M x",
        "--size 1M x x",
        "--size abc",
        "--size -1",
        "--size 8E",
        "-f raw --size 1M",
        "--image-opts --size 1M",
        "-l x --size 1M",
        "--image-opts -f raw x",
        "--output=xml --size 1",
        "-O nope --size 1",
        "-O vmdk --size 1",
        "-O nope nope",
        "-O qcow2 --size 7E",
        "-O qcow2 -o , --size 1",
        "-O qcow2 -o cluster_size=3 --size 1",
        "-O qcow2 -o cluster_size=4k,extended_l2=on --size 1",
        "-O qcow2 -o refcount_bits=3 --size 1",
        "-O qcow2 -o compat=0.10,refcount_bits=8 --size 1",
        "-O qcow2 -o compat=2 --size 1",
        "-O qcow2 -o preallocation=x --size 1",
        "nope",
        "/",
        "-f qcow2 x",
        "-z x",
        "-O qcow2 -o nope=1 --size 1",
        "-O qcow2 -o lazy_refcounts=x --size 1",
        "-O raw -o cluster_size=512 --size 1",
    ] {
        let line = format!("measure {line}");
        same_answer(folder, &words(&line));
    }
}
