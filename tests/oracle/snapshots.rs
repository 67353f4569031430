//! Tests of internal snapshots and persistent bitmaps in `info`, which are the same as in `qemu-img` to the
//! byte.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::COWHIDE;
use crate::tools::{ours, qemu_img};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("snapshots::info_lists_what_qemu_img_made", made_by_qemu_img),
        trial("snapshots::info_of_all_fields", hand_made),
        trial("snapshots::info_in_other_time_zones", time_zones),
        trial("snapshots::bitmaps_in_use_and_out_of_date", bitmaps),
    ]
}

fn same_info(folder: &Path, image: &str) {
    for output in ["--output=human", "--output=json"] {
        let args = ["info", output, image];
        let theirs = qemu_img(folder, &args).ok();
        assert_eq!(ours(folder, &args).ok(), theirs, "{image}");
    }
}

fn open(folder: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true);
    options.open(folder.join("x.qcow2")).unwrap()
}

/// Makes an image with two snapshots and three bitmaps.
fn make(folder: &Path) {
    let qemu = |args: &str| qemu_img(folder, &args.split(' ').collect::<Vec<_>>()).ok();
    qemu("create -q -f qcow2 x.qcow2 10M");
    qemu("snapshot -c first x.qcow2");
    qemu("bitmap --add x.qcow2 b0");
    qemu("bitmap --add -g 4096 x.qcow2 b1");
    qemu("bitmap --disable x.qcow2 b1");
    qemu("bitmap --add -g 1G x.qcow2 b2");
    qemu("snapshot -c the-second-with-a-longer-name x.qcow2");
}

fn made_by_qemu_img() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    same_info(folder.path(), "x.qcow2");
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "compat=0.10",
        "old",
        "1M",
    ];
    qemu_img(folder.path(), &create).ok();
    qemu_img(folder.path(), &["snapshot", "-c", "é", "old"]).ok();
    same_info(folder.path(), "old");
}

struct Entry<'a> {
    id: &'a [u8],
    name: &'a [u8],
    date: (u32, u32),
    clock: u64,
    vm_state_size: u32,
    extra: &'a [u64],
}

impl Entry<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = 0x4_0000u64.to_be_bytes().to_vec();
        bytes.extend(1u32.to_be_bytes());
        bytes.extend((self.id.len() as u16).to_be_bytes());
        bytes.extend((self.name.len() as u16).to_be_bytes());
        bytes.extend(self.date.0.to_be_bytes());
        bytes.extend(self.date.1.to_be_bytes());
        bytes.extend(self.clock.to_be_bytes());
        bytes.extend(self.vm_state_size.to_be_bytes());
        bytes.extend((self.extra.len() as u32 * 8).to_be_bytes());
        bytes.extend(self.extra.iter().flat_map(|field| field.to_be_bytes()));
        bytes.extend(self.id);
        bytes.extend(self.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

fn hand_made() {
    const SECOND: u64 = 1_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder);
    let entry = |id, name, date, clock, vm_state_size, extra| Entry {
        id,
        name,
        date,
        clock,
        vm_state_size,
        extra,
    };
    let entries = [
        entry(b"1", b"s1", (0, 0), 0, 5, &[][..]),
        entry(
            b"22",
            b"a name that is longer than sixteen",
            (u32::MAX, 999_999_999),
            u64::MAX,
            0,
            &[(1 << 40) + 12_345_678, 10 << 20, u64::MAX],
        ),
        entry(
            &[b'x'; 200],
            &[b'y'; 300],
            (1_000_000_000, 1),
            (1_234_567 * 3600 + 59) * SECOND + 999_999_999,
            0,
            &[u64::MAX, 10 << 20, 1 << 63],
        ),
        entry(
            b"1234567",
            b"cut\0off",
            (1, 1),
            99_999 * 3600 * SECOND,
            7,
            &[12345, 10 << 20, 77, 5],
        ),
        entry(
            b"12345678",
            b"\xc3\xa4 1234567890",
            (951_782_400, 1),
            1,
            7,
            &[1023 << 20],
        ),
    ];
    let table: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
    let image = open(folder);
    let mut place = [0; 12];
    image.read_exact_at(&mut place, 60).unwrap();
    let offset = u64::from_be_bytes(place[4..].try_into().unwrap());
    image.write_all_at(&table, offset).unwrap();
    let count = entries.len() as u32;
    image.write_all_at(&count.to_be_bytes(), 60).unwrap();
    same_info(folder, "x.qcow2");
    // The bytes of a name that isn't UTF-8 are printed, and JSON stays valid.
    image.write_all_at(b"\xff", offset + 41).unwrap();
    let args = ["info", "--output=json", "x.qcow2"];
    let theirs = qemu_img(folder, &args).ok();
    assert!(theirs.contains("\"\\uFFFD1\""), "{theirs}");
    assert_eq!(ours(folder, &args).ok(), theirs);
}

fn time_zones() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    for zone in [
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "XYZ+11:30",
        "Asia/Kolkata",
        "UTC",
        "",
    ] {
        let [ours, theirs] = [COWHIDE, "qemu-img"].map(|program| {
            let output = std::process::Command::new(program)
                .args(["info", "x.qcow2"])
                .current_dir(folder.path())
                .env("TZ", zone)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        });
        assert!(theirs.contains("Snapshot list:"), "{theirs}");
        assert_eq!(ours, theirs, "{zone:?}");
    }
}

fn bitmaps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder);
    let image = open(folder);
    let mut header = vec![0; 1024];
    image.read_exact_at(&mut header, 0).unwrap();
    let kind = 0x2385_2875u32.to_be_bytes();
    let at = header.windows(4).position(|window| window == kind).unwrap();
    let directory = u64::from_be_bytes(header[at + 24..at + 32].try_into().unwrap());
    image.write_all_at(&[3], directory + 15).unwrap();
    same_info(folder, "x.qcow2");
    // Without the autoclear bit they are inconsistent, which both tools report on standard error.
    image.write_all_at(&[0], 95).unwrap();
    for output in ["--output=human", "--output=json"] {
        let args = ["info", output, "x.qcow2"];
        let theirs = qemu_img(folder, &args).stdout;
        assert!(!theirs.contains("granularity"), "{theirs}");
        let ran = ours(folder, &args);
        assert_eq!((ran.status, ran.stdout), (Some(0), theirs));
        assert!(ran.stderr.contains("a program lacking bitmap support"));
    }
}
