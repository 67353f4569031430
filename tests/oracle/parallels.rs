//! Tests of the features of Parallels: both versions, the mark of an image in use, extensions, and damaged tables.
//!
//! Comments name the cases in which QEMU aborts on a damaged image, reads zeroes instead of data, or loses an
//! extension, and cowhide doesn't.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::bitmaps::bits;
use crate::common::{qemu_io, same_contents, write_disk};
use crate::parallels_extension::{
    self as parallels, EXTENSION, GRANULARITY, NAME, TABLE as TABLE_OF_BITS, bitmap, extension,
    seal,
};
use crate::tools::{Tool, ours, qemu_img, same, without_help, words};
use crate::trial;

/// The offsets of fields of the header, in bytes.
const VERSION: usize = 16;
const TRACKS: usize = 28;
const ENTRIES: usize = 32;
const SECTORS: usize = 36;
const IN_USE: usize = 44;
const DATA_OFFSET: usize = 48;
const TABLE: usize = 64;
/// The value of the mark of an image in use.
const MARK: u32 = 0x746f_6e59;
const MIB: usize = 1 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("parallels::options_of_new_images", options),
        trial("parallels::cluster_sizes", cluster_sizes),
        trial("parallels::wrong_headers", wrong_headers),
        trial("parallels::clean_images_say_anything_but_the_mark", marks),
        trial("parallels::an_image_in_use", in_use),
        trial("parallels::the_older_form", older_form),
        trial("parallels::damaged_tables", damaged_tables),
        trial("parallels::leaks", leaks),
        trial("parallels::extensions", extensions),
        trial("parallels::extensions_are_kept_true", written_extensions),
        trial("parallels::wrong_extensions", wrong_extensions),
    ]
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Makes a folder with the image `x`, of 6 MiB, whose clusters 3 and 0 have data, in that order. Returns the image's
/// bytes, too.
fn folder_with_image() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), &words("create -q -f parallels x 6M")).ok();
    let writes = ["write -q -P 7 3M 1M", "write -q -P 9 0 64k"];
    qemu_io(folder.path(), "parallels", "x", &writes);
    let bytes = fs::read(folder.path().join("x")).unwrap();
    assert_eq!(
        [0, 1, 2, 3].map(|block| number(&bytes, TABLE + 4 * block)),
        [2, 0, 0, 1]
    );
    (folder, bytes)
}

/// Asserts that both tools read the contents of `disk`.
fn assert_reads_as(folder: &Path, image: &str, disk: &str) {
    for (tool, name) in [(ours as Tool, "ours.back"), (qemu_img, "theirs.back")] {
        let line = format!("convert -f parallels -O raw {image} {name}");
        tool(folder, &words(&line)).ok();
        assert!(
            same_contents(&folder.join(disk), &folder.join(name)),
            "{image}: {name}"
        );
    }
}

/// Checks options, with some of which qemu-img makes tables that are so long that it doesn't open the image.
fn options() {
    for (list, size) in [
        ("cluster_size=1000", "6M"),
        ("cluster_size=3k", "6M"),
        ("cluster_size=0", "6M"),
        ("cluster_size=2G", "6M"),
        ("cluster_size=16E", "6M"),
        ("cluster_size=1M", "4096T"),
        ("cluster_size=512", "3T"),
        ("cluster_size=64k", "0"),
        ("backing_file=y", "6M"),
    ] {
        let line = format!("create -f parallels -o {list} x {size}");
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let tools: [Tool; 2] = [ours, qemu_img];
        let mut made = [0, 1].map(|which| {
            let folder = folders[which].path();
            let ran = tools[which](folder, &words(&line));
            let bytes = fs::read(folder.join("x")).unwrap_or_default();
            (
                ran.status,
                ran.stdout,
                ran.stderr.replace("qemu-img", "cowhide"),
                bytes,
            )
        });
        made[0].2 = without_help(&made[0].2, &made[1].2);
        assert!(
            made[0] == made[1],
            "{line}: {:?} {:?}",
            made[0].2,
            made[1].2
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let line = "create -f parallels x 512T";
    ours(folder.path(), &words(line)).fails(1, "Image size is too large for this cluster size");
    assert!(!folder.path().join("x").exists());
}

/// Checks cluster sizes that aren't powers of two.
fn cluster_sizes() {
    for size in ["512", "3k", "1000", "64k", "3M"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_disk(&folder.join("disk.raw"), (5 << 20) + 512, 11);
        for (tool, image) in [(ours as Tool, "ours"), (qemu_img, "theirs")] {
            let line =
                format!("convert -f raw -O parallels -o cluster_size={size} disk.raw {image}");
            tool(folder, &words(&line)).ok();
            assert_reads_as(folder, image, "disk.raw");
            for line in ["info", "map --output=json", "check", "check --output=json"] {
                same(folder, &format!("{line} {image}"));
            }
            // This writes over allocated and unallocated clusters.
            write_disk(&folder.join("other.raw"), 3 << 20, 12);
            let over = format!("convert -n -f raw -O parallels other.raw {image}");
            ours(folder, &words(&over)).ok();
            let disk = fs::read(folder.join("disk.raw")).unwrap();
            let other = fs::read(folder.join("other.raw")).unwrap();
            let expected = [&other[..], &disk[other.len()..]].concat();
            fs::write(folder.join("expected.raw"), expected).unwrap();
            assert_reads_as(folder, image, "expected.raw");
            same(folder, &format!("check {image}"));
        }
    }
    // qemu-img reports images with such clusters as damaged, including its own.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), (5 << 20) + 512, 11);
    for line in [
        "convert -f raw -O parallels -o cluster_size=5k disk.raw x",
        "convert -n -f raw -O parallels disk.raw x",
    ] {
        ours(folder, &words(line)).ok();
        ours(folder, &words("convert -f parallels -O raw x back.raw")).ok();
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

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for (at, value) in [
        (0, 7),
        (VERSION, 1),
        (VERSION, 3),
        (TRACKS, 0),
        (TRACKS, 4_186_128),
        (TRACKS, u32::MAX),
        (ENTRIES, 0x2000_0000),
        (ENTRIES, u32::MAX),
        (EXTENSION, 2048),
        (EXTENSION + 4, 0x0040_0000),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x"), wrong).unwrap();
        for line in ["info -f parallels x", "map -f parallels x"] {
            same(folder, line);
        }
    }
    let mut long = bytes.clone();
    put(&mut long, SECTORS + 4, 0x4000_0000);
    fs::write(folder.join("x"), long).unwrap();
    for tool in [ours as Tool, qemu_img] {
        let said = tool(folder, &words("info -f parallels x"));
        assert!(
            said.status == Some(1) && said.stderr.contains("File too large"),
            "{said:?}"
        );
    }
    // qemu-img reads zeroes if the table is too short, or if the file ends in it.
    let mut short = bytes.clone();
    put(&mut short, ENTRIES, 3);
    for wrong in [&short[..], &bytes[..40], &bytes[..66]] {
        fs::write(folder.join("x"), wrong).unwrap();
        qemu_img(folder, &words("info -f parallels x")).ok();
        let said = ours(folder, &words("convert -f parallels -O raw x back.raw"));
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(!folder.join("back.raw").exists());
    }
}

fn marks() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for word in [0x312e_3276, 7, 0] {
        let mut other = bytes.clone();
        put(&mut other, IN_USE, word);
        fs::write(folder.join("x"), &other).unwrap();
        for line in ["check x", "check --output=json x", "info x", "map x"] {
            same(folder, line);
        }
    }
}

/// Checks that an image that wasn't closed can be read. A writer closes it, and frees preallocated space.
fn in_use() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), (5 << 20) + 512, 13);
    for more in [0, 20 * MIB] {
        let mut marked = bytes.clone();
        put(&mut marked, IN_USE, MARK);
        marked.resize(bytes.len() + more, 0xee);
        fs::write(folder.join("x"), &marked).unwrap();
        for line in [
            "check x",
            "check --output=json x",
            "info x",
            "map --output=json x",
        ] {
            same(folder, line);
        }
        ours(folder, &words("convert -f parallels -O raw x back.raw")).ok();
        assert!(
            fs::read(folder.join("x")).unwrap() == marked,
            "only looked at"
        );
        ours(folder, &words("convert -n -f raw -O parallels disk.raw x")).ok();
        let mut disk = fs::read(folder.join("disk.raw")).unwrap();
        disk.resize(6 * MIB, 0);
        fs::write(folder.join("expected.raw"), &disk).unwrap();
        assert_reads_as(folder, "x", "expected.raw");
        same(folder, "check x");
        let after = fs::read(folder.join("x")).unwrap();
        assert_eq!(number(&after, IN_USE), 0);
        assert!(after.len() <= 7 * MIB, "{}", after.len());
        fs::write(folder.join("x"), &marked).unwrap();
        let said = ours(folder, &words("check -r all x"));
        assert!(
            said.stderr
                .contains("Repairing image was not closed correctly"),
            "{said:?}"
        );
        assert!(fs::read(folder.join("x")).unwrap() == bytes, "repaired");
    }
}

/// Checks the older version: offsets in sectors, an optional start of the clusters, and a size of 32 bits.
fn older_form() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    qemu_img(folder, &words("convert -f parallels -O raw x disk.raw")).ok();
    let mut aligned = bytes.clone();
    aligned[..16].copy_from_slice(b"WithoutFreeSpace");
    put(&mut aligned, TABLE, 2 * 2048);
    put(&mut aligned, TABLE + 12, 2048);
    put(&mut aligned, SECTORS + 4, 7);
    let mut odd = [&aligned[..512], &aligned[MIB..]].concat();
    put(&mut odd, TABLE, 1 + 2048);
    put(&mut odd, TABLE + 12, 1);
    put(&mut odd, DATA_OFFSET, 0);
    for image in [aligned, odd] {
        fs::write(folder.join("x"), &image).unwrap();
        for line in [
            "info x",
            "check x",
            "check --output=json x",
            "map --output=json x",
        ] {
            same(folder, line);
        }
        assert_reads_as(folder, "x", "disk.raw");
        fs::write(folder.join("new.raw"), vec![5; 2 * MIB]).unwrap();
        ours(folder, &words("convert -n -f raw -O parallels new.raw x")).ok();
        let disk = fs::read(folder.join("disk.raw")).unwrap();
        let expected = [&[5; 2 * MIB][..], &disk[2 * MIB..]].concat();
        fs::write(folder.join("expected.raw"), expected).unwrap();
        assert_reads_as(folder, "x", "expected.raw");
        same(folder, "check x");
    }
}

/// Checks invalid entries, and two entries of one cluster. qemu-img aborts at some, and loses the data of others.
fn damaged_tables() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 6 * MIB]).unwrap();
    for (at, value, line, is_readable) in [
        (TABLE + 4, 3, "cluster 1 is outside image", false),
        (TABLE + 4, u32::MAX, "cluster 1 is outside image", false),
        (TABLE + 4, 1, "duplicate offset in BAT entry 3", true),
        (DATA_OFFSET, 0, "data_off field has incorrect value", true),
        (
            DATA_OFFSET,
            1 << 30,
            "data_off field has incorrect value",
            true,
        ),
    ] {
        let what = format!("{value:#x} at {at}");
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x"), &wrong).unwrap();
        let said = ours(folder, &words("check x"));
        assert_eq!(said.status, Some(2), "{what}: {said:?}");
        assert!(
            said.stderr.contains(&format!("ERROR {line}")),
            "{what}: {said:?}"
        );
        let back = ours(folder, &words("convert -f parallels -O raw x back.raw"));
        assert_eq!(
            back.status,
            Some(i32::from(!is_readable)),
            "{what}: {back:?}"
        );
        let over = "convert -n -f raw -O parallels disk.raw x";
        ours(folder, &words(over)).fails(1, "the image is damaged");
        assert!(fs::read(folder.join("x")).unwrap() == wrong, "{what}");
        let repaired = ours(folder, &words("check -r all x"));
        assert!(
            repaired.stderr.contains(&format!("Repairing {line}")),
            "{what}: {repaired:?}"
        );
        assert_eq!(repaired.status, Some(0), "{what}: {repaired:?}");
        assert!(
            qemu_img(folder, &words("check x"))
                .ok()
                .starts_with("No errors")
        );
        if is_readable {
            assert_reads_as(folder, "x", "back.raw");
        }
        ours(folder, &words(over)).ok();
    }
    for line in ["check x", "check --output=json x"] {
        let mut wrong = bytes.clone();
        put(&mut wrong, DATA_OFFSET, 0);
        fs::write(folder.join("x"), &wrong).unwrap();
        same(folder, line);
    }
    // qemu-img drops a truncated cluster, of which most data exists.
    fs::write(folder.join("x"), &bytes[..bytes.len() - 4096]).unwrap();
    let said = ours(folder, &words("check -r all x"));
    assert_eq!(said.status, Some(2), "{said:?}");
    assert!(
        said.stderr
            .contains("cluster 0 is cut off by the end of the file"),
        "{said:?}"
    );
    assert_eq!(number(&fs::read(folder.join("x")).unwrap(), TABLE), 2);
}

fn leaks() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for more in [512, 5000, MIB, 3 * MIB + 1] {
        let mut leaky = bytes.clone();
        leaky.resize(bytes.len() + more, 3);
        fs::write(folder.join("x"), &leaky).unwrap();
        for line in ["check x", "check --output=json x"] {
            same(folder, line);
        }
        for what in ["leaks", "all"] {
            fs::write(folder.join("x"), &leaky).unwrap();
            fs::write(folder.join("y"), &leaky).unwrap();
            let said = [(ours as Tool, "x"), (qemu_img, "y")].map(|(tool, name)| {
                let ran = tool(folder, &["check", "-r", what, name]);
                (ran.status, ran.stdout, ran.stderr)
            });
            assert_eq!(said[0], said[1], "{more}");
            assert!(fs::read(folder.join("x")).unwrap() == bytes, "{more}");
        }
    }
}

/// Makes a folder with the image `x`, which has the bits of a dirty bitmap in its last cluster but one, and the
/// extension in its last. Bits 0 and 8 are set, and one beyond the disk. Returns the image's bytes, too.
fn folder_with_extension() -> (tempfile::TempDir, Vec<u8>) {
    let (folder, mut bytes) = folder_with_image();
    let place = bytes.len() as u64 / 512;
    let mut bits = vec![0; MIB];
    bits[..2].fill(1);
    bits[12] = 1;
    bytes.extend(bits);
    let features = bitmap(6 << 20, &[place]);
    parallels::add(&mut bytes, &extension(&features, MIB));
    fs::write(folder.path().join("x"), &bytes).unwrap();
    (folder, bytes)
}

/// Returns the bits of the dirty bitmap of `x`, as a tool merges them into another image's bitmap.
fn bits_of_x(folder: &Path, tool: Tool) -> String {
    let image = "merged.qcow2";
    qemu_img(folder, &words(&format!("create -q -f qcow2 {image} 6M"))).ok();
    let add = format!("bitmap --add -g {GRANULARITY} {image} b");
    qemu_img(folder, &words(&add)).ok();
    let merge = format!("bitmap --merge {NAME} -b x -F parallels {image} b");
    tool(folder, &words(&merge)).ok();
    bits(folder, image, "b")
}

/// Checks that extensions are kept. qemu-img counts an extension as a leak, and reuses its clusters when it writes.
fn extensions() {
    let (folder, bytes) = folder_with_extension();
    let folder = folder.path();
    for line in [
        "info x",
        "info --output=json x",
        "map x",
        "measure -O qcow2 x",
    ] {
        same(folder, line);
    }
    for line in ["check x", "check -r all x", "check -r leaks x"] {
        ours(folder, &words(line)).ok();
    }
    assert!(fs::read(folder.join("x")).unwrap() == bytes);
    let said = ours(folder, &words("info --explain x")).ok();
    assert!(said.contains(NAME), "{said}");
    assert_eq!(bits_of_x(folder, ours), bits_of_x(folder, qemu_img));
    // A bitmap isn't copied with the disk.
    ours(folder, &words("convert --bitmaps -O qcow2 x x.qcow2")).ok();
    same(folder, "info x.qcow2");
    let said = qemu_img(folder, &words("info x.qcow2")).ok();
    assert!(!said.contains("bitmap"), "{said}");
}

/// Checks that writes set bits, in existing and in new clusters of bits.
fn written_extensions() {
    let (folder, bytes) = folder_with_extension();
    let folder = folder.path();
    let end = bytes.len() - MIB;
    for table in [None, Some(0u64), Some(1)] {
        let mut image = bytes.clone();
        if let Some(entry) = table {
            image[end + TABLE_OF_BITS..][..8].copy_from_slice(&entry.to_le_bytes());
            seal(&mut image[end..]);
        }
        fs::write(folder.join("x"), &image).unwrap();
        let before = bits_of_x(folder, qemu_img);
        let mut disk = vec![0; 5 * MIB];
        disk[2 * MIB..2 * MIB + 70_000].fill(3);
        fs::write(folder.join("disk.raw"), &disk).unwrap();
        ours(folder, &words("convert -n -f raw -O parallels disk.raw x")).ok();
        let after = bits_of_x(folder, qemu_img);
        assert_eq!(after, bits_of_x(folder, ours));
        assert_eq!(after == before, table == Some(1), "{before} {after}");
        disk.resize(6 * MIB, 0);
        fs::write(folder.join("expected.raw"), &disk).unwrap();
        assert_reads_as(folder, "x", "expected.raw");
        ours(folder, &words("check x")).ok();
    }
    // Without any write nothing changes.
    fs::write(folder.join("x"), &bytes).unwrap();
    fs::write(folder.join("disk.raw"), []).unwrap();
    ours(folder, &words("convert -n -f raw -O parallels disk.raw x")).ok();
    assert!(fs::read(folder.join("x")).unwrap() == bytes);
}

/// A change of an extension.
type Change = fn(&mut [u8]);

fn wrong_extensions() {
    let (folder, bytes) = folder_with_extension();
    let folder = folder.path();
    let end = bytes.len() - MIB;
    let changes: [(&str, Change); 9] = [
        ("the mark", |it| it[0] = 0),
        ("a feature's mark", |it| it[24] ^= 1),
        ("a feature's flags", |it| it[32] = 1),
        ("a feature longer than the cluster", |it| it[42] = 0x7f),
        ("a feature too short", |it| it[40] = 31),
        ("a table longer than the feature", |it| it[40] = 32),
        ("the size of the disk", |it| it[48] ^= 1),
        ("a table too long", |it| {
            it[40] = 48;
            it[76] = 2;
        }),
        ("bits beyond the end", |it| it[TABLE_OF_BITS + 4] = 9),
    ];
    for (what, change) in changes {
        let mut wrong = bytes.clone();
        change(&mut wrong[end..]);
        seal(&mut wrong[end..]);
        same_refusal(folder, &wrong, what);
    }
    let mut wrong = bytes.clone();
    wrong[end + 500] ^= 1;
    same_refusal(folder, &wrong, "the checksum");
    let mut wrong = bytes;
    put(&mut wrong, EXTENSION, 0x7fff_0000);
    fs::write(folder.join("x"), &wrong).unwrap();
    same(folder, "info x");
}

/// Asserts that both tools refuse such an image, and that a repair of cowhide removes the extension.
fn same_refusal(folder: &Path, image: &[u8], what: &str) {
    fs::write(folder.join("x"), image).unwrap();
    let said = ours(folder, &words("info x"));
    let theirs = qemu_img(folder, &words("info x"));
    let (said, theirs) = (said.stderr, theirs.stderr.replace("qemu-img", "cowhide"));
    // qemu-img reads bits beyond the end of the file as zeroes.
    let is_believed = what == "bits beyond the end";
    assert_eq!(theirs.is_empty(), is_believed, "{what}: {theirs}");
    assert!(is_believed || said == theirs, "{what}: {said} {theirs}");
    let over = words("convert -n -f raw -O parallels expected.raw x");
    fs::write(folder.join("expected.raw"), [5; 512]).unwrap();
    assert_eq!(ours(folder, &over).status, Some(1), "{what}");
    for line in ["check x", "check -r leaks x"] {
        assert_eq!(ours(folder, &words(line)).status, Some(1), "{what}");
    }
    assert!(fs::read(folder.join("x")).unwrap() == image, "{what}");
    let repaired = ours(folder, &words("check -r all x"));
    assert_eq!(repaired.status, Some(0), "{what}: {repaired:?}");
    for line in ["info x", "check x"] {
        same(folder, line);
    }
}
