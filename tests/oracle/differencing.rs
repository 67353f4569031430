//! Tests of differencing disks of Virtual PC and Hyper-V, which qemu-img doesn't read: it treats the parent of a VHD
//! as zeroes, and refuses a VHDX. The images are made here from its own.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::qemu_io;
use crate::tools::{ours, qemu_img};
use crate::{trial, vhdx, vpc};

const MIB: usize = 1 << 20;
const SECTOR: usize = 512;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("differencing::vhd", of_vhd),
        trial("differencing::vhd_whose_parent_is_fixed", over_fixed),
        trial("differencing::vhdx", of_vhdx),
    ]
}

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Asserts that the image `child` has that disk with the parent that it names, and can't be read with another one.
fn assert_child(folder: &Path, format: &str, child: &str, disk: &[u8]) {
    let convert = ["convert", "-f", format, "-O", "raw", child, "back.raw"];
    ours(folder, &convert).ok();
    assert!(fs::read(folder.join("back.raw")).unwrap() == disk);
    fs::remove_file(folder.join("back.raw")).unwrap();
    let info = ours(folder, &["info", child]).ok();
    assert!(
        info.contains(&format!("backing file format: {format}")),
        "{info}"
    );
    // `map` reports each part in the right file.
    fs::write(folder.join("disk.raw"), disk).unwrap();
    ours(folder, &["compare", "-F", "raw", child, "disk.raw"]).ok();
    ours(folder, &["map", "--output=json", child]).ok();
    // No named file is opened with `--untrusted`, and nothing can be written.
    let untrusted = [&convert[..], &["--untrusted"]].concat();
    ours(folder, &untrusted).fails(1, "with --untrusted no file is opened");
    let before = fs::read(folder.join(child)).unwrap();
    let over = [
        "convert", "-n", "-f", "raw", "-O", format, "disk.raw", child,
    ];
    ours(folder, &over).fails(1, "which this version only reads");
    assert!(fs::read(folder.join(child)).unwrap() == before);
    assert!(!folder.join("back.raw").exists());
}

/// Asserts that a changed child is refused with that reason.
fn refused(folder: &Path, format: &str, child: &[u8], reason: &str) {
    fs::write(folder.join("wrong"), child).unwrap();
    let convert = ["convert", "-f", format, "-O", "raw", "wrong", "back.raw"];
    ours(folder, &convert).fails(1, reason);
    assert!(!folder.join("back.raw").exists());
}

/// Makes a child of `parent` from an image with data in blocks 2 and 0. Of block 2 only four of eight sectors are
/// valid.
pub fn child_of(image: &[u8], parent: &[u8], name: &[u8]) -> Vec<u8> {
    let footer = image.len() - SECTOR;
    let mut child = vpc::with_fields(image, &[(vpc::KIND, &4u32.to_be_bytes())]);
    child[2048..2560].fill(0x0f);
    let mut locator = vec![0; name.len().next_multiple_of(SECTOR)];
    locator[..name.len()].copy_from_slice(name);
    let header = &mut child[vpc::HEADER..vpc::HEADER + 1024];
    let uuid = &parent[parent.len() - SECTOR + vpc::UUID..][..16];
    header[40..56].copy_from_slice(uuid);
    header[576..580].copy_from_slice(b"W2ru");
    header[580..584].copy_from_slice(&512u32.to_be_bytes());
    header[584..588].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
    header[592..600].copy_from_slice(&(footer as u64).to_be_bytes());
    let end = child.split_off(footer);
    [child, locator, end].concat()
}

/// Returns the disk of such a child over a parent that is full of threes.
fn disk_of_child(image: &Path, size: usize) -> Vec<u8> {
    let folder = image.parent().unwrap();
    let line = ["convert", "-f", "vpc", "-O", "raw", "x.vhd", "own.raw"];
    qemu_img(folder, &line).ok();
    let own = fs::read(folder.join("own.raw")).unwrap();
    let mut disk = vec![3; size];
    disk[..2 * MIB].copy_from_slice(&own[..2 * MIB]);
    for sector in (0..2 * MIB / SECTOR).filter(|sector| sector % 8 >= 4) {
        let at = 4 * MIB + sector * SECTOR;
        disk[at..at + SECTOR].copy_from_slice(&own[at..at + SECTOR]);
    }
    disk
}

fn of_vhd() {
    let (folder, image) = vpc::folder_with_image();
    let folder = folder.path();
    let size = 10_514_432;
    fs::create_dir(folder.join("base")).unwrap();
    qemu_img(
        folder,
        &["create", "-q", "-f", "vpc", "base/parent.vhd", "10M"],
    )
    .ok();
    qemu_io(
        folder,
        "vpc",
        "base/parent.vhd",
        &[format!("write -q -P 3 0 {size}")],
    );
    let parent = fs::read(folder.join("base/parent.vhd")).unwrap();
    let disk = disk_of_child(&folder.join("x.vhd"), size);
    for name in [
        "base\\parent.vhd",
        ".\\base\\parent.vhd",
        ".\\base\\parent.vhd\0",
    ] {
        let child = child_of(&image, &parent, &utf16(name));
        fs::write(folder.join("child.vhd"), child).unwrap();
        assert_child(folder, "vpc", "child.vhd", &disk);
    }
    for name in [
        "C:\\base\\parent.vhd",
        "/etc/passwd",
        "nbd:localhost",
        "\\\\s\\parent.vhd",
        "",
    ] {
        let child = child_of(&image, &parent, &utf16(name));
        refused(
            folder,
            "vpc",
            &child,
            "its parent has no name that is relative",
        );
    }
    let missing = child_of(&image, &parent, &utf16("missing.vhd"));
    refused(folder, "vpc", &missing, "No such file");
    let other = child_of(&image, &image, &utf16("base\\parent.vhd"));
    refused(
        folder,
        "vpc",
        &other,
        "has changed since the image above it was made",
    );
    // Without a locator, the name in the header is used.
    let mut named = child_of(&image, &parent, &utf16("base\\parent.vhd"));
    named[vpc::HEADER + 576..vpc::HEADER + 580].fill(0);
    let name: Vec<u8> = "base\\parent.vhd"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    named[vpc::HEADER + 64..vpc::HEADER + 64 + name.len()].copy_from_slice(&name);
    fs::write(folder.join("child.vhd"), named).unwrap();
    assert_child(folder, "vpc", "child.vhd", &disk);
}

/// Checks a fixed parent, which has no magic number at its start, and children of children.
fn over_fixed() {
    let (folder, image) = vpc::folder_with_image();
    let folder = folder.path();
    let size = 10_514_432;
    let create = [
        "create",
        "-q",
        "-f",
        "vpc",
        "-o",
        "subformat=fixed",
        "parent.vhd",
        "10M",
    ];
    qemu_img(folder, &create).ok();
    qemu_io(
        folder,
        "vpc",
        "parent.vhd",
        &[format!("write -q -P 3 0 {size}")],
    );
    let parent = fs::read(folder.join("parent.vhd")).unwrap();
    let disk = disk_of_child(&folder.join("x.vhd"), size);
    let child = child_of(&image, &parent, &utf16("parent.vhd"));
    fs::write(folder.join("child.vhd"), &child).unwrap();
    assert_child(folder, "vpc", "child.vhd", &disk);
    let grandchild = child_of(&image, &child, &utf16("child.vhd"));
    fs::write(folder.join("grandchild.vhd"), grandchild).unwrap();
    assert_child(folder, "vpc", "grandchild.vhd", &disk);
}

/// Makes a child with blocks that are in the parent, partly present, zero, and fully present.
pub fn vhdx_child(image: &[u8], linkage: &str, name: &str) -> Vec<u8> {
    let mut child = image.to_vec();
    let kind: [u8; 16] = [
        0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59,
        0x13,
    ];
    let mut locator = kind.to_vec();
    locator.extend([0, 0, 2, 0]);
    let mut texts = Vec::new();
    for (key, value) in [("parent_linkage", linkage), ("relative_path", name)] {
        let (key, value) = (utf16(key), utf16(value));
        let start = 20 + 2 * 12 + texts.len();
        let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        locator.extend(number(start));
        locator.extend(number(start + key.len()));
        locator.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
        locator.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        texts.extend([key, value].concat());
    }
    locator.extend(texts);
    let item: [u8; 16] = [
        0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab,
        0x0c,
    ];
    let metadata = 3 * MIB;
    let entry = metadata + 32 + 5 * 32;
    child[metadata + 10] = 6;
    vhdx::put(&mut child, entry, &item);
    vhdx::put(&mut child, entry + 16, &(65536u32 + 128).to_le_bytes());
    vhdx::put(
        &mut child,
        entry + 20,
        &u32::try_from(locator.len()).unwrap().to_le_bytes(),
    );
    vhdx::put(&mut child, entry + 24, &[4]);
    vhdx::put(&mut child, metadata + 65536 + 128, &locator);
    // This sets the flag that the disk has a parent.
    child[metadata + 65536 + 4] |= 2;
    let place = child.len();
    for (index, value) in [
        (0, 0),
        (1, vhdx::DATA as u64 | 7),
        (2, 2),
        (4096, place as u64 | 6),
    ] {
        vhdx::put(&mut child, vhdx::TABLE + 8 * index, &value.to_le_bytes());
    }
    child.resize(place + MIB, 0);
    // Block 1 has the first four of every eight sectors.
    child[place + 256..place + 512].fill(0x0f);
    child
}

fn of_vhdx() {
    let (folder, image) = vhdx::folder_with_image();
    let folder = folder.path();
    let create = ["create", "-q", "-f", "vhdx", "parent.vhdx", "4M"];
    qemu_img(folder, &create).ok();
    qemu_io(folder, "vhdx", "parent.vhdx", &["write -q -P 3 0 4M"]);
    let parent = fs::read(folder.join("parent.vhdx")).unwrap();
    // The content id is in the current header.
    let sequence = |at: usize| u64::from_le_bytes(parent[at + 8..at + 16].try_into().unwrap());
    let header = [64 << 10, 128 << 10]
        .into_iter()
        .max_by_key(|at| sequence(*at));
    let id = &parent[header.unwrap() + 32..][..16];
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut linkage = String::from("{");
    for (place, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            linkage.push('-');
        }
        linkage += &format!("{:02x}", id[at]);
    }
    linkage.push('}');
    let mut disk = vec![3; 4 * MIB];
    for sector in (0..MIB / SECTOR).filter(|sector| sector % 8 < 4) {
        disk[MIB + sector * SECTOR..][..SECTOR].fill(7);
    }
    disk[2 * MIB..].fill(0);
    disk[3 * MIB..3 * MIB + (64 << 10)].fill(9);
    for name in ["parent.vhdx", ".\\parent.vhdx"] {
        fs::write(
            folder.join("child.vhdx"),
            vhdx_child(&image, &linkage, name),
        )
        .unwrap();
        assert_child(folder, "vhdx", "child.vhdx", &disk);
    }
    ours(folder, &["check", "child.vhdx"]).ok();
    let absolute = vhdx_child(&image, &linkage, "C:\\parent.vhdx");
    refused(
        folder,
        "vhdx",
        &absolute,
        "its parent has no name that is relative",
    );
    let missing = vhdx_child(&image, &linkage, "missing.vhdx");
    refused(folder, "vhdx", &missing, "No such file");
    let other = "{00000000-1111-2222-3333-444444444444}";
    let other = vhdx_child(&image, other, "parent.vhdx");
    refused(
        folder,
        "vhdx",
        &other,
        "has changed since the image above it was made",
    );
    let none = vhdx_child(&image, "nothing", "parent.vhdx");
    refused(folder, "vhdx", &none, "Invalid argument");
    // Without the bitmap the present sectors of block 1 are unknown.
    let mut bare = vhdx_child(&image, &linkage, "parent.vhdx");
    vhdx::put(&mut bare, vhdx::TABLE + 8 * 4096, &[0; 8]);
    refused(folder, "vhdx", &bare, "stored in part");
    for at in [65536 + 4, 32 + 5 * 32] {
        let mut half = vhdx_child(&image, &linkage, "parent.vhdx");
        half[3 * MIB + at] ^= 2;
        half[3 * MIB + 32 + 5 * 32 + 24] = 0;
        refused(folder, "vhdx", &half, "Invalid argument");
    }
}
