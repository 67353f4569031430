//! Tests of compressed loop devices. The images are built here.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use libtest_mimic::Trial;

use crate::common::Noise;
use crate::tools::{Tool, ours, qemu_img, same_answer, words};
use crate::trial;

const SCRIPT: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("cloop::disks_are_read", disks),
        trial("cloop::wrong_headers", wrong_headers),
        trial("cloop::damaged_blocks", damaged_blocks),
    ]
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns an image with these compressed blocks.
pub fn image(block_size: usize, streams: &[Vec<u8>]) -> Vec<u8> {
    let mut image = SCRIPT.to_vec();
    image.resize(128, 0);
    image.extend(u32::try_from(block_size).unwrap().to_be_bytes());
    image.extend(u32::try_from(streams.len()).unwrap().to_be_bytes());
    let mut offset = 136 + 8 * (streams.len() as u64 + 1);
    image.extend(offset.to_be_bytes());
    for stream in streams {
        offset += stream.len() as u64;
        image.extend(offset.to_be_bytes());
    }
    image.extend(streams.concat());
    image
}

fn streams(disk: &[u8], block_size: usize) -> Vec<Vec<u8>> {
    disk.chunks(block_size).map(zlib).collect()
}

/// Returns a disk of noise and text.
fn disk(size: usize) -> Vec<u8> {
    let mut disk = Noise(5).bytes(size);
    disk[size / 3..size / 2].fill(7);
    disk
}

fn to_raw(tool: Tool, folder: &Path) -> Option<Vec<u8>> {
    let _ = fs::remove_file(folder.join("back.raw"));
    tool(folder, &words("convert -f cloop -O raw x back.raw"));
    fs::read(folder.join("back.raw")).ok()
}

fn disks() {
    for (block_size, blocks) in [
        (512, 9),
        (64 << 10, 20),
        (3 << 10, 7),
        (1 << 20, 3),
        (512, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let disk = disk(block_size * blocks);
        let bytes = image(block_size, &streams(&disk, block_size));
        fs::write(folder.join("x"), &bytes).unwrap();
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
            assert!(
                to_raw(tool, folder).unwrap() == disk,
                "{block_size} {blocks}"
            );
        }
        // With another script the format isn't probed, and has to be given.
        let mut other = bytes.clone();
        other[20] ^= 1;
        fs::write(folder.join("x"), other).unwrap();
        same_answer(folder, &words("info x"));
        assert!(to_raw(ours, folder).unwrap() == disk);
    }
}

/// Checks that every field that qemu-img checks is refused with its error.
fn wrong_headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = disk(4096);
    let bytes = image(1024, &streams(&disk, 1024));
    for (at, value) in [
        (128, 1000),
        (128, 0),
        (128, 128 << 20),
        (132, 0x2000_0000),
        (132, 0x1000_0000),
        (136, u32::MAX),
        (152, 0x7000_0000),
        (160, 0x0900_0000),
    ] {
        let mut wrong = bytes.clone();
        wrong[at..at + 4].copy_from_slice(&value.to_be_bytes());
        fs::write(folder.join("x"), wrong).unwrap();
        same_answer(folder, &words("info -f cloop x"));
    }
    for length in [0, 100] {
        fs::write(folder.join("x"), &bytes[..length]).unwrap();
        same_answer(folder, &words("info -f cloop x"));
    }
    fs::write(folder.join("x"), &bytes[..150]).unwrap();
    ours(folder, &words("info -f cloop x")).fails(1, "cut off by the end of the file");
}

/// Checks blocks that decompress to too few or too many bytes, and a truncated one.
fn damaged_blocks() {
    let disk = disk(4096);
    let whole = streams(&disk, 1024);
    let mut cases = Vec::new();
    for wrong in [
        zlib(&disk[..1023]),
        zlib(&disk[..2048]),
        vec![0xff; 100],
        Vec::new(),
    ] {
        let mut streams = whole.clone();
        streams[3] = wrong;
        cases.push(image(1024, &streams));
    }
    let cut = image(1024, &whole);
    cases.push(cut[..cut.len() - 1].to_vec());
    for bytes in cases {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("x"), bytes).unwrap();
        ours(folder, &words("info -f cloop x")).ok();
        let said = ours(folder, &words("convert -f cloop -O raw x back.raw"));
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(!folder.join("back.raw").exists());
    }
}
