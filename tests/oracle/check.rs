//! `check`'s verdicts on damaged images: the same exit status and the same counts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use libtest_mimic::Trial;

use crate::common::write_disk;
use crate::matrix::{Tool, ours, qemu_img};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("check::leak_is_3", || {
            damaged(3, &|image| {
                // Nothing refers to the first data cluster any more.
                put64(image, get64(image, get64(image, 40)) & OFFSET, 0);
            })
        }),
        trial("check::refcount_too_high_is_3", || {
            damaged(3, &|image| {
                // Of the L2 table; the flag that says that it is exactly 1 goes too.
                let l1 = get64(image, 40);
                let l2 = get64(image, l1) & OFFSET;
                put16(image, refcount_offset(image, l2 / 4096), 2);
                put64(image, l1, l2);
            })
        }),
        trial("check::refcount_zero_is_2", || {
            damaged(2, &|image| {
                put16(image, refcount_offset(image, 6), 0);
            })
        }),
        trial("check::missing_copied_flag_is_2", || {
            damaged(2, &|image| {
                let l2 = get64(image, get64(image, 40)) & OFFSET;
                put64(image, l2, get64(image, l2) & !(1 << 63));
            })
        }),
        trial("check::cluster_used_twice_is_2", || {
            damaged(2, &|image| {
                let l2 = get64(image, get64(image, 40)) & OFFSET;
                put64(image, l2 + 8, get64(image, l2));
            })
        }),
        trial("check::unaligned_cluster_is_2", || {
            damaged(2, &|image| {
                let l2 = get64(image, get64(image, 40)) & OFFSET;
                put64(image, l2, get64(image, l2) + 512);
            })
        }),
        trial("check::statuses_without_a_report", statuses),
    ]
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn get64(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_be_bytes(bytes)
}

fn put64(file: &File, offset: u64, value: u64) {
    file.write_all_at(&value.to_be_bytes(), offset).unwrap();
}

fn put16(file: &File, offset: u64, value: u16) {
    file.write_all_at(&value.to_be_bytes(), offset).unwrap();
}

/// Where the refcount of a cluster stands, in the first refcount block.
fn refcount_offset(file: &File, cluster: u64) -> u64 {
    get64(file, get64(file, 48)) + cluster * 2
}

/// Damages an image that qemu-img made and one of ours, and compares what both tools say of each.
fn damaged(status: i32, damage: &dyn Fn(&File)) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_000, 1);
    for maker in [ours as Tool, qemu_img] {
        let args = [
            "convert",
            "-O",
            "qcow2",
            "-o",
            "cluster_size=4k",
            "disk.raw",
            "x.qcow2",
        ];
        maker(folder, &args).ok();
        let image = File::options()
            .read(true)
            .write(true)
            .open(folder.join("x.qcow2"))
            .unwrap();
        damage(&image);
        for output in ["--output=human", "--output=json"] {
            let args = ["check", output, "x.qcow2"];
            let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
            assert_eq!(theirs.status, Some(status), "the oracle: {theirs:?}");
            assert_eq!(ours.status, Some(status), "{ours:?}");
            assert_eq!(ours.stdout, theirs.stdout);
            assert_eq!(
                ours.stderr.lines().count(),
                theirs
                    .stderr
                    .lines()
                    .filter(|line| !line.is_empty())
                    .count(),
                "{ours:?} {theirs:?}"
            );
        }
    }
}

fn statuses() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_000, 1);
    std::fs::write(folder.join("bad.qcow2"), b"QFI\xfb\0\0\0\x09").unwrap();
    for (name, status) in [("disk.raw", 63), ("missing", 1), ("bad.qcow2", 1), (".", 1)] {
        let (ours, theirs) = (
            ours(folder, &["check", name]),
            qemu_img(folder, &["check", name]),
        );
        assert_eq!(theirs.status, Some(status), "the oracle: {theirs:?}");
        assert_eq!(ours.status, Some(status), "{ours:?}");
        assert_eq!(ours.stdout, theirs.stdout);
    }
}
