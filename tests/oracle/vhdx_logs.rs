//! Tests of the log of VHDX: changes of tables that a writer left in it.
//!
//! QEMU refuses to read an image with a log, and cowhide reads it as after the replay. The result is compared with
//! QEMU's reading after its own replay.

use std::fs;

use libtest_mimic::Trial;

use crate::tools::{Tool, ours, qemu_img, same_answer};
use crate::trial;
use crate::vhdx::{
    DATA, LOG, LOG_ID, MIB, OVER, SECTOR, TABLE, folder_with_image, put, seal, to_raw, with_headers,
};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("vhdx::logs_are_replayed", logs),
        trial("vhdx::logs_that_do_not_count", stale_logs),
        trial("vhdx::logs_that_cannot_be_replayed", lost_logs),
        trial("vhdx::writing_replays_the_log", writing_replays),
    ]
}

/// The identifier of the log.
const ID: [u8; 16] = *b"the log's number";

/// A change in the log.
enum Change<'a> {
    Data(u64, &'a [u8]),
    Zero(u64, u64),
}

/// Returns an entry of the log.
fn entry(sequence: u64, tail: usize, length: u64, changes: &[Change<'_>]) -> Vec<u8> {
    let described = (64 + 32 * changes.len()).next_multiple_of(SECTOR);
    let mut entry = b"loge".to_vec();
    entry.resize(described, 0);
    put(&mut entry, 12, &u32::try_from(tail).unwrap().to_le_bytes());
    put(&mut entry, 16, &sequence.to_le_bytes());
    put(
        &mut entry,
        24,
        &u32::try_from(changes.len()).unwrap().to_le_bytes(),
    );
    put(&mut entry, 32, &ID);
    put(&mut entry, 48, &length.to_le_bytes());
    put(&mut entry, 56, &length.to_le_bytes());
    for (number, change) in changes.iter().enumerate() {
        let at = 64 + 32 * number;
        match change {
            Change::Data(offset, bytes) => {
                put(&mut entry, at, b"desc");
                put(&mut entry, at + 4, &bytes[SECTOR - 4..]);
                put(&mut entry, at + 8, &bytes[..8]);
                put(&mut entry, at + 16, &offset.to_le_bytes());
                let mut sector = b"data".to_vec();
                let numbers = sequence.to_le_bytes();
                sector.extend(&numbers[4..]);
                sector.extend(&bytes[8..SECTOR - 4]);
                sector.extend(&numbers[..4]);
                // The first four bytes are the high ones of the sequence number.
                sector[4..8].copy_from_slice(&numbers[4..]);
                entry.extend(sector);
            }
            Change::Zero(offset, length) => {
                put(&mut entry, at, b"zero");
                put(&mut entry, at + 8, &length.to_le_bytes());
                put(&mut entry, at + 16, &offset.to_le_bytes());
            }
        }
        put(&mut entry, at + 24, &sequence.to_le_bytes());
    }
    let length = u32::try_from(entry.len()).unwrap();
    put(&mut entry, 8, &length.to_le_bytes());
    seal(&mut entry);
    entry
}

/// Returns an image with these entries in its log, by their offsets in the log.
fn with_log(image: &[u8], entries: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut image = with_headers(image, &[0, 1], LOG_ID, &ID);
    for (place, entry) in entries {
        for (number, byte) in entry.iter().enumerate() {
            image[LOG + (place + number) % MIB] = *byte;
        }
    }
    image
}

/// Returns the start of the BAT, with the entry of block 1 changed.
fn table_sector(image: &[u8], entry: u64) -> Vec<u8> {
    let mut sector = image[TABLE..TABLE + SECTOR].to_vec();
    put(&mut sector, 8, &entry.to_le_bytes());
    sector
}

/// Returns valid logs: a name, an image, and true if qemu-img replays it.
fn whole_logs(image: &[u8]) -> Vec<(&'static str, Vec<u8>, bool)> {
    let length = image.len() as u64;
    let (data, table) = (DATA as u64, TABLE as u64);
    let sectors: Vec<Vec<u8>> = (0..200u8).map(|byte| vec![byte + 1; SECTOR]).collect();
    let zeroed = table_sector(image, 2);
    let many = |count: usize| {
        let sectors = sectors[..count].iter().enumerate();
        let changes: Vec<Change<'_>> = sectors
            .map(|(number, sector)| Change::Data(data + (number * SECTOR) as u64, sector))
            .collect();
        entry(5, 0, length, &changes)
    };
    let one = |sequence: u64, tail: usize, sector: usize, place: u64| {
        let change = Change::Data(data + place * SECTOR as u64, &sectors[sector]);
        entry(sequence, tail, length, &[change])
    };
    let log = |entries: &[(usize, Vec<u8>)]| with_log(image, entries);
    let step = 2 * SECTOR;
    vec![
        ("data", log(&[(0, one(7, 0, 1, 0))]), true),
        (
            "an entry of the table",
            log(&[(0, entry(3, 0, length, &[Change::Data(table, &zeroed)]))]),
            true,
        ),
        (
            "zeroes",
            log(&[(
                SECTOR,
                entry(9, SECTOR, length, &[Change::Zero(data, 64 << 10)]),
            )]),
            true,
        ),
        (
            "data and zeroes over each other",
            log(&[(
                0,
                entry(
                    9,
                    0,
                    length,
                    &[
                        Change::Data(data + 8192, &sectors[3]),
                        Change::Zero(data, 12288),
                        Change::Data(data + 4096, &sectors[4]),
                        Change::Zero(data + 65536, 4096),
                    ],
                ),
            )]),
            true,
        ),
        ("126 changes", log(&[(0, many(126))]), true),
        ("127 changes", log(&[(0, many(127))]), false),
        ("200 changes", log(&[(0, many(200))]), false),
        (
            "two entries",
            log(&[(0, one(58, 0, 1, 0)), (step, one(59, 0, 2, 1))]),
            true,
        ),
        (
            "an entry around the end of the log",
            log(&[(MIB - SECTOR, one(4, MIB - SECTOR, 9, 3))]),
            true,
        ),
        (
            "a sequence around the end of the log",
            log(&[
                (MIB - step, one(4, MIB - step, 9, 3)),
                (0, one(5, MIB - step, 8, 3)),
                (step, one(6, MIB - step, 7, 4)),
            ]),
            true,
        ),
        (
            "an older one and a newer one",
            log(&[
                (0, one(58, 0, 1, 0)),
                (8 * step, one(90, 8 * step, 2, 1)),
                (9 * step, one(91, 8 * step, 3, 1)),
            ]),
            true,
        ),
        (
            "an entry that ends a file further on",
            log(&[(0, entry(9, 0, length, &[Change::Zero(length, 1 << 20)]))]),
            true,
        ),
    ]
}

fn logs() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let before = to_raw(folder, qemu_img, "x.vhdx", 0).unwrap();
    for (number, (why, image, is_known)) in whole_logs(&bytes).into_iter().enumerate() {
        let is_first = number == 0;
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        // qemu-img can't read such an image.
        to_raw(folder, qemu_img, "x.vhdx", 1);
        let read = to_raw(folder, ours, "x.vhdx", 0).unwrap();
        let lines = [
            &["check", "x.vhdx"][..],
            &["info", "x.vhdx"],
            &["map", "x.vhdx"],
            &["compare", "x.vhdx", "x.vhdx"],
            &["checksum", "x.vhdx"],
        ];
        for line in lines.iter().take(if is_first { lines.len() } else { 1 }) {
            ours(folder, line).ok();
        }
        assert!(
            fs::read(folder.join("x.vhdx")).unwrap() == image,
            "{why}: written"
        );
        assert!(
            why == "an entry that ends a file further on" || read != before,
            "{why}"
        );
        for (tool, name) in [(qemu_img as Tool, "theirs.vhdx"), (ours, "ours.vhdx")] {
            if !is_known && name == "theirs.vhdx" {
                continue;
            }
            for level in ["leaks", "all"].iter().skip(usize::from(!is_first)) {
                fs::write(folder.join(name), &image).unwrap();
                let said = tool(folder, &["check", "-r", level, name]).ok();
                assert!(said.contains("1 corruptions"), "{why}: {said}");
            }
            for reader in [ours as Tool, qemu_img] {
                let found = to_raw(folder, reader, name, 0).unwrap();
                assert!(found == read, "{why}: {name}");
            }
            same_answer(folder, &["check", "-r", "all", name]);
        }
        if is_known {
            let [one, other] =
                ["ours.vhdx", "theirs.vhdx"].map(|name| fs::read(folder.join(name)).unwrap());
            assert!(one[LOG + MIB..] == other[LOG + MIB..], "{why}");
            for name in ["ours.vhdx", "theirs.vhdx"] {
                fs::write(folder.join(name), &image).unwrap();
            }
            let said = |tool: Tool, name: &str| {
                let args = ["check", "-r", "all", "--output=json", name];
                tool(folder, &args).ok().replace(name, "")
            };
            assert_eq!(said(ours, "ours.vhdx"), said(qemu_img, "theirs.vhdx"));
        }
    }
}

/// Checks entries of another log, damaged ones, and those after a gap.
fn stale_logs() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let before = to_raw(folder, qemu_img, "x.vhdx", 0).unwrap();
    let length = bytes.len() as u64;
    let sector = vec![0x11; SECTOR];
    let one = |sequence: u64, place: u64| {
        let change = Change::Data((DATA as u64) + place * SECTOR as u64, &sector);
        entry(sequence, 0, length, &[change])
    };
    let changed = |at: usize, byte: u8| {
        let mut entry = one(5, 0);
        entry[at] = byte;
        if at != 4 {
            seal(&mut entry);
        }
        with_log(&bytes, &[(0, entry)])
    };
    for (why, image) in [
        ("nothing", with_log(&bytes, &[])),
        ("a wrong checksum", changed(4, 0x77)),
        ("another log's", changed(33, 0)),
        ("a wrong mark", changed(0, b'x')),
    ] {
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        assert!(
            to_raw(folder, ours, "x.vhdx", 0).unwrap() == before,
            "{why}"
        );
        assert!(
            to_raw(folder, qemu_img, "x.vhdx", 0).unwrap() == before,
            "{why}"
        );
    }
    // This changes the sequence numbers of a descriptor and of a sector. qemu-img doesn't check the latter.
    for at in [64 + 24, SECTOR] {
        let image = changed(at, 0x77);
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        assert!(to_raw(folder, ours, "x.vhdx", 0).unwrap() == before, "{at}");
    }
    // The third entry doesn't follow the second.
    let log = [
        (0, one(10, 0)),
        (2 * SECTOR, one(11, 1)),
        (4 * SECTOR, one(12, 2)),
        (6 * SECTOR, one(14, 3)),
    ];
    let mut gap = with_log(&bytes, &log);
    // The entry after the gap is the tail of no sequence.
    let alone = LOG + 6 * SECTOR;
    put(&mut gap, alone + 16, &2u64.to_le_bytes());
    put(&mut gap, alone + 64 + 24, &2u64.to_le_bytes());
    put(&mut gap, alone + SECTOR + 4, &[0; 4]);
    put(&mut gap, alone + 2 * SECTOR - 4, &2u32.to_le_bytes());
    seal(&mut gap[alone..alone + 2 * SECTOR]);
    fs::write(folder.join("x.vhdx"), &gap).unwrap();
    let read = to_raw(folder, ours, "x.vhdx", 0).unwrap();
    let is_changed = |at: usize| read[MIB + at * SECTOR..][..SECTOR] == sector[..];
    assert_eq!([0, 1, 2, 3].map(is_changed), [true, true, true, false]);
    qemu_img(folder, &["check", "-r", "all", "x.vhdx"]).ok();
    assert!(to_raw(folder, qemu_img, "x.vhdx", 0).unwrap() == read);
}

/// Checks a file that has been truncated since the entry was written.
fn lost_logs() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), [5; 512]).unwrap();
    let length = bytes.len() as u64;
    let lost = entry(5, 0, length + (1 << 20), &[Change::Zero(DATA as u64, 4096)]);
    let far = entry(5, 0, length, &[Change::Zero(1 << 50, 4096)]);
    for entry in [lost, far] {
        let image = with_log(&bytes, &[(0, entry)]);
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        for line in [
            &["info", "x.vhdx"][..],
            &["check", "x.vhdx"],
            &["check", "-r", "all", "x.vhdx"],
            &OVER,
        ] {
            let said = ours(folder, line);
            assert_eq!(said.status, Some(1), "{said:?}");
            assert!(
                said.stderr
                    .contains("contains a log that needs to be replayed")
            );
        }
        assert!(fs::read(folder.join("x.vhdx")).unwrap() == image);
    }
}

fn writing_replays() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    for (why, image, _) in whole_logs(&bytes) {
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        let mut expected = to_raw(folder, ours, "x.vhdx", 0).unwrap();
        expected[..MIB].fill(5);
        fs::write(folder.join("disk.raw"), &expected[..MIB]).unwrap();
        let over = ours(folder, &OVER);
        assert_eq!(over.status, Some(0), "{why}: {over:?}");
        assert!(
            to_raw(folder, qemu_img, "x.vhdx", 0).unwrap() == expected,
            "{why}"
        );
        same_answer(folder, &["check", "x.vhdx"]);
    }
}
