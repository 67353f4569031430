//! Tests of warnings about images that can be used nevertheless, and of names in headers.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::write_disk;
use crate::tools::{ours, qemu_img, same_answer, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("warnings::bitmaps_of_the_past", bitmaps),
        trial("warnings::names_filled_up_with_zeroes", names),
        trial("warnings::protocols_found_inside", protocols),
        trial("warnings::devices_of_no_size", devices),
    ]
}

/// Checks bitmaps of an image that a program without support for them has changed. The oracle's warning has no
/// newline at its end.
fn bitmaps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for line in [
        "create -q -f qcow2 x.qcow2 1M",
        "bitmap --add x.qcow2 b",
        "create -q -f qcow2 -b x.qcow2 -F qcow2 over.qcow2",
    ] {
        qemu_img(folder, &words(line)).ok();
    }
    let image = folder.join("x.qcow2");
    let mut bytes = fs::read(&image).unwrap();
    bytes[88..96].fill(0);
    fs::write(&image, &bytes).unwrap();
    for line in [
        "info x.qcow2",
        "info --output=json x.qcow2",
        "info --backing-chain over.qcow2",
        "check x.qcow2",
        "check --output=json x.qcow2",
        "map x.qcow2",
        "map --output=json over.qcow2",
        "measure -O qcow2 x.qcow2",
        "compare x.qcow2 x.qcow2",
        "convert x.qcow2 y",
        "convert -O qcow2 --bitmaps x.qcow2 y",
    ] {
        let args = words(line);
        let (told, known) = (ours(folder, &args), qemu_img(folder, &args));
        assert!(
            told.stderr.contains("a program lacking bitmap support"),
            "{line}"
        );
        assert_eq!(
            (told.status, &told.stdout),
            (known.status, &known.stdout),
            "{line}"
        );
        let told = told
            .stderr
            .replace("cowhide: ", "qemu-img: ")
            .replace('\n', "");
        assert_eq!(told, known.stderr.replace('\n', ""), "{line}");
    }
}

/// Checks that names and formats end at the first zero byte.
fn names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("base"), 1 << 20, 41);
    for line in [
        "create -q -f qcow2 -b base -F raw x.qcow2",
        "create -q -f qcow2 -o data_file=data1 y.qcow2 1M",
    ] {
        qemu_img(folder, &words(line)).ok();
    }
    fs::rename(folder.join("data1"), folder.join("data")).unwrap();
    let mut bytes = fs::read(folder.join("x.qcow2")).unwrap();
    let name = usize::try_from(u64::from_be_bytes(bytes[8..16].try_into().unwrap())).unwrap();
    bytes[name + 4..name + 9].copy_from_slice(b"\0zz\0\0");
    bytes[16..20].copy_from_slice(&9_u32.to_be_bytes());
    let format = [&0xe279_2aca_u32.to_be_bytes()[..], &3_u32.to_be_bytes()].concat();
    let format = bytes.windows(8).position(|part| part == format).unwrap();
    bytes[format + 7] = 5;
    bytes[format + 11..format + 13].fill(0);
    fs::write(folder.join("x.qcow2"), &bytes).unwrap();
    let mut bytes = fs::read(folder.join("y.qcow2")).unwrap();
    let name = bytes.windows(5).position(|part| part == b"data1").unwrap();
    bytes[name + 4] = 0;
    fs::write(folder.join("y.qcow2"), &bytes).unwrap();
    for line in [
        "info x.qcow2",
        "info --output=json --backing-chain x.qcow2",
        "map x.qcow2",
        "info y.qcow2",
        "info --output=json y.qcow2",
        "map --output=json y.qcow2",
        "convert -O qcow2 y.qcow2 z",
    ] {
        same_answer(folder, &words(line));
    }
}

/// Checks a backing file's name with a protocol.
fn protocols() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, format) in [("foo:bar", "raw"), ("json:{}", "raw"), ("base", "vdi")] {
        let create = [
            "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", format,
        ];
        qemu_img(folder, &[&create[..], &["x.qcow2", "1M"]].concat()).ok();
        fs::write(folder.join("base"), [0; 512]).unwrap();
        let lines: &[&str] = match name {
            "foo:bar" => &["info --backing-chain x.qcow2", "map x.qcow2"],
            _ => &["info x.qcow2"],
        };
        for line in lines {
            same_answer(folder, &words(line));
        }
    }
}

/// Checks devices like `/dev/null`, which QEMU treats as empty disks.
fn devices() {
    let folder = tempfile::tempdir().unwrap();
    let folder: &Path = folder.path();
    write_disk(&folder.join("disk.raw"), 100_352, 42);
    for line in [
        "info /dev/null",
        "info --output=json /dev/zero",
        "info -f host_device /dev/null",
        "info -f qcow2 /dev/null",
        "info /dev/tty",
        "map /dev/null",
        "map --output=json /dev/null",
        "check /dev/null",
        "compare /dev/null disk.raw",
        "compare /dev/null /dev/zero",
        "convert /dev/null x",
        "convert -O qcow2 /dev/zero x",
        "measure -O qcow2 /dev/null",
        "create -f qcow2 -b disk.raw -F file y",
        "info --backing-chain y",
        "map y",
    ] {
        same_answer(folder, &words(line));
    }
}
