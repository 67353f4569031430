//! Tests of growing disks of Bochs. The images are built here, in both versions.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::Noise;
use crate::tools::{Tool, ours, qemu_img, same_answer, words};
use crate::trial;

/// The size of an extent in bytes.
const EXTENT: usize = 4096;
/// The number of entries in the catalog.
const ENTRIES: usize = 4;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("bochs::disks_are_read", disks),
        trial("bochs::wrong_headers", wrong_headers),
        trial("bochs::refusals", refusals),
        trial("bochs::cut_files", cut_files),
    ]
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Returns an image of `size` bytes, in which extent 0 is stored completely and extent 2 in two sectors, with its
/// disk.
pub fn image(version: u32, size: usize) -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 512];
    image[..22].copy_from_slice(b"Bochs Virtual HD Image");
    image[32..39].copy_from_slice(b"Redolog");
    image[48..55].copy_from_slice(b"Growing");
    for (at, number) in [(64, version), (68, 512), (72, 4), (76, 1), (80, 4096)] {
        put(&mut image, at, number);
    }
    let at = if version == 0x0001_0000 { 84 } else { 88 };
    image[at..at + 8].copy_from_slice(&(size as u64).to_le_bytes());
    for entry in [1, u32::MAX, 0, u32::MAX] {
        image.extend(entry.to_le_bytes());
    }
    let mut disk = vec![0; ENTRIES * EXTENT];
    let data = Noise(3).bytes(2 * EXTENT);
    for (extent, bits, data) in [(2, 0x05, &data[..EXTENT]), (0, 0xff, &data[EXTENT..])] {
        let mut bitmap = [0; 512];
        bitmap[0] = bits;
        image.extend(bitmap);
        image.extend(data);
        for sector in (0..8).filter(|sector| bits >> sector & 1 != 0) {
            let part = sector * 512..(sector + 1) * 512;
            disk[extent * EXTENT..][part.clone()].copy_from_slice(&data[part]);
        }
    }
    disk.truncate(size / 512 * 512);
    (image, disk)
}

fn to_raw(tool: Tool, folder: &Path) -> Option<Vec<u8>> {
    let _ = fs::remove_file(folder.join("back.raw"));
    tool(folder, &words("convert -f bochs -O raw x back.raw"));
    fs::read(folder.join("back.raw")).ok()
}

fn disks() {
    for version in [0x0001_0000, 0x0002_0000] {
        for size in [4 * EXTENT, 3 * EXTENT - 512, 2 * EXTENT + 700, 0] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let (image, disk) = image(version, size);
            fs::write(folder.join("x"), image).unwrap();
            for line in [
                "info x",
                "info --output=json x",
                "map --output=json x",
                "map x",
                "check x",
                "measure -O qcow2 x",
            ] {
                same_answer(folder, &words(line));
            }
            for tool in [ours as Tool, qemu_img] {
                assert!(to_raw(tool, folder).unwrap() == disk, "{version:x} {size}");
            }
        }
    }
}

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (bytes, _) = image(0x0002_0000, 4 * EXTENT);
    for (at, value) in [
        (0, 7),
        (32, 7),
        (48, 7),
        (64, 0x0003_0000),
        (72, 0x10_0001),
        (72, 3),
        (80, 0),
        (80, 300),
        (80, 3000),
        (80, 16 << 20),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, value);
        fs::write(folder.join("x"), wrong).unwrap();
        same_answer(folder, &words("info -f bochs x"));
    }
    // qemu-img accepts other values for a bitmap without any bytes.
    let mut wrong = bytes;
    put(&mut wrong, 76, 0);
    fs::write(folder.join("x"), wrong).unwrap();
    ours(folder, &words("info -f bochs x")).fails(1, "too few for the bitmap");
}

fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (bytes, _) = image(0x0002_0000, 4 * EXTENT);
    fs::write(folder.join("x"), &bytes).unwrap();
    for line in [
        "create -f bochs y 1M",
        "measure -O bochs --size 1M",
        "convert -O bochs x y",
    ] {
        same_answer(folder, &words(line));
    }
    fs::write(folder.join("disk.raw"), [5; 512]).unwrap();
    for line in [
        "convert -n -f raw -O bochs disk.raw x",
        "resize -f bochs x 1M",
    ] {
        assert_eq!(ours(folder, &words(line)).status, Some(1), "{line}");
        assert!(fs::read(folder.join("x")).unwrap() == bytes);
    }
}

/// Checks truncated files, of which qemu-img reads the missing part as zeroes.
fn cut_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (bytes, _) = image(0x0002_0000, 4 * EXTENT);
    for length in [bytes.len() - 1, bytes.len() - EXTENT, 520] {
        fs::write(folder.join("x"), &bytes[..length]).unwrap();
        assert!(to_raw(qemu_img, folder).is_some(), "{length}");
        assert!(to_raw(ours, folder).is_none(), "{length}");
    }
}
