//! Tests of the features of VPC: its bytes, the sizes of its disks, and the fields of its footer and header, valid
//! and damaged.
//!
//! Images of other programs are made here by changing fields of QEMU's. Comments name the cases in which QEMU accepts
//! a damaged image or reads wrong data, and cowhide doesn't.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{qemu_io, same_contents, write_disk};
use crate::tools::{Tool, ours, qemu_img, same_answer, without_help};
use crate::trial;

/// The length of a footer in bytes.
const FOOTER: usize = 512;
/// The offsets of fields of a footer, in bytes.
const DATA_OFFSET: usize = 16;
const TIME: usize = 24;
const CREATOR: usize = 28;
const CURRENT_SIZE: usize = 48;
const GEOMETRY: usize = 56;
pub const KIND: usize = 60;
const CHECKSUM: usize = 64;
pub const UUID: usize = 68;
/// The offsets of the header, its fields, and the BAT in a dynamic image of QEMU, in bytes.
pub const HEADER: usize = 512;
const TABLE_OFFSET: usize = HEADER + 16;
const ENTRIES: usize = HEADER + 28;
const BLOCK_SIZE: usize = HEADER + 32;
const TABLE: usize = 1536;
const MIB: usize = 1 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("vpc::new_images_have_the_same_bytes", new_images),
        trial("vpc::sizes_are_rounded_to_a_geometry", rounded),
        trial("vpc::wrong_options", wrong_options),
        trial("vpc::blocks_go_where_the_real_tool_puts_them", blocks),
        trial("vpc::fixed_images", fixed),
        trial("vpc::the_size_that_counts", sizes),
        trial("vpc::wrong_headers", wrong_headers),
        trial("vpc::block_sizes_and_longer_tables", block_sizes),
        trial("vpc::lost_footers", lost_footers),
        trial("vpc::a_damaged_copy_of_the_footer", damaged_copy),
        trial("vpc::a_disk_that_starts_with_the_mark", starts_with_mark),
        trial("vpc::damaged_tables", damaged_tables),
        trial("vpc::cut_files", cut_files),
        trial("vpc::new_blocks_are_zero", new_blocks),
        trial("vpc::bitmaps_of_written_blocks", bitmaps),
    ]
}

fn checksum(footer: &mut [u8]) {
    footer[CHECKSUM..CHECKSUM + 4].fill(0);
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[CHECKSUM..CHECKSUM + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Changes fields of the footer, and of its copy if the image has one.
pub fn with_fields(image: &[u8], fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = image.to_vec();
    let end = image.len() - FOOTER;
    let copy = image.starts_with(b"conectix").then_some(0);
    for start in [Some(end), copy].into_iter().flatten() {
        let footer = &mut image[start..start + FOOTER];
        for (at, value) in fields {
            footer[*at..*at + value.len()].copy_from_slice(value);
        }
        checksum(footer);
    }
    image
}

/// Returns the bytes of an image without random ones.
fn comparable(mut image: Vec<u8>) -> Vec<u8> {
    let end = image.len() - FOOTER;
    let starts = [0, end].into_iter().take(1 + usize::from(end > 0));
    for start in starts
        .filter(|start| image[*start..].starts_with(b"conectix"))
        .collect::<Vec<_>>()
    {
        assert!(
            image[start + UUID..start + UUID + 16]
                .iter()
                .any(|byte| *byte != 0)
        );
        let mut right = image[start..start + FOOTER].to_vec();
        checksum(&mut right);
        assert!(image[start..start + FOOTER] == right[..], "checksum");
        for range in [TIME..TIME + 4, CHECKSUM..CHECKSUM + 4, UUID..UUID + 16] {
            image[start + range.start..start + range.end].fill(0);
        }
    }
    image
}

/// Makes a folder with the image `x.vhd`, of 10 MiB, whose blocks 2 and 0 have data, in this order. Returns the
/// image's bytes, too.
pub fn folder_with_image() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(
        folder.path(),
        &["create", "-q", "-f", "vpc", "x.vhd", "10M"],
    )
    .ok();
    let writes = ["write -q -P 7 4M 2M", "write -q -P 9 0 64k"];
    qemu_io(folder.path(), "vpc", "x.vhd", &writes);
    let bytes = fs::read(folder.path().join("x.vhd")).unwrap();
    (folder, bytes)
}

/// Converts `x.vhd` to `back.raw`. The tool must end with that status.
fn to_raw(folder: &Path, tool: Tool, status: i32) -> Option<Vec<u8>> {
    let back = folder.join("back.raw");
    let _ = fs::remove_file(&back);
    let args = ["convert", "-f", "vpc", "-O", "raw", "x.vhd", "back.raw"];
    let ran = tool(folder, &args);
    assert_eq!(ran.status, Some(status), "{ran:?}");
    fs::read(back).ok()
}

/// The arguments that overwrite `x.vhd` with `disk.raw`.
const OVER: [&str; 8] = [
    "convert", "-n", "-f", "raw", "-O", "vpc", "disk.raw", "x.vhd",
];

fn same_reports(folder: &Path) {
    for line in [
        &["info", "-f", "vpc", "x.vhd"][..],
        &["info", "-f", "vpc", "--output=json", "x.vhd"],
        &["map", "-f", "vpc", "x.vhd"],
        &["map", "-f", "vpc", "--output=json", "x.vhd"],
        &["check", "-f", "vpc", "x.vhd"],
    ] {
        same_answer(folder, line);
    }
}

fn new_images() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for size in ["0", "1", "1000", "1M", "10M", "511M", "127G", "1T", "2040G"] {
        for options in [
            "subformat=dynamic",
            "subformat=dynamic,force_size",
            "subformat=fixed",
            "subformat=fixed,force_size",
        ] {
            let is_fixed = options.contains("fixed");
            if is_fixed && (size == "511M" || size.ends_with(['G', 'T'])) {
                continue;
            }
            for (tool, name) in [(ours as Tool, "ours"), (qemu_img, "theirs")] {
                let args = ["create", "-q", "-f", "vpc", "-o", options, name, size];
                tool(folder, &args).ok();
            }
            let [ours, theirs] =
                ["ours", "theirs"].map(|name| fs::read(folder.join(name)).unwrap());
            assert!(comparable(ours) == comparable(theirs), "{size} {options}");
        }
    }
}

/// Checks odd sizes, and those at which the geometry changes.
fn rounded() {
    let sizes: &[u64] = &[
        513,
        5_242_881,
        17_826_304,
        34 << 20,
        35_651_584,
        64 << 20,
        71_303_168,
        100 << 20,
        128 << 20,
        142_606_336,
        250 << 20,
        259_522_560,
        504 << 20,
        (504 << 20) + 512,
        1 << 30,
        31 << 30,
        33_822_350_848,
        33_822_867_456,
        32 << 30,
        126 << 30,
        128 << 30,
        136_899_993_600,
        136_899_993_600 - 512,
    ];
    for size in sizes {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let info = |tool: Tool| {
            let size = size.to_string();
            tool(folder, &["create", "-q", "-f", "vpc", "x.vhd", &size]).ok();
            let footer = fs::read(folder.join("x.vhd")).unwrap();
            (
                footer[CURRENT_SIZE..KIND].to_vec(),
                qemu_img(folder, &["info", "x.vhd"]).ok(),
            )
        };
        assert_eq!(info(ours), info(qemu_img), "{size}");
    }
}

fn wrong_options() {
    for line in [
        "create -f vpc -o subformat=bogus x.vhd 1M",
        "create -f vpc -o subformat= x.vhd 1M",
        "create -f vpc -o subformat=differencing x.vhd 3T",
        "create -f vpc x.vhd 2190433321472",
        "create -f vpc x.vhd 3T",
        "create -f vpc -o subformat=fixed,force_size=on x.vhd 2041G",
        "create -f vpc x.vhd 7E",
        "create -f vpc -o preallocation=metadata x.vhd 1M",
        "create -f vpc -b back.raw -F raw x.vhd",
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("back.raw"), [0; 512]).unwrap();
        let args: Vec<&str> = line.split(' ').collect();
        let theirs = qemu_img(folder.path(), &args);
        let _ = fs::remove_file(folder.path().join("x.vhd"));
        let ours = ours(folder.path(), &args);
        assert_eq!((ours.status, theirs.status), (Some(1), Some(1)), "{line}");
        assert_eq!(ours.stdout, theirs.stdout, "{line}");
        let complaint = theirs.stderr.replace("qemu-img", "cowhide");
        assert_eq!(without_help(&ours.stderr, &complaint), complaint);
        assert!(!folder.path().join("x.vhd").exists());
    }
    let (folder, _) = folder_with_image();
    for rule in ["chs", "current_size", "foo", ""] {
        let name = format!("driver=vpc,file.filename=x.vhd,force_size_calc={rule}");
        same_answer(folder.path(), &["info", "--image-opts", &name]);
    }
}

fn blocks() {
    let (folder, _) = folder_with_image();
    let folder = folder.path();
    let mut disk = vec![0; 10 * MIB];
    disk[4 * MIB..6 * MIB].fill(7);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    // Converting, and overwriting an empty image, both allocate one block, the first in the file.
    ours(
        folder,
        &["convert", "-f", "raw", "-O", "vpc", "disk.raw", "new.vhd"],
    )
    .ok();
    ours(folder, &["create", "-q", "-f", "vpc", "x.vhd", "10M"]).ok();
    ours(folder, &OVER).ok();
    for name in ["new.vhd", "x.vhd"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        let mut entries = [[0xff; 4]; 6];
        entries[2] = 4u32.to_be_bytes();
        assert_eq!(bytes[TABLE..TABLE + 24], *entries.as_flattened(), "{name}");
        assert_eq!(bytes.len(), 2048 + 512 + 2 * MIB + FOOTER, "{name}");
        assert!(bytes[2048..2560].iter().all(|byte| *byte == 0xff), "{name}");
        assert!(bytes[2560..2560 + 2 * MIB].iter().all(|byte| *byte == 7));
        assert!(bytes[..FOOTER] == bytes[bytes.len() - FOOTER..], "{name}");
    }
    same_reports(folder);
}

fn fixed() {
    for (size, options) in [
        (1u64 << 20, "subformat=fixed"),
        (5_243_392, "subformat=fixed,force_size=on"),
        (10_514_432, "subformat=fixed"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_disk(&folder.join("disk.raw"), size, 5);
        let mut images = Vec::new();
        for tool in [qemu_img as Tool, ours] {
            let args = ["convert", "-f", "raw", "-O", "vpc", "-o", options];
            tool(folder, &[&args[..], &["disk.raw", "x.vhd"]].concat()).ok();
            images.push(comparable(fs::read(folder.join("x.vhd")).unwrap()));
        }
        assert!(images[0] == images[1], "{options}");
        same_reports(folder);
        // Only the footer has the format, which isn't probed at the end of a file.
        same_answer(folder, &["info", "x.vhd"]);
        let read = to_raw(folder, ours, 0);
        assert!(read == to_raw(folder, qemu_img, 0));
        write_disk(&folder.join("disk.raw"), size, 6);
        ours(folder, &OVER).ok();
        let after = fs::read(folder.join("x.vhd")).unwrap();
        let footer = after.len() - FOOTER;
        assert!(
            comparable(after)[footer..] == images[0][footer..],
            "{options}"
        );
        let read = to_raw(folder, qemu_img, 0).unwrap();
        let disk = fs::read(folder.join("disk.raw")).unwrap();
        assert!(read[..disk.len()] == disk, "{options}");
    }
    // The footer of an empty disk is at the start, where qemu-img treats it as a copy.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = ["create", "-q", "-f", "vpc", "-o", "subformat=fixed"];
    ours(folder, &[&args[..], &["x.vhd", "0"]].concat()).ok();
    assert!(to_raw(folder, ours, 0).unwrap().is_empty());
}

/// Checks that the creator or an option decides the size.
fn sizes() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let larger = (11u64 << 20).to_be_bytes();
    let greatest: &[u8] = &[0xff, 0xff, 16, 255];
    for creator in [
        b"vpc ", b"qemu", b"win ", b"qem2", b"d2v\0", b"tap\0", b"vbox", b"vs  ",
    ] {
        for fields in [
            &[(CREATOR, &creator[..]), (CURRENT_SIZE, &larger)][..],
            &[(CREATOR, &creator[..]), (CURRENT_SIZE, &[0; 8])],
            &[
                (CREATOR, &creator[..]),
                (CURRENT_SIZE, &5000u64.to_be_bytes()),
            ],
            &[
                (CREATOR, &creator[..]),
                (CURRENT_SIZE, &larger),
                (GEOMETRY, greatest),
            ],
            &[(CREATOR, &creator[..]), (GEOMETRY, &[0; 4])],
        ] {
            fs::write(folder.join("x.vhd"), with_fields(&bytes, fields)).unwrap();
            for rule in ["", ",force_size_calc=chs", ",force_size_calc=current_size"] {
                let name = format!("driver=vpc,file.filename=x.vhd{rule}");
                let args = ["info", "--image-opts", &name];
                let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
                assert_eq!(ours.stdout, theirs.stdout, "{creator:?} {fields:?} {rule}");
                assert_eq!(ours.status, theirs.status);
                // The end of the disk would be lost, which qemu-img doesn't report.
                let goes_by_geometry = matches!(creator, b"vpc " | b"qemu");
                let is_smaller = fields.len() == 2 && [&larger[..], &[0; 4]].contains(&fields[1].1);
                let loses = goes_by_geometry && is_smaller && rule.is_empty();
                assert_eq!(ours.stderr.contains("warning: the geometry"), loses);
            }
        }
    }
    let longest = (3u64 << 40).to_be_bytes();
    for creator in [b"win ", b"qemu"] {
        let fields: &[(usize, &[u8])] = &[
            (CREATOR, creator),
            (CURRENT_SIZE, &longest),
            (GEOMETRY, greatest),
        ];
        fs::write(folder.join("x.vhd"), with_fields(&bytes, fields)).unwrap();
        same_answer(folder, &["info", "x.vhd"]);
    }
}

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let cases: &[(usize, &[u8])] = &[
        (HEADER, b"x"),
        (BLOCK_SIZE, &(3u32 << 20).to_be_bytes()),
        (BLOCK_SIZE, &[0; 4]),
        (BLOCK_SIZE, &256u32.to_be_bytes()),
        (BLOCK_SIZE, &(1u32 << 20).to_be_bytes()),
        (ENTRIES, &3u32.to_be_bytes()),
        (ENTRIES, &[0xff; 4]),
        (ENTRIES, &(i32::MAX / 4 + 1).to_be_bytes()),
        (TABLE_OFFSET, &(1u64 << 40).to_be_bytes()),
    ];
    for (at, value) in cases {
        let mut wrong = bytes.clone();
        wrong[*at..*at + value.len()].copy_from_slice(value);
        fs::write(folder.join("x.vhd"), wrong).unwrap();
        for line in [&["info", "x.vhd"][..], &["map", "x.vhd"]] {
            same_answer(folder, line);
        }
    }
    for place in [1u64 << 40, 2048] {
        let wrong = with_fields(&bytes, &[(DATA_OFFSET, &place.to_be_bytes())]);
        fs::write(folder.join("x.vhd"), wrong).unwrap();
        same_answer(folder, &["info", "x.vhd"]);
    }
    for length in [0, 100, 511, 1000] {
        fs::write(folder.join("x.vhd"), vec![0; length]).unwrap();
        same_answer(folder, &["info", "-f", "vpc", "x.vhd"]);
        fs::write(folder.join("x.vhd"), &bytes[..length]).unwrap();
        same_answer(folder, &["info", "-f", "vpc", "x.vhd"]);
    }
}

/// Checks other block sizes, whose bitmaps have other lengths, and tables that are longer than necessary.
fn block_sizes() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for (block_size, bitmap) in [(4096usize, 512usize), (512 << 10, 512), (4 << 20, 1024)] {
        let size = 8 * MIB;
        let entries = size / block_size;
        let table = (entries * 4 + 8).next_multiple_of(512);
        let fields: &[(usize, &[u8])] = &[
            (CREATOR, b"win "),
            (CURRENT_SIZE, &(size as u64).to_be_bytes()),
        ];
        let mut image = with_fields(&bytes, fields)[..TABLE].to_vec();
        let footer = image[..FOOTER].to_vec();
        image[BLOCK_SIZE..BLOCK_SIZE + 4].copy_from_slice(&(block_size as u32).to_be_bytes());
        image[ENTRIES..ENTRIES + 4].copy_from_slice(&(entries as u32 + 2).to_be_bytes());
        image.resize(TABLE + table, 0xff);
        // The last block comes first, and the first one last.
        for block in [entries - 1, 0] {
            let sector = u32::try_from(image.len() / 512).unwrap();
            let entry = TABLE + 4 * block;
            image[entry..entry + 4].copy_from_slice(&sector.to_be_bytes());
            image.resize(image.len() + bitmap, 0xff);
            image.resize(image.len() + block_size, (block % 255) as u8 + 1);
        }
        image.extend(&footer);
        fs::write(folder.join("x.vhd"), &image).unwrap();
        same_reports(folder);
        let read = to_raw(folder, ours, 0);
        assert!(read == to_raw(folder, qemu_img, 0), "{block_size}");
        assert_eq!(read.unwrap()[0], 1);
        write_disk(&folder.join("disk.raw"), size as u64, block_size as u64);
        ours(folder, &OVER).ok();
        to_raw(folder, qemu_img, 0).unwrap();
        assert!(same_contents(
            &folder.join("disk.raw"),
            &folder.join("back.raw")
        ));
        let after = fs::read(folder.join("x.vhd")).unwrap();
        assert!(after[after.len() - FOOTER..] == footer, "{block_size}");
    }
}

/// Checks that a dynamic image is read by its copy of the footer, and that the last byte of a footer may be missing.
fn lost_footers() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 10 << 20, 8);
    let mut overwritten = bytes.clone();
    let end = bytes.len() - FOOTER;
    overwritten[end..].fill(0xee);
    for image in [&bytes[..bytes.len() - 1], &bytes[..end], &overwritten] {
        fs::write(folder.join("x.vhd"), image).unwrap();
        same_reports(folder);
        let read = to_raw(folder, ours, 0);
        assert!(read == to_raw(folder, qemu_img, 0));
        // The next new block restores the footer.
        ours(folder, &OVER).ok();
        let after = fs::read(folder.join("x.vhd")).unwrap();
        assert!(after[after.len() - FOOTER..] == bytes[..FOOTER]);
        let back = to_raw(folder, qemu_img, 0).unwrap();
        assert!(back[..10 * MIB] == fs::read(folder.join("disk.raw")).unwrap());
    }
    let args = ["create", "-q", "-f", "vpc", "-o", "subformat=fixed"];
    qemu_img(folder, &[&args[..], &["x.vhd", "2M"]].concat()).ok();
    let whole = fs::read(folder.join("x.vhd")).unwrap();
    fs::write(folder.join("x.vhd"), &whole[..whole.len() - 1]).unwrap();
    same_reports(folder);
    fs::write(folder.join("x.vhd"), &whole[..whole.len() - 512]).unwrap();
    same_answer(folder, &["info", "-f", "vpc", "x.vhd"]);
}

/// Checks an image with a damaged copy and a valid footer, which qemu-img refuses.
fn damaged_copy() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let disk = to_raw(folder, qemu_img, 0).unwrap();
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(folder.join("x.vhd"), &damaged).unwrap();
    let args = ["info", "x.vhd"];
    let theirs = qemu_img(folder, &args);
    assert!(theirs.stderr.contains("Incorrect header checksum"));
    let said = ours(folder, &args);
    assert_eq!(said.status, Some(0));
    assert!(
        said.stderr.contains("the footer at its end is used"),
        "{said:?}"
    );
    assert!(to_raw(folder, ours, 0).unwrap() == disk);
    // Writing repairs the copy.
    fs::write(folder.join("disk.raw"), &disk[..MIB]).unwrap();
    ours(folder, &OVER).ok();
    assert!(to_raw(folder, qemu_img, 0).unwrap() == disk);
    // With both damaged the image can't be read.
    let end = damaged.len() - 100;
    damaged[end] ^= 1;
    fs::write(folder.join("x.vhd"), &damaged).unwrap();
    same_answer(folder, &args);
}

/// Checks a fixed disk into which a guest has written the magic number or a whole footer. qemu-img reads that as a
/// dynamic image.
fn starts_with_mark() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for start in [&b"conectix"[..], &bytes[..2048]] {
        let mut disk = vec![3; 2 * MIB];
        disk[..start.len()].copy_from_slice(start);
        fs::write(folder.join("disk.raw"), &disk).unwrap();
        let args = ["convert", "-f", "raw", "-O", "vpc", "-o"];
        let more = ["subformat=fixed,force_size=on", "disk.raw", "x.vhd"];
        ours(folder, &[&args[..], &more].concat()).ok();
        assert!(to_raw(folder, ours, 0).unwrap() == disk);
        ours(folder, &OVER).ok();
        assert!(to_raw(folder, ours, 0).unwrap() == disk);
    }
}

/// Checks entries that point to the metadata, or two of one block. qemu-img reads and writes all of them.
fn damaged_tables() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 5 * MIB]).unwrap();
    for (entry, is_readable) in [(0u32, false), (3, false), (4, true), (5, true)] {
        let mut wrong = bytes.clone();
        wrong[TABLE + 4..TABLE + 8].copy_from_slice(&entry.to_be_bytes());
        fs::write(folder.join("x.vhd"), &wrong).unwrap();
        let read = to_raw(folder, ours, i32::from(!is_readable));
        let theirs = to_raw(folder, qemu_img, 0);
        assert!(!is_readable || read == theirs, "{entry}");
        ours(folder, &OVER).fails(1, "the image is damaged in");
        assert!(fs::read(folder.join("x.vhd")).unwrap() == wrong);
    }
}

fn cut_files() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), [5; 512]).unwrap();
    for length in [bytes.len() - 4096, bytes.len() - 2 * MIB, 4096, 1600] {
        fs::write(folder.join("x.vhd"), &bytes[..length]).unwrap();
        for line in [
            &["info", "x.vhd"][..],
            &["info", "--output=json", "x.vhd"],
            &["check", "x.vhd"],
            &["snapshot", "-l", "x.vhd"],
            &["map", "x.vhd"],
            &["convert", "-O", "raw", "x.vhd", "back.raw"],
            &["compare", "x.vhd", "x.vhd"],
        ] {
            same_answer(folder, line);
        }
        ours(folder, &OVER).fails(1, "The image has been truncated");
        // The rest can be read with `--salvage`.
        let args = ["convert", "--salvage", "-O", "raw", "x.vhd", "back.raw"];
        let _ = ours(folder, &args);
        let back = fs::read(folder.join("back.raw")).unwrap();
        assert_eq!(back.len(), 10_514_432);
        fs::remove_file(folder.join("back.raw")).unwrap();
    }
    // This is a truncated fixed disk, of which qemu-img reads the footer as data, and zeroes.
    let args = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
    ];
    fs::write(folder.join("disk.raw"), vec![5; 2 * MIB]).unwrap();
    qemu_img(folder, &[&args[..], &["disk.raw", "x.vhd"]].concat()).ok();
    let whole = fs::read(folder.join("x.vhd")).unwrap();
    let cut = [&whole[..MIB], &whole[2 * MIB..]].concat();
    fs::write(folder.join("x.vhd"), cut).unwrap();
    to_raw(folder, qemu_img, 0).unwrap();
    let args = ["convert", "-f", "vpc", "-O", "raw", "x.vhd", "back.raw"];
    ours(folder, &args).fails(1, "has 1048576 before its footer");
    ours(folder, &OVER).fails(1, "has 1048576 before its footer");
}

/// Checks new blocks. qemu-img shows a guest the old data of the file in them: an old footer, and the data before it.
fn new_blocks() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let disk = to_raw(folder, qemu_img, 0).unwrap();
    let end = bytes.len() - FOOTER;
    for gap in [0, 512, 100 << 10, 2 * MIB + 512, 5 * MIB] {
        let image = [&bytes[..end], &vec![0xee; gap], &bytes[end..]].concat();
        fs::write(folder.join("x.vhd"), image).unwrap();
        let source = folder.join("disk.raw");
        let mut written = disk.clone();
        written[2 * MIB..2 * MIB + 512].fill(1);
        fs::write(&source, &written[..2 * MIB + 512]).unwrap();
        ours(folder, &OVER).ok();
        assert!(to_raw(folder, qemu_img, 0).unwrap() == written, "{gap}");
        let after = fs::read(folder.join("x.vhd")).unwrap();
        assert!(after[after.len() - FOOTER..] == bytes[end..], "{gap}");
    }
}

/// Checks that bitmaps have bits for written data, since other programs read them.
fn bitmaps() {
    let (folder, mut bytes) = folder_with_image();
    let folder = folder.path();
    // Block 2 is the first in the file.
    bytes[2048..2560].fill(0x0f);
    fs::write(folder.join("x.vhd"), &bytes).unwrap();
    let read = to_raw(folder, ours, 0);
    assert!(read == to_raw(folder, qemu_img, 0));
    fs::write(folder.join("disk.raw"), vec![5; 5 * MIB]).unwrap();
    ours(folder, &OVER).ok();
    let after = fs::read(folder.join("x.vhd")).unwrap();
    assert!(after[2048..2560].iter().all(|byte| *byte == 0xff));
}
