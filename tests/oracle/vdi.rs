//! Tests of the features of VDI: its bytes, the fields of its header and the entries of its block map, valid and
//! damaged.
//!
//! Images of VirtualBox differ from QEMU's in the length of the header and in the start of the blocks. They are made
//! here by moving the parts of QEMU's. Comments name the cases in which QEMU accepts a damaged image, and cowhide
//! doesn't.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{qemu_io, same_contents, write_disk};
use crate::tools::{assert_clean, ours, qemu_img, same_answer};
use crate::trial;

/// The offsets of fields of the header, in bytes.
const KIND: usize = 76;
const MAP_OFFSET: usize = 340;
const DATA_OFFSET: usize = 344;
const BLOCK_EXTRA: usize = 380;
const BLOCKS: usize = 384;
const ALLOCATED: usize = 388;
/// The range of the random identifiers of an image and of its last change, in bytes.
const UUIDS: std::ops::Range<usize> = 392..424;
/// The offsets of the block map and of the first block in a small image of QEMU, in bytes.
const MAP: usize = 512;
const DATA: usize = 1024;
const MIB: usize = 1 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("vdi::new_images_have_the_same_bytes", new_images),
        trial("vdi::sizes_beyond_the_limit", beyond_the_limit),
        trial("vdi::blocks_go_where_the_real_tool_puts_them", blocks),
        trial("vdi::wrong_headers", wrong_headers),
        trial("vdi::images_that_need_another_one", needs_another_one),
        trial("vdi::damaged_maps", damaged_maps),
        trial("vdi::repairs", repairs),
        trial("vdi::gaps_are_closed", gaps),
        trial("vdi::discarded_blocks", discarded),
        trial("vdi::a_wrong_count_leads_to_no_block_in_use", wrong_count),
        trial("vdi::tables_that_overlap", overlapping),
        trial("vdi::as_virtualbox_writes_it", as_virtualbox),
        trial("vdi::cut_files", cut_files),
    ]
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

fn without_uuids(mut bytes: Vec<u8>) -> Vec<u8> {
    assert!(bytes[UUIDS].iter().any(|byte| *byte != 0));
    bytes[UUIDS].fill(0);
    bytes
}

/// Makes a folder with the image `x.vdi`, of 5 MiB, whose blocks 0 and 2 have data. Returns the image's bytes, too.
fn folder_with_image() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), &["create", "-q", "-f", "vdi", "x.vdi", "5M"]).ok();
    let writes = ["write -q -P 7 2M 1M", "write -q -P 9 0 64k"];
    qemu_io(folder.path(), "vdi", "x.vdi", &writes);
    let bytes = fs::read(folder.path().join("x.vdi")).unwrap();
    (folder, bytes)
}

/// Converts `x.vdi` to `back.raw`. The tool must end with that status.
fn to_raw(folder: &Path, tool: crate::tools::Tool, status: i32) -> Option<Vec<u8>> {
    let back = folder.join("back.raw");
    let _ = fs::remove_file(&back);
    let args = ["convert", "-f", "vdi", "-O", "raw", "x.vdi", "back.raw"];
    let ran = tool(folder, &args);
    assert_eq!(ran.status, Some(status), "{ran:?}");
    fs::read(back).ok()
}

fn new_images() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut seen = Vec::new();
    for size in ["0", "1", "1000", "1M", "3M", "130M"] {
        for kind in ["off", "on"] {
            let kind = format!("static={kind}");
            for (tool, name) in [(ours as crate::tools::Tool, "ours"), (qemu_img, "theirs")] {
                tool(
                    folder,
                    &["create", "-q", "-f", "vdi", "-o", &kind, name, size],
                )
                .ok();
            }
            let ours = fs::read(folder.join("ours")).unwrap();
            let theirs = fs::read(folder.join("theirs")).unwrap();
            seen.push(ours[UUIDS].to_vec());
            assert!(
                without_uuids(ours) == without_uuids(theirs),
                "{size} {kind}"
            );
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "identifiers are used again");
}

/// Checks that the longest disk has a block map of 2 GiB. A longer disk is refused, and cowhide leaves no file.
fn beyond_the_limit() {
    for size in ["562949819203585", "600T", "7E"] {
        let folder = tempfile::tempdir().unwrap();
        let args = ["create", "-f", "vdi", "x.vdi", size];
        let theirs = qemu_img(folder.path(), &args);
        fs::remove_file(folder.path().join("x.vdi")).unwrap();
        let ours = ours(folder.path(), &args);
        assert_eq!(ours.status, theirs.status);
        assert_eq!(ours.stderr, theirs.stderr.replace("qemu-img", "cowhide"));
        assert!(!folder.path().join("x.vdi").exists());
    }
}

fn blocks() {
    let (folder, _) = folder_with_image();
    let folder = folder.path();
    let mut disk = vec![0; 5 * MIB];
    disk[2 * MIB..3 * MIB].fill(7);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    // Converting, and overwriting an empty image, both allocate one block, the first in the file.
    ours(
        folder,
        &["convert", "-f", "raw", "-O", "vdi", "disk.raw", "new.vdi"],
    )
    .ok();
    ours(folder, &["create", "-q", "-f", "vdi", "over.vdi", "5M"]).ok();
    let args = [
        "convert", "-n", "-f", "raw", "-O", "vdi", "disk.raw", "over.vdi",
    ];
    ours(folder, &args).ok();
    for name in ["new.vdi", "over.vdi"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        let entries: Vec<u32> = (0..5)
            .map(|block| number(&bytes, MAP + 4 * block))
            .collect();
        assert_eq!(
            entries,
            [u32::MAX, u32::MAX, 0, u32::MAX, u32::MAX],
            "{name}"
        );
        assert_eq!(number(&bytes, ALLOCATED), 1, "{name}");
        assert_eq!(bytes.len(), DATA + MIB, "{name}");
        assert!(bytes[DATA..].iter().all(|byte| *byte == 7), "{name}");
    }
}

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for (at, value) in [
        (64, 7),
        (68, 0x0001_0000),
        (68, 0x0002_0001),
        (MAP_OFFSET, 0x201),
        (DATA_OFFSET, 0x401),
        (360, 4096),
        (372, 0x8000_0000),
        (376, 2 << 20),
        (BLOCKS, 4),
        (BLOCKS, u32::MAX),
        (424, 1),
        (440, 1),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x.vdi"), wrong).unwrap();
        for line in [
            &["info", "-f", "vdi", "x.vdi"][..],
            &["map", "-f", "vdi", "x.vdi"],
            &["check", "-f", "vdi", "x.vdi"],
        ] {
            same_answer(folder, line);
        }
    }
}

/// Checks differencing images, and those with extra data, which qemu-img reads wrongly.
fn needs_another_one() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for (at, value, message) in [
        (KIND, 3, "undo images depend on another image"),
        (KIND, 4, "differencing images depend on another image"),
        (KIND, 99, "image type 99"),
        (
            BLOCK_EXTRA,
            512,
            "512 bytes of extra data before each block",
        ),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x.vdi"), &wrong).unwrap();
        qemu_img(folder, &["info", "-f", "vdi", "x.vdi"]).ok();
        for line in [
            &["info", "x.vdi"][..],
            &["check", "x.vdi"],
            &["convert", "-O", "raw", "x.vdi", "back.raw"],
        ] {
            ours(folder, line).fails(1, message);
        }
        assert!(!folder.join("back.raw").exists());
        assert!(fs::read(folder.join("x.vdi")).unwrap() == wrong);
    }
}

/// Checks invalid entries, and two entries of one block: nothing is read or written through them.
fn damaged_maps() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 5 * MIB]).unwrap();
    for (entry, count, is_told_by_qemu) in [
        // The number is within the count of blocks, of which only two are in the file.
        (4, 3, false),
        (5, 2, true),
        (0xffff_fffd, 2, true),
        // This is the block of block 2.
        (0, 3, true),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, MAP + 4, entry);
        put(&mut wrong, ALLOCATED, count);
        fs::write(folder.join("x.vdi"), &wrong).unwrap();
        let check = ["check", "-f", "vdi", "x.vdi"];
        if is_told_by_qemu {
            same_answer(folder, &check);
            same_answer(folder, &[&check[..], &["--output=json"]].concat());
        }
        assert_eq!(ours(folder, &check).status, Some(2), "{entry:#x}");
        // Only a block with two entries can be read.
        let expected = i32::from(entry != 0);
        to_raw(folder, ours, expected);
        let over = [
            "convert", "-n", "-f", "raw", "-O", "vdi", "disk.raw", "x.vdi",
        ];
        assert_eq!(ours(folder, &over).status, Some(1), "{entry:#x}");
        assert!(
            fs::read(folder.join("x.vdi")).unwrap() == wrong,
            "{entry:#x}"
        );
    }
}

/// Checks repairs, which qemu-img doesn't have for this format. It finds the result clean, with the data of all
/// blocks in the file.
fn repairs() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let repair = ["check", "-r", "all", "x.vdi"];
    let first: Vec<u8> = bytes[DATA + MIB..].to_vec();
    let third: Vec<u8> = bytes[DATA..DATA + MIB].to_vec();
    let zeroes = vec![0; MIB];
    for (entry, count, length, expected, fixed) in [
        // The entry is beyond the file, or beyond the blocks.
        (4, 3, bytes.len(), &zeroes, 1),
        (0xffff_fffd, 2, bytes.len(), &zeroes, 1),
        // This is the block of block 2, and both get its data.
        (0, 3, bytes.len(), &third, 1),
        (0, 7, bytes.len(), &third, 2),
        // Only the count is wrong.
        (u32::MAX, 1, bytes.len(), &zeroes, 1),
        // The end of block 0 is missing in the file.
        (u32::MAX, 2, bytes.len() - 4096, &zeroes, 1),
    ] {
        let mut wrong = bytes[..length].to_vec();
        put(&mut wrong, MAP + 4, entry);
        put(&mut wrong, ALLOCATED, count);
        fs::write(folder.join("x.vdi"), &wrong).unwrap();
        let said = ours(folder, &["check", "-r", "leaks", "x.vdi"]);
        assert_eq!(said.status, Some(2), "{entry:#x}: {said:?}");
        assert!(fs::read(folder.join("x.vdi")).unwrap() == wrong);
        let said = ours(folder, &repair);
        assert_eq!(said.status, Some(0), "{entry:#x}: {said:?}");
        let said = said.stdout;
        let count = format!("0 leaked clusters\n    {fixed} corruptions\n");
        assert!(said.contains(&count), "{entry:#x}: {said}");
        assert_clean(folder, "x.vdi");
        let disk = to_raw(folder, qemu_img, 0).unwrap();
        assert!(disk[..65536] == first[..65536], "{entry:#x}");
        assert!(disk[MIB..2 * MIB] == **expected, "{entry:#x}");
        assert!(disk[2 * MIB..3 * MIB] == third, "{entry:#x}");
        // After the repair qemu-img overwrites no other block.
        qemu_io(folder, "vdi", "x.vdi", &["write -q -P 3 4M 1M"]);
        assert_clean(folder, "x.vdi");
        assert!(to_raw(folder, qemu_img, 0).unwrap()[..4 * MIB] == disk[..4 * MIB]);
    }
    // Overlapping tables can't be repaired.
    let mut overlapping = bytes;
    put(&mut overlapping, DATA_OFFSET, 512);
    fs::write(folder.join("x.vdi"), &overlapping).unwrap();
    assert_eq!(ours(folder, &repair).status, Some(2));
    assert!(fs::read(folder.join("x.vdi")).unwrap() == overlapping);
}

/// Checks gaps between blocks. qemu-img uses the count of blocks as the next free block.
fn gaps() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for (entry, count, behind, leaks) in [
        // Block 0 is after two unused ones.
        (3, 2, MIB, 3),
        // A power cut left an unused block at the end.
        (1, 2, MIB, 1),
        (1, 2, 512, 1),
    ] {
        let mut image = bytes.clone();
        image.resize(bytes.len() + 2 * MIB * usize::from(entry == 3) + behind, 8);
        image.copy_within(DATA + MIB..DATA + 2 * MIB, DATA + entry * MIB);
        put(&mut image, MAP, u32::try_from(entry).unwrap());
        put(&mut image, ALLOCATED, count);
        for what in ["leaks", "all"] {
            fs::write(folder.join("x.vdi"), &image).unwrap();
            let before = to_raw(folder, ours, 0).unwrap();
            let said = ours(folder, &["check", "-r", what, "x.vdi"]).ok();
            assert!(said.contains(&format!("{leaks} leaked clusters")), "{said}");
            assert_clean(folder, "x.vdi");
            assert_eq!(
                fs::metadata(folder.join("x.vdi")).unwrap().len() as usize,
                bytes.len()
            );
            assert!(to_raw(folder, qemu_img, 0).unwrap() == before);
            qemu_io(folder, "vdi", "x.vdi", &["write -q -P 3 4M 1M"]);
            assert!(to_raw(folder, ours, 0).unwrap()[..4 * MIB] == before[..4 * MIB]);
            let said = ours(folder, &["check", "-r", what, "x.vdi"]).ok();
            assert_eq!(said, "No errors were found on the image.\n");
        }
    }
}

/// Checks that discarded blocks read as zeroes, and are allocated again by a write.
fn discarded() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let mut given_back = bytes;
    put(&mut given_back, MAP, 0xffff_fffe);
    put(&mut given_back, ALLOCATED, 1);
    fs::write(folder.join("x.vdi"), &given_back).unwrap();
    for line in [
        &["info", "x.vdi"][..],
        &["check", "x.vdi"],
        &["map", "--output=json", "x.vdi"],
    ] {
        same_answer(folder, line);
    }
    let read = to_raw(folder, ours, 0);
    assert!(read == to_raw(folder, qemu_img, 0));
    assert!(read.unwrap()[..2 * MIB].iter().all(|byte| *byte == 0));
    write_disk(&folder.join("disk.raw"), 5 << 20, 4);
    let over = [
        "convert", "-n", "-f", "raw", "-O", "vdi", "disk.raw", "x.vdi",
    ];
    ours(folder, &over).ok();
    same_answer(folder, &["check", "x.vdi"]);
    to_raw(folder, qemu_img, 0);
    assert!(same_contents(
        &folder.join("disk.raw"),
        &folder.join("back.raw")
    ));
}

/// Checks a wrong count. qemu-img writes the next block at the header's count, over other data. cowhide searches for
/// a free block, and corrects the count.
fn wrong_count() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 2 * MIB]).unwrap();
    for count in [0, 1, 4, u32::MAX] {
        let mut wrong = bytes.clone();
        put(&mut wrong, ALLOCATED, count);
        fs::write(folder.join("x.vdi"), &wrong).unwrap();
        let check = ["check", "x.vdi"];
        same_answer(folder, &check);
        assert_eq!(ours(folder, &check).status, Some(2), "{count}");
        let over = [
            "convert", "-n", "-f", "raw", "-O", "vdi", "disk.raw", "x.vdi",
        ];
        ours(folder, &over).ok();
        assert!(
            qemu_img(folder, &check).ok().starts_with("No errors"),
            "{count}"
        );
        let disk = to_raw(folder, qemu_img, 0).unwrap();
        assert!(disk[..2 * MIB].iter().all(|byte| *byte == 5), "{count}");
        assert!(
            disk[2 * MIB..3 * MIB].iter().all(|byte| *byte == 7),
            "{count}"
        );
    }
}

/// Checks overlapping structures, at which qemu-img would write a block over the map or the header.
fn overlapping() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 5 * MIB]).unwrap();
    for (at, value) in [
        (DATA_OFFSET, 512),
        (DATA_OFFSET, 0),
        (MAP_OFFSET, 0),
        (MAP_OFFSET, 1536),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x.vdi"), &wrong).unwrap();
        let said = ours(folder, &["check", "x.vdi"]);
        let line = "ERROR: block map overlaps the header or the blocks";
        assert!(said.stderr.contains(line), "{said:?}");
        assert_eq!(said.status, Some(2));
        let over = [
            "convert", "-n", "-f", "raw", "-O", "vdi", "disk.raw", "x.vdi",
        ];
        ours(folder, &over).fails(1, "the image is damaged");
        assert!(fs::read(folder.join("x.vdi")).unwrap() == wrong);
    }
}

/// Checks the layout of VirtualBox, dynamic and fixed. It has a header of 400 bytes with the geometry after it, and
/// the map and the blocks each start at a MiB.
fn as_virtualbox() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let disk = to_raw(folder, qemu_img, 0).unwrap();
    let dynamic = [
        &bytes[..512],
        &vec![0; MIB - 512],
        &bytes[MAP..DATA],
        &vec![0; MIB - 512],
        &bytes[DATA..],
    ]
    .concat();
    let identity: Vec<u8> = (0..5u32).flat_map(u32::to_le_bytes).collect();
    let fixed = [
        &bytes[..512],
        &vec![0; MIB - 512],
        &identity,
        &vec![0; MIB - identity.len()],
        &disk,
    ]
    .concat();
    for (mut image, kind, allocated) in [(dynamic, 1, 2), (fixed, 2, 5)] {
        put(&mut image, 72, 400);
        put(&mut image, KIND, kind);
        put(&mut image, MAP_OFFSET, 1 << 20);
        put(&mut image, DATA_OFFSET, 2 << 20);
        put(&mut image, ALLOCATED, allocated);
        for (at, value) in [(456, 10), (460, 255), (464, 63), (468, 512)] {
            put(&mut image, at, value);
        }
        fs::write(folder.join("x.vdi"), &image).unwrap();
        for line in [
            &["info", "x.vdi"][..],
            &["info", "--output=json", "x.vdi"],
            &["check", "x.vdi"],
            &["map", "--output=json", "x.vdi"],
            &["map", "x.vdi"],
        ] {
            same_answer(folder, line);
        }
        assert!(to_raw(folder, ours, 0).unwrap() == disk, "kind {kind}");
        write_disk(&folder.join("disk.raw"), 5 << 20, u64::from(kind));
        let over = [
            "convert", "-n", "-f", "raw", "-O", "vdi", "disk.raw", "x.vdi",
        ];
        ours(folder, &over).ok();
        same_answer(folder, &["check", "x.vdi"]);
        to_raw(folder, qemu_img, 0);
        assert!(same_contents(
            &folder.join("disk.raw"),
            &folder.join("back.raw")
        ));
        // Only the count in the header has changed.
        let mut after = fs::read(folder.join("x.vdi")).unwrap();
        after.truncate(512);
        let count = number(&image, ALLOCATED);
        put(&mut after, ALLOCATED, count);
        assert!(after == image[..512], "kind {kind}");
    }
}

/// Checks truncated files, in which qemu-img finds no damage, and reads zeroes.
fn cut_files() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for length in [bytes.len() - MIB, bytes.len() - 1, DATA + 5] {
        fs::write(folder.join("x.vdi"), &bytes[..length]).unwrap();
        let said = ours(folder, &["check", "x.vdi"]);
        assert_eq!(said.status, Some(2), "{length}: {said:?}");
        assert!(
            said.stderr.contains("points after the end of the file"),
            "{length}: {said:?}"
        );
        assert!(to_raw(folder, ours, 1).is_none(), "{length}");
    }
    // All blocks of a static image are allocated, even if the file is too short.
    let create = [
        "create",
        "-q",
        "-f",
        "vdi",
        "-o",
        "static=on",
        "fixed.vdi",
        "2M",
    ];
    qemu_img(folder, &create).ok();
    let whole = fs::read(folder.join("fixed.vdi")).unwrap();
    for length in [DATA + 5, DATA + MIB, whole.len() - 1] {
        fs::write(folder.join("x.vdi"), &whole[..length]).unwrap();
        let file = fs::File::options().write(true).open(folder.join("x.vdi"));
        // The end of the file may be a hole, too.
        for punched in [false, true] {
            if punched {
                let file = file.as_ref().unwrap();
                file.set_len(DATA as u64).unwrap();
                file.set_len(length as u64).unwrap();
            }
            assert_eq!(
                ours(folder, &["check", "x.vdi"]).status,
                Some(2),
                "{length}"
            );
            assert!(to_raw(folder, ours, 1).is_none(), "{length}");
        }
    }
    fs::write(folder.join("x.vdi"), &bytes[..MAP + 8]).unwrap();
    assert_eq!(ours(folder, &["check", "x.vdi"]).status, Some(1));
    assert!(to_raw(folder, ours, 1).is_none());
}
