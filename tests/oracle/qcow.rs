//! Tests of the features of qcow version 1: its header, compressed and encrypted clusters, and damaged tables.
//!
//! Comments name the cases in which QEMU reads zeroes instead of lost data, and cowhide doesn't.

use std::fs;

use libtest_mimic::Trial;

use crate::common::{qemu_io, same_contents, write_disk};
use crate::tools::{
    SECRET, Tool, assert_reads_as, ours, qemu_img, same, same_answer, spec, to_raw, without_help,
    words,
};
use crate::trial;

/// The offsets of fields of the header, in bytes.
const VERSION: usize = 4;
const NAME_OFFSET: usize = 8;
const NAME_LENGTH: usize = 16;
const SIZE: usize = 24;
const BITS: usize = 32;
const METHOD: usize = 36;
const L1_OFFSET: usize = 40;
/// The offset of the L1 table of an image without a backing file, in bytes.
const L1: usize = 48;
const MIB: usize = 1 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("qcow::new_images_have_the_same_bytes", new_images),
        trial("qcow::wrong_headers", wrong_headers),
        trial("qcow::compressed", compressed),
        trial("qcow::encrypted", encrypted),
        trial("qcow::overlays", overlays),
        trial("qcow::commit", commit),
        trial("qcow::refusals", refusals),
        trial("qcow::damaged_tables", damaged_tables),
    ]
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
}

fn put_short(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn new_images() {
    for line in [
        "create -f qcow x 1",
        "create -f qcow x 5M",
        "create -f qcow x 3G",
        "create -f qcow -u -b base -F raw x 5M",
        "create -f qcow -u -b a/much/longer/name -F qcow2 x 3M",
        "create -f qcow --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s x 1M",
        "create -f qcow --object secret,id=s,data=x -o encryption=on,encrypt.key-secret=s x 1M",
        "create -f qcow --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s x 1M",
        "create -f qcow --object secret,id=s,data=x -o encrypt.key-secret=s x 1M",
        "create -f qcow -o encrypt.format=bogus x 1M",
        "create -f qcow -o encrypt.format=aes,encryption=on x 1M",
        "create -f qcow -u -b base -F bogus x 1M",
        "create -f qcow x 0",
    ] {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let tools: [Tool; 2] = [ours, qemu_img];
        let made = [0, 1].map(|which| {
            let folder = folders[which].path();
            let ran = tools[which](folder, &words(line));
            let bytes = fs::read(folder.join("x")).unwrap_or_default();
            (
                ran.status,
                ran.stdout,
                ran.stderr.replace("qemu-img", "cowhide"),
                bytes,
            )
        });
        let [mut made, theirs] = made;
        made.2 = without_help(&made.2, &theirs.2);
        let made = [made, theirs];
        assert!(made[0] == made[1], "{line}: {:?} {:?}", made[0], made[1]);
    }
}

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for base in ["base", "ba"] {
        fs::write(folder.join(base), [0; 512]).unwrap();
    }
    qemu_img(folder, &words("create -q -f qcow -u -b base -F raw x 5M")).ok();
    let bytes = fs::read(folder.join("x")).unwrap();
    let try_it = |bytes: &[u8]| {
        fs::write(folder.join("x"), bytes).unwrap();
        same(folder, "info -f qcow x");
        same(folder, "check -f qcow x");
    };
    for (at, value) in [
        (0, 7),
        (VERSION, 2),
        (VERSION, 0),
        (NAME_LENGTH, 1024),
        (NAME_LENGTH, u32::MAX),
        (NAME_LENGTH, 2),
        (METHOD, 2),
    ] {
        let mut wrong = bytes.clone();
        put_short(&mut wrong, at, value);
        try_it(&wrong);
    }
    for size in [0, 1, 2, 1000, 5_000_000, 1 << 62, 1 << 63, u64::MAX] {
        let mut wrong = bytes.clone();
        put(&mut wrong, SIZE, size);
        try_it(&wrong);
    }
    for (at, bits) in [
        (BITS, 8),
        (BITS, 17),
        (BITS + 1, 5),
        (BITS + 1, 14),
        (BITS, 16),
    ] {
        let mut wrong = bytes.clone();
        wrong[at] = bits;
        try_it(&wrong);
    }
    let mut without = bytes.clone();
    put(&mut without, NAME_OFFSET, 0);
    try_it(&without);
}

/// Checks compressed images, which qemu-img makes completely, but with an error.
fn compressed() {
    for size in [8 * MIB as u64, 5 * MIB as u64 + 512, 512] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_disk(&folder.join("disk.raw"), size, size);
        // This part is compressible.
        let mut disk = fs::read(folder.join("disk.raw")).unwrap();
        for (at, byte) in disk.iter_mut().enumerate().skip(1 << 18).take(1 << 20) {
            *byte = (at / 97) as u8;
        }
        fs::write(folder.join("disk.raw"), &disk).unwrap();
        let line = "convert -c -f raw -O qcow disk.raw theirs";
        assert_eq!(qemu_img(folder, &words(line)).status, Some(1));
        let mut seen = Vec::new();
        for workers in ["1", "8"] {
            let line = format!("convert -c -m {workers} -f raw -O qcow disk.raw ours");
            ours(folder, &words(&line)).ok();
            seen.push(fs::read(folder.join("ours")).unwrap());
        }
        assert!(
            seen[0] == seen[1],
            "the number of workers changes the image"
        );
        for image in ["ours", "theirs"] {
            assert_reads_as(folder, image, "disk.raw");
            for line in ["info", "map --output=json"] {
                same(folder, &format!("{line} {image}"));
            }
            if size > MIB as u64 {
                let map = ours(folder, &["map", "--output=json", image]).ok();
                assert!(map.contains("\"compressed\": true"), "{map}");
            }
        }
        let length = |image| fs::metadata(folder.join(image)).unwrap().len();
        let most = length("theirs") + length("theirs") / 50;
        assert!(length("ours") <= most, "{} {most}", length("ours"));
        // This overwrites compressed clusters, partially and completely.
        let mut over = vec![3; 700_000 / 512 * 512];
        over.truncate(disk.len());
        fs::write(folder.join("over.raw"), &over).unwrap();
        ours(folder, &words("convert -n -f raw -O qcow over.raw ours")).ok();
        let expected = [&over[..], &disk[over.len()..]].concat();
        fs::write(folder.join("expected.raw"), expected).unwrap();
        assert_reads_as(folder, "ours", "expected.raw");
    }
}

fn encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 5 * MIB as u64 + 512, 21);
    for (tool, image) in [(ours as Tool, "ours"), (qemu_img, "theirs")] {
        let args = [
            "convert", "--object", SECRET, "-f", "raw", "-O", "qcow", "-o",
        ];
        let options = "encrypt.format=aes,encrypt.key-secret=s";
        tool(folder, &[&args[..], &[options, "disk.raw", image]].concat()).ok();
        for line in ["info", "info --output=json"] {
            same(folder, &format!("{line} {image}"));
        }
        let to_raw_file = ["convert", "-O", "raw", image, "back.raw"];
        for line in [["map", image].as_slice(), &to_raw_file] {
            for tool in [ours as Tool, qemu_img] {
                let said = tool(folder, line);
                let message = "Parameter 'encrypt.key-secret' is required for cipher";
                assert!(
                    said.status == Some(1) && said.stderr.contains(message),
                    "{said:?}"
                );
            }
        }
        let name = spec(image, "qcow", true);
        for reader in [ours as Tool, qemu_img] {
            to_raw(reader, folder, &name, "back.raw");
            assert!(
                same_contents(&folder.join("disk.raw"), &folder.join("back.raw")),
                "{image}"
            );
        }
        for line in ["map", "map --output=json"] {
            let args = [
                &words(line)[..],
                &["--object", SECRET, "--image-opts", &name],
            ]
            .concat();
            same_answer(folder, &args);
        }
        // cowhide overwrites the image.
        write_disk(&folder.join("over.raw"), 2 * MIB as u64 + 512, 22);
        let args = [
            "convert",
            "--object",
            SECRET,
            "-n",
            "-f",
            "raw",
            "--target-image-opts",
        ];
        ours(folder, &[&args[..], &["over.raw", &name]].concat()).ok();
        let disk = fs::read(folder.join("disk.raw")).unwrap();
        let over = fs::read(folder.join("over.raw")).unwrap();
        fs::write(
            folder.join("expected.raw"),
            [&over[..], &disk[over.len()..]].concat(),
        )
        .unwrap();
        to_raw(qemu_img, folder, &name, "back.raw");
        assert!(
            same_contents(&folder.join("expected.raw"), &folder.join("back.raw")),
            "{image}"
        );
    }
    let args = ["convert", "-c", "--object", SECRET, "-O", "qcow", "-o"];
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let said = ours(folder, &[&args[..], &[options, "disk.raw", "x"]].concat());
    said.fails(
        1,
        "Compression and encryption not supported at the same time",
    );
    assert!(!folder.join("x").exists());
}

fn overlays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("base.raw"), 3 * MIB as u64 + 512, 23);
    let mut disk = fs::read(folder.join("base.raw")).unwrap();
    disk[MIB..2 * MIB].fill(0);
    disk[2 * MIB..2 * MIB + 700].fill(3);
    disk.resize(5 * MIB, 0);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    for (more, name) in [("", "plain"), ("-c", "packed")] {
        let line = format!("convert {more} -f raw -O qcow -B base.raw -F raw disk.raw {name}");
        ours(folder, &words(&line)).ok();
        assert_reads_as(folder, name, "disk.raw");
        for line in ["info", "map --output=json"] {
            same(folder, &format!("{line} {name}"));
        }
        // Partially overwritten clusters have the rest from the base, or their old data.
        qemu_io(
            folder,
            "qcow",
            name,
            &["write -q -P 7 512 512", "write -q -P 8 3M 1k"],
        );
        write_disk(&folder.join("over.raw"), MIB as u64 + 1536, 24);
        qemu_img(folder, &["convert", "-O", "raw", name, "before.raw"]).ok();
        let line = format!("convert -n -f raw -O qcow over.raw {name}");
        ours(folder, &words(&line)).ok();
        let before = fs::read(folder.join("before.raw")).unwrap();
        let over = fs::read(folder.join("over.raw")).unwrap();
        fs::write(
            folder.join("expected.raw"),
            [&over[..], &before[over.len()..]].concat(),
        )
        .unwrap();
        assert_reads_as(folder, name, "expected.raw");
    }
}

/// Checks that a commit empties the image.
fn commit() {
    let both = [ours as Tool, qemu_img].map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        write_disk(&at.join("base.raw"), 4 * MIB as u64, 25);
        qemu_img(at, &words("create -q -f qcow -b base.raw -F raw x")).ok();
        qemu_io(
            at,
            "qcow",
            "x",
            &["write -q -P 7 100k 500k", "write -q -z 1M 1M"],
        );
        let said = tool(at, &["commit", "x"]).ok();
        (
            said,
            fs::read(at.join("x")).unwrap(),
            fs::read(at.join("base.raw")).unwrap(),
        )
    });
    assert!(both[0] == both[1]);
}

fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &words("create -q -f qcow x 1M")).ok();
    qemu_img(folder, &words("create -q -f raw base 1M")).ok();
    for line in [
        "resize x 2M",
        "rebase -f qcow -u -b base -F raw x",
        "snapshot -l x",
        "snapshot -c a x",
        "snapshot -a a x",
        "amend -f qcow -o size=2M x",
        "commit x",
        "check x",
        "measure -O qcow --size 1M",
    ] {
        same(folder, line);
    }
}

/// Makes a folder with the image `x`, of 5 MiB, whose clusters 0, 1 and 256 have data. Returns the image's bytes,
/// too.
fn folder_with_image() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), &words("create -q -f qcow x 5M")).ok();
    let writes = ["write -q -P 7 0 8k", "write -q -P 9 1M 4k"];
    qemu_io(folder.path(), "qcow", "x", &writes);
    let bytes = fs::read(folder.path().join("x")).unwrap();
    (folder, bytes)
}

/// Checks invalid entries, some of which qemu-img reads as zeroes.
fn damaged_tables() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 5 * MIB]).unwrap();
    let table = usize::try_from(number(&bytes, L1)).unwrap();
    let packed = |length: u64, at: u64| 1 << 63 | length << 51 | at;
    let first = number(&bytes, table);
    for (at, value, is_readable) in [
        (table, first + 1, false),
        (table, 1 << 40, false),
        (table, 48, false),
        (table, first + 4096, true),
        (table, packed(100, 1 << 40), false),
        (table, packed(100, first), false),
        (table, packed(4095, bytes.len() as u64 - 10), false),
        (L1, 1 << 40, false),
        (L1, u64::MAX, false),
        (L1, 48, false),
        (L1_OFFSET, 1 << 40, false),
    ] {
        let what = format!("{value:#x} at {at:#x}");
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x"), &wrong).unwrap();
        qemu_img(folder, &["info", "x"]).ok();
        let back = ours(folder, &words("convert -f qcow -O raw x back.raw"));
        assert_eq!(
            back.status,
            Some(i32::from(!is_readable)),
            "{what}: {back:?}"
        );
        let is_data = at == table && value >> 63 != 0 && value != packed(100, 1 << 40);
        let over = ours(folder, &words("convert -n -f raw -O qcow disk.raw x"));
        assert_eq!(over.status, Some(i32::from(!is_data)), "{what}: {over:?}");
        let is_same = fs::read(folder.join("x")).unwrap() == wrong;
        assert!(is_same || is_data, "{what}");
    }
    // The file is truncated in the middle of a cluster.
    fs::write(folder.join("x"), &bytes[..bytes.len() - 100]).unwrap();
    let said = ours(folder, &words("convert -f qcow -O raw x back.raw"));
    assert_eq!(said.status, Some(1), "{said:?}");
}
