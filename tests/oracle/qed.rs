//! Tests of the features of QED: its header, its valid and damaged tables, and its backing files.
//!
//! Comments name the cases in which QEMU accepts a damaged image, or drops data to repair one, and cowhide doesn't.

use std::fs;

use libtest_mimic::Trial;

use crate::common::{qemu_io, same_contents, write_disk};
use crate::tools::{Tool, assert_reads_as, ours, qemu_img, same, without_help, words};
use crate::trial;

/// The offsets of fields of the header, in bytes.
const CLUSTER_SIZE: usize = 4;
const TABLE_SIZE: usize = 8;
const HEADER_SIZE: usize = 12;
const FEATURES: usize = 16;
const COMPAT: usize = 24;
const AUTOCLEAR: usize = 32;
const L1_OFFSET: usize = 40;
const SIZE: usize = 48;
const NAME_OFFSET: usize = 56;
const NAME_LENGTH: usize = 60;
/// The feature bit of an image that has to be checked.
const NEED_CHECK: u64 = 2;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("qed::options_of_new_images", options),
        trial("qed::sizes", sizes),
        trial("qed::subformats", subformats),
        trial("qed::wrong_headers", wrong_headers),
        trial("qed::overlays", overlays),
        trial("qed::over_what_exists", over_what_exists),
        trial("qed::commit_and_rebase", commit_and_rebase),
        trial("qed::resize", resize),
        trial("qed::damaged_tables", damaged_tables),
        trial("qed::an_image_that_has_to_be_checked", need_check),
        trial("qed::cut_files", cut_files),
    ]
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

fn put_short(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Returns the offset of the only L2 table of a small image.
fn l2(bytes: &[u8]) -> usize {
    let l1 = usize::try_from(number(bytes, L1_OFFSET)).unwrap();
    usize::try_from(number(bytes, l1)).unwrap()
}

/// Runs a line in a separate folder for each tool, after lines that prepare it. Asserts that the answers are the
/// same.
fn both(prepare: &[&str], line: &str) -> [tempfile::TempDir; 2] {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let tools: [Tool; 2] = [ours, qemu_img];
    let mut said = [0, 1].map(|which| {
        let folder = folders[which].path();
        for line in prepare {
            qemu_img(folder, &words(line)).ok();
        }
        let ran = tools[which](folder, &words(line));
        let stderr = ran.stderr.replace("qemu-img", "cowhide");
        (ran.status, ran.stdout, stderr)
    });
    said[0].2 = without_help(&said[0].2, &said[1].2);
    assert_eq!(said[0], said[1], "{line}");
    folders
}

fn options() {
    for list in [
        "cluster_size=4k",
        "cluster_size=64M,table_size=1",
        "cluster_size=4096,table_size=16",
        "table_size=1",
        "cluster_size=0",
        "cluster_size=2k",
        "cluster_size=5000",
        "cluster_size=128M",
        "table_size=0",
        "table_size=3",
        "table_size=32",
        "backing_fmt=bogus -u -b base",
        "preallocation=metadata",
    ] {
        let line = format!("create -f qed -o {list} x 1M");
        let folders = both(&[], &line);
        let [ours, theirs] = folders
            .each_ref()
            .map(|folder| fs::read(folder.path().join("x")));
        if let (Ok(ours), Ok(theirs)) = (ours, theirs)
            && !theirs.is_empty()
        {
            assert!(ours == theirs, "{line}");
        }
    }
}

/// Checks sizes. qemu-img computes the longest disk of large clusters in 64 bits, and then refuses all disks. With
/// tables of one cluster it makes images that it doesn't open.
fn sizes() {
    for (list, size) in [
        ("cluster_size=65536", "64T"),
        ("cluster_size=65536", "70368744178177"),
        ("cluster_size=4k,table_size=1", "1G"),
        ("cluster_size=4k,table_size=1", "1073741825"),
    ] {
        both(&[], &format!("create -f qed -o {list} x {size}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3 * MIB, 4);
    for tool in [ours as Tool, qemu_img] {
        let line = "create -q -f qed -o table_size=1 x 3M";
        tool(folder, &words(line)).ok();
        assert_eq!(qemu_img(folder, &words("info x")).status, Some(1));
        ours(folder, &words("convert -n -f raw -O qed disk.raw x")).ok();
        ours(folder, &words("convert -f qed -O raw x back.raw")).ok();
        assert!(same_contents(
            &folder.join("disk.raw"),
            &folder.join("back.raw")
        ));
        assert!(
            ours(folder, &words("check x"))
                .ok()
                .starts_with("No errors")
        );
    }
}

fn subformats() {
    for list in [
        "cluster_size=4k,table_size=2",
        "cluster_size=4k,table_size=4",
        "cluster_size=1M,table_size=2",
        "cluster_size=64k,table_size=16",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // The disk is larger than one L2 table of the smallest clusters maps.
        write_disk(&folder.join("disk.raw"), 9 * MIB + 512, 5);
        for (tool, image) in [(ours as Tool, "ours"), (qemu_img, "theirs")] {
            let line = format!("convert -f raw -O qed -o {list} disk.raw {image}");
            tool(folder, &words(&line)).ok();
            assert_reads_as(folder, image, "disk.raw");
            for line in ["info", "map --output=json", "check", "check --output=json"] {
                same(folder, &format!("{line} {image}"));
            }
        }
        let length = |image| fs::metadata(folder.join(image)).unwrap().len();
        assert_eq!(length("ours"), length("theirs"), "{list}");
    }
}

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for base in ["base", "ba"] {
        fs::write(folder.join(base), [0; 512]).unwrap();
    }
    let create = "create -q -f qed -u -b base -F raw x.qed 5M";
    qemu_img(folder, &words(create)).ok();
    let bytes = fs::read(folder.join("x.qed")).unwrap();
    let try_it = |bytes: &[u8]| {
        fs::write(folder.join("x.qed"), bytes).unwrap();
        for line in ["info -f qed x.qed", "check -f qed x.qed"] {
            same(folder, line);
        }
    };
    for (at, value) in [
        (0, 0x0045_4451),
        (CLUSTER_SIZE, 0),
        (CLUSTER_SIZE, 2048),
        (CLUSTER_SIZE, 65537),
        (CLUSTER_SIZE, 128 << 20),
        (TABLE_SIZE, 0),
        (TABLE_SIZE, 3),
        (TABLE_SIZE, 32),
        (HEADER_SIZE, 2),
        (HEADER_SIZE, u32::MAX),
        (NAME_OFFSET, 65536),
        (NAME_OFFSET, u32::MAX),
        (NAME_LENGTH, 1024),
        (NAME_LENGTH, 4095),
        (NAME_LENGTH, 4096),
        (NAME_LENGTH, 65536),
        (NAME_LENGTH, 2),
    ] {
        let mut wrong = bytes.clone();
        put_short(&mut wrong, at, value);
        try_it(&wrong);
    }
    for (at, value) in [
        (FEATURES, 8),
        (FEATURES, 0xffff_0000_0000_0007),
        (FEATURES, 0),
        (COMPAT, 7),
        (AUTOCLEAR, 7),
        (L1_OFFSET, 0),
        (L1_OFFSET, 1),
        (L1_OFFSET, 2 * 65536),
        (L1_OFFSET, u64::MAX - 65535),
        (SIZE, 511),
        (SIZE, (64 << 40) + 512),
        (SIZE, 0),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        try_it(&wrong);
    }
    for length in [0, 3, 63, 65536, 65536 + 4096] {
        try_it(&bytes[..length]);
    }
}

/// Checks new images with a backing file: of its format only raw is stored, and zeroes hide the file.
fn overlays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("base.raw"), 3 * MIB + 512, 6);
    qemu_img(folder, &words("convert -O qcow2 base.raw base.qcow2")).ok();
    for (format, base) in [("raw", "base.raw"), ("qcow2", "base.qcow2")] {
        for tool in [ours as Tool, qemu_img] {
            let line = format!("create -q -f qed -b {base} -F {format} x.qed");
            tool(folder, &words(&line)).ok();
            for line in [
                "info x.qed",
                "info --output=json x.qed",
                "map --output=json x.qed",
            ] {
                same(folder, line);
            }
            assert_reads_as(folder, "x.qed", "base.raw");
        }
        // The disk has some of the base's data, and is longer.
        let mut disk = fs::read(folder.join("base.raw")).unwrap();
        disk[MIB as usize..2 * MIB as usize].fill(0);
        disk[2 * MIB as usize..2 * MIB as usize + 700].fill(3);
        disk.resize(5 * MIB as usize, 0);
        fs::write(folder.join("disk.raw"), &disk).unwrap();
        for (tool, name) in [(ours as Tool, "ours.qed"), (qemu_img, "theirs.qed")] {
            let line = format!("convert -f raw -O qed -B {base} -F {format} disk.raw {name}");
            tool(folder, &words(&line)).ok();
            assert_reads_as(folder, name, "disk.raw");
            same(folder, &format!("check {name}"));
        }
        let map = |name: &str| qemu_img(folder, &["map", "--output=json", name]).ok();
        let [ours, theirs] = ["ours.qed", "theirs.qed"].map(map);
        let zeroes = |map: &str| {
            map.matches("\"depth\": 0, \"present\": true, \"zero\": true")
                .count()
        };
        assert_eq!(zeroes(&ours), zeroes(&theirs), "{ours}\n{theirs}");
    }
}

/// Checks that writes into an overlay copy the rest of clusters from the backing file.
fn over_what_exists() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("base.raw"), 5 * MIB, 7);
    let base = fs::read(folder.join("base.raw")).unwrap();
    for with_base in [false, true] {
        let create = match with_base {
            true => "create -q -f qed -b base.raw -F raw x.qed",
            false => "create -q -f qed x.qed 5M",
        };
        qemu_img(folder, &words(create)).ok();
        qemu_io(
            folder,
            "qed",
            "x.qed",
            &["write -q -P 7 100k 50k", "write -q -z 1M 1M"],
        );
        write_disk(&folder.join("disk.raw"), 3 * MIB + 1536, 8);
        ours(folder, &words("convert -n -f raw -O qed disk.raw x.qed")).ok();
        let mut expected = fs::read(folder.join("disk.raw")).unwrap();
        match with_base {
            true => expected.extend_from_slice(&base[expected.len()..]),
            false => expected.resize(base.len(), 0),
        }
        fs::write(folder.join("expected.raw"), &expected).unwrap();
        assert_reads_as(folder, "x.qed", "expected.raw");
        for line in [
            "check x.qed",
            "check --output=json x.qed",
            "map --output=json x.qed",
        ] {
            same(folder, line);
        }
        // Another writer can continue with the image.
        qemu_io(folder, "qed", "x.qed", &["write -q -P 9 4M 64k"]);
        assert!(
            qemu_img(folder, &["check", "x.qed"])
                .ok()
                .starts_with("No errors")
        );
    }
}

fn commit_and_rebase() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("base.raw"), 4 * MIB, 9);
    write_disk(&folder.join("other.raw"), 4 * MIB, 10);
    let lines = "create -q -f qed -b base.raw -F raw x.qed";
    qemu_img(folder, &words(lines)).ok();
    qemu_io(
        folder,
        "qed",
        "x.qed",
        &["write -q -P 7 100k 500k", "write -q -z 1M 1M"],
    );
    qemu_img(folder, &words("convert -O raw x.qed now.raw")).ok();
    // After a rebase to another backing file the disk is the same.
    ours(folder, &words("rebase -b other.raw -F raw x.qed")).ok();
    same(folder, "info x.qed");
    assert_reads_as(folder, "x.qed", "now.raw");
    same(folder, "check x.qed");
    // This changes only the name, to shorter and longer ones, and back.
    let long = format!("./{}base.raw", "./".repeat(400));
    for (name, format) in [("b", "qcow2"), (&*long, "raw"), ("other.raw", "raw")] {
        ours(folder, &["rebase", "-u", "-b", name, "-F", format, "x.qed"]).ok();
        same(folder, "info x.qed");
        let info = qemu_img(folder, &["info", "--output=json", "x.qed"]).ok();
        assert!(
            info.contains(&format!("\"backing-filename\": \"{name}\"")),
            "{info}"
        );
    }
    assert_reads_as(folder, "x.qed", "now.raw");
    let before = fs::read(folder.join("x.qed")).unwrap();
    let said = ours(folder, &["commit", "x.qed"]);
    assert_eq!(said.ok(), "Image committed.\n");
    assert!(same_contents(
        &folder.join("now.raw"),
        &folder.join("other.raw")
    ));
    assert!(
        fs::read(folder.join("x.qed")).unwrap() == before,
        "the top keeps its data"
    );
    ours(folder, &["rebase", "-u", "-b", "", "x.qed"]).ok();
    same(folder, "info x.qed");
    same(folder, "commit x.qed");
}

fn resize() {
    let create = "create -q -f qed x 5M";
    for line in [
        "resize x 10M",
        "resize x +512",
        "resize x 5242881",
        "resize x 3M",
        "resize --shrink x 3M",
        "resize --preallocation=full x 20M",
        "resize --preallocation=metadata x 20M",
        "resize x 65T",
        "resize x 64T",
    ] {
        let folders = both(&[create], line);
        let [ours, theirs] = folders
            .each_ref()
            .map(|folder| fs::read(folder.path().join("x")));
        assert!(ours.unwrap() == theirs.unwrap(), "{line}");
    }
    let base = "create -q -f raw base 10M";
    let overlay = "create -q -f qed -b base -F raw x 5M";
    both(&[base, overlay], "resize x 8M");
    // The added part reads as zeroes, whatever data was beyond the disk's end.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &words("create -q -f qed x.qed 5243392")).ok();
    qemu_io(folder, "qed", "x.qed", &["write -q -P 7 5M 512"]);
    let mut bytes = fs::read(folder.join("x.qed")).unwrap();
    let data = usize::try_from(number(&bytes, l2(&bytes) + 80 * 8)).unwrap();
    bytes[data + 512..data + 65536].fill(9);
    fs::write(folder.join("x.qed"), &bytes).unwrap();
    ours(folder, &words("resize -f qed x.qed 6M")).ok();
    let mut expected = vec![0; 6 * MIB as usize];
    expected[5 * MIB as usize..5 * MIB as usize + 512].fill(7);
    fs::write(folder.join("expected.raw"), &expected).unwrap();
    assert_reads_as(folder, "x.qed", "expected.raw");
}

/// Makes a folder with the image `x.qed`, of 5 MiB, whose clusters 0, 1 and 32 have data. Returns the image's bytes,
/// too.
fn folder_with_image() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), &words("create -q -f qed x.qed 5M")).ok();
    let writes = ["write -q -P 7 0 128k", "write -q -P 9 2M 64k"];
    qemu_io(folder.path(), "qed", "x.qed", &writes);
    let bytes = fs::read(folder.path().join("x.qed")).unwrap();
    (folder, bytes)
}

/// Checks invalid entries, and two entries of one cluster: nothing is read or written through them, and the counts
/// are those of qemu-img. A repair of cowhide gives two owners a cluster each.
fn damaged_tables() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 5 * MIB as usize]).unwrap();
    let table = l2(&bytes);
    let first = number(&bytes, table);
    let l1 = usize::try_from(number(&bytes, L1_OFFSET)).unwrap();
    for (at, value, is_readable, is_fixed) in [
        (table + 8, 2, false, true),
        (table + 8, 4096, false, true),
        (table + 8, 1 << 40, false, true),
        (table + 8, u64::MAX - 65535, false, true),
        (table + 8, 65536, true, true),
        (table + 8, first, true, true),
        (l1, 2, false, true),
        (l1, 1 << 40, false, true),
        (l1 + 8, table as u64, true, false),
    ] {
        let what = format!("{value:#x} at {at:#x}");
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x.qed"), &wrong).unwrap();
        for line in ["check -f qed x.qed", "check --output=json -f qed x.qed"] {
            let (ours, theirs) = (ours(folder, &words(line)), qemu_img(folder, &words(line)));
            assert_eq!(
                (ours.status, &*ours.stdout),
                (theirs.status, &*theirs.stdout),
                "{what}"
            );
            assert!(ours.stderr.contains("ERROR: "), "{what}: {ours:?}");
        }
        let back = ours(folder, &words("convert -f qed -O raw x.qed back.raw"));
        assert_eq!(
            back.status,
            Some(i32::from(!is_readable)),
            "{what}: {back:?}"
        );
        let over = "convert -n -f raw -O qed disk.raw x.qed";
        ours(folder, &words(over)).fails(1, "the image is damaged in ");
        let leaks = ours(folder, &words("check -r leaks -f qed x.qed"));
        assert_eq!(leaks.status, Some(2), "{what}: {leaks:?}");
        assert!(fs::read(folder.join("x.qed")).unwrap() == wrong, "{what}");
        let repaired = ours(folder, &words("check -q -r all -f qed x.qed"));
        let again = qemu_img(folder, &words("check -f qed x.qed"));
        if is_fixed {
            assert!(
                [Some(0), Some(3)].contains(&again.status),
                "{what}: {repaired:?} {again:?}"
            );
            // Readable images read the same after the repair.
            if is_readable {
                let fixed = ours(folder, &words("convert -f qed -O raw x.qed fixed.raw"));
                fixed.ok();
                let same = same_contents(&folder.join("back.raw"), &folder.join("fixed.raw"));
                assert!(same, "{what}");
            }
            ours(folder, &words(over)).ok();
        } else {
            assert_eq!(again.status, Some(2), "{what}: {again:?}");
        }
    }
    // A header of 0 clusters leaks the first one, and an additional cluster at the end is leaked.
    for (at, value, more) in [(HEADER_SIZE, Some(0), 0), (0, None, 65536), (0, None, 100)] {
        let mut leaky = bytes.clone();
        if let Some(value) = value {
            put_short(&mut leaky, at, value);
        }
        leaky.resize(bytes.len() + more, 0);
        fs::write(folder.join("x.qed"), &leaky).unwrap();
        for line in [
            "check x.qed",
            "check --output=json x.qed",
            "check -r leaks x.qed",
        ] {
            same(folder, line);
        }
    }
}

/// Checks that an image that wasn't closed can be read, and is checked before it is written.
fn need_check() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let mut marked = bytes.clone();
    put(&mut marked, FEATURES, NEED_CHECK);
    put(&mut marked, AUTOCLEAR, 6);
    fs::write(folder.join("x.qed"), &marked).unwrap();
    for line in ["info x.qed", "check x.qed", "map --output=json x.qed"] {
        same(folder, line);
    }
    assert!(
        fs::read(folder.join("x.qed")).unwrap() == marked,
        "only looked at"
    );
    fs::write(folder.join("disk.raw"), vec![5; 3 * MIB as usize]).unwrap();
    ours(folder, &words("convert -n -f raw -O qed disk.raw x.qed")).ok();
    let after = fs::read(folder.join("x.qed")).unwrap();
    assert_eq!(
        (number(&after, FEATURES), number(&after, AUTOCLEAR)),
        (0, 0)
    );
    same(folder, "check x.qed");
    fs::write(folder.join("x.qed"), &marked).unwrap();
    ours(folder, &words("check -r all x.qed")).ok();
    assert_eq!(
        number(&fs::read(folder.join("x.qed")).unwrap(), FEATURES),
        0
    );
    // qemu-img clears the bit although two entries have the same cluster.
    put(&mut marked, l2(&bytes) + 8, number(&bytes, l2(&bytes)));
    fs::write(folder.join("x.qed"), &marked).unwrap();
    ours(folder, &words("convert -n -f raw -O qed disk.raw x.qed")).fails(1, "damaged");
    assert!(fs::read(folder.join("x.qed")).unwrap() == marked);
}

/// Checks truncated files, of which qemu-img reads the missing part as zeroes.
fn cut_files() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for length in [bytes.len() as u64 - 64 * KIB, bytes.len() as u64 - 1] {
        fs::write(
            folder.join("x.qed"),
            &bytes[..usize::try_from(length).unwrap()],
        )
        .unwrap();
        let said = ours(folder, &words("convert -f qed -O raw x.qed back.raw"));
        assert_eq!(said.status, Some(1), "{length}: {said:?}");
        assert!(!folder.join("back.raw").exists());
        let check = ours(folder, &words("check -f qed x.qed"));
        assert_eq!(check.status, Some(2), "{length}: {check:?}");
    }
}
