//! Tests of disk images of macOS. They are built here, with every kind of chunk.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use libtest_mimic::Trial;

use crate::common::Noise;
use crate::tools::{Tool, ours, qemu_img, same_answer, words};
use crate::trial;

const ZERO: u32 = 0;
const RAW: u32 = 1;
const IGNORE: u32 = 2;
const ADC: u32 = 0x8000_0004;
const ZLIB: u32 = 0x8000_0005;
const BZIP2: u32 = 0x8000_0006;
const LZFSE: u32 = 0x8000_0007;
const LZMA: u32 = 0x8000_0008;
const COMMENT: u32 = 0x7fff_fffe;
const END: u32 = 0xffff_ffff;
/// 1 KiB of the letter `b`, compressed with bzip2.
const BZIP2_OF_B: &str = "QlpoOTFBWSZTWcFSjTsAAARBAMAAEAAACCAAMMwFU2piKDxdyRThQkMFSjTs";

/// 1 KiB of the letter `c`, compressed with xz, and the same with a dictionary of 1536 MiB.
const XZ_OF_C: &str = "/Td6WFoAAATm1rRGAgAhAQwAAACPmEGc4AP/AAtdADHv+7/+o7De4HIAAADZHpWrGjfPkwABJ4AIAAAALnmurbHEZ/sCAAAAAARZWg==";
const LARGE_XZ_OF_C: &str = "/Td6WFoAAATm1rRGAgAhASUAAAA7eHtB4AP/AAtdADHv+7/+o7De4HIAAADZHpWrGjfPkwABJ4AIAAAALnmurbHEZ/sCAAAAAARZWg==";
/// 1 KiB of the letter `d`, compressed with LZFSE.
const LZFSE_OF_D: &str = "YnZ4bgAEAAAWAAAAaAFk8P/w//D/8LjiZGQGAAAAAAAAAGJ2eCQ=";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("dmg::disks_are_read", disks),
        trial("dmg::chunks_that_the_real_tool_lacks", more_chunks),
        trial("dmg::resource_forks", resource_forks),
        trial("dmg::names", names),
        trial("dmg::trailers", trailers),
        trial("dmg::wrong_tables", wrong_tables),
        trial("dmg::refusals", refusals),
    ]
}

/// A chunk: its kind, its first sector in its table, its number of sectors, and its stored bytes.
type Chunk = (u32, u64, u64, Vec<u8>);

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a table of chunks, which are appended to `data` one after the other.
fn table(first: u64, chunks: &[Chunk], data: &mut Vec<u8>) -> Vec<u8> {
    let mut table = b"mish\0\0\0\x01".to_vec();
    table.extend(first.to_be_bytes());
    table.extend(0u64.to_be_bytes());
    table.extend(0u64.to_be_bytes());
    table.resize(200, 0);
    table.extend(u32::try_from(chunks.len()).unwrap().to_be_bytes());
    for (kind, sector, sectors, stored) in chunks {
        table.extend(kind.to_be_bytes());
        table.extend([0; 4]);
        for number in [*sector, *sectors, data.len() as u64, stored.len() as u64] {
            table.extend(number.to_be_bytes());
        }
        data.extend(stored);
    }
    table
}

/// Returns the trailer of an image of `sectors` sectors.
fn trailer(sectors: u64, fork: (usize, usize), list: (usize, usize)) -> Vec<u8> {
    let mut trailer = vec![0; 512];
    trailer[..4].copy_from_slice(b"koly");
    trailer[7] = 4;
    trailer[10] = 2;
    let mut put =
        |at: usize, number: u64| trailer[at..at + 8].copy_from_slice(&number.to_be_bytes());
    put(40, fork.0 as u64);
    put(48, fork.1 as u64);
    put(216, list.0 as u64);
    put(224, list.1 as u64);
    put(492, sectors);
    trailer
}

/// Returns an image whose tables are in a property list.
fn image(sectors: u64, tables: &[(u64, Vec<Chunk>)]) -> Vec<u8> {
    let mut data = Vec::new();
    let tables: Vec<Vec<u8>> = tables
        .iter()
        .map(|(first, chunks)| table(*first, chunks, &mut data))
        .collect();
    let mut list = "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array>".to_owned();
    for table in tables {
        let text = STANDARD.encode(table);
        let (one, two) = text.split_at(text.len() / 2);
        list += &format!("<dict><key>Data</key><data>\n\t\t{one}\n\t\t{two}\n</data></dict>");
    }
    list += "</array></dict></dict></plist>\n";
    let start = data.len();
    data.extend(list.bytes());
    data.extend(trailer(sectors, (0, 0), (start, list.len())));
    data
}

/// Returns a disk and an image of it with two tables.
pub fn simple() -> (Vec<u8>, Vec<u8>) {
    let mut disk = Noise(9).bytes(40 * 512);
    disk[8 * 512..16 * 512].fill(0);
    disk[20 * 512..24 * 512].fill(0);
    disk[24 * 512..30 * 512].fill(7);
    let part = |from: usize, to: usize| disk[from * 512..to * 512].to_vec();
    let one = vec![
        (RAW, 0, 8, part(0, 8)),
        (COMMENT, 0, 0, vec![]),
        (ZERO, 8, 8, vec![]),
        (ZLIB, 16, 4, zlib(&part(16, 20))),
        (END, 20, 0, vec![]),
    ];
    let two = vec![
        (IGNORE, 0, 4, vec![]),
        (ZLIB, 4, 6, zlib(&part(24, 30))),
        (ZLIB, 10, 10, zlib(&part(30, 40))),
        (END, 20, 0, vec![]),
    ];
    let bytes = image(40, &[(0, one), (20, two)]);
    (disk, bytes)
}

fn to_raw(tool: Tool, folder: &Path) -> Option<Vec<u8>> {
    let _ = fs::remove_file(folder.join("back.raw"));
    tool(folder, &words("convert -f dmg -O raw x.dmg back.raw"));
    fs::read(folder.join("back.raw")).ok()
}

fn folder_with(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.dmg"), bytes).unwrap();
    folder
}

fn disks() {
    let (disk, bytes) = simple();
    let folder = folder_with(&bytes);
    let folder = folder.path();
    for line in [
        "info x.dmg",
        "info --output=json x.dmg",
        "map --output=json x.dmg",
        "map x.dmg",
        "check x.dmg",
        "measure -O qcow2 x.dmg",
    ] {
        same_answer(folder, &words(line));
    }
    for tool in [ours as Tool, qemu_img] {
        assert!(to_raw(tool, folder).unwrap() == disk);
    }
    for workers in ["1", "8"] {
        let line = format!("convert -m {workers} -O qcow2 x.dmg y.qcow2");
        ours(folder, &words(&line)).ok();
        let said = qemu_img(folder, &words("compare -f dmg -F qcow2 x.dmg y.qcow2")).ok();
        assert_eq!(said, "Images are identical.\n");
    }
}

/// Checks chunks that qemu-img warns of, and fails to read.
fn more_chunks() {
    let stored = |text: &str| STANDARD.decode(text).unwrap();
    let adc = [vec![0x80, b'a'], [0x7f, 0, 0].repeat(21)].concat();
    let chunks = vec![
        (ADC, 0, 2, adc),
        (BZIP2, 2, 2, stored(BZIP2_OF_B)),
        (LZMA, 4, 2, stored(XZ_OF_C)),
        (LZFSE, 6, 2, stored(LZFSE_OF_D)),
    ];
    let folder = folder_with(&image(8, &[(0, chunks)]));
    let found = to_raw(ours, folder.path()).unwrap();
    assert_eq!(
        found,
        [[b'a'; 1024], [b'b'; 1024], [b'c'; 1024], [b'd'; 1024]].concat()
    );
    let mut damaged = stored(LZFSE_OF_D);
    damaged[5] = 0;
    let long = |text: &str| (stored(text), 3);
    let right = |bytes: Vec<u8>| (bytes, 2);
    for (kind, (stored, sectors), message) in [
        (LZMA, long(XZ_OF_C), "doesn't yield the 1536 bytes"),
        (
            LZMA,
            right(stored(LARGE_XZ_OF_C)),
            "doesn't yield the 1024 bytes",
        ),
        (LZMA, right(vec![0; 100]), "doesn't yield the 1024 bytes"),
        (LZFSE, long(LZFSE_OF_D), "doesn't yield the 1536 bytes"),
        (LZFSE, right(damaged), "doesn't yield the 1024 bytes"),
        (
            0x8000_0009,
            right(vec![0; 100]),
            "compressed in a way (80000009) that this version doesn't read",
        ),
    ] {
        let folder = folder_with(&image(sectors, &[(0, vec![(kind, 0, sectors, stored)])]));
        ours(folder.path(), &words("convert -O raw x.dmg back.raw")).fails(1, message);
    }
}

fn resource_forks() {
    let disk = Noise(4).bytes(4096);
    let mut data = Vec::new();
    let table = table(0, &[(ZLIB, 0, 8, zlib(&disk))], &mut data);
    let mut fork = 256u32.to_be_bytes().to_vec();
    fork.extend([0; 4]);
    fork.extend(u32::try_from(table.len() + 4).unwrap().to_be_bytes());
    fork.resize(256, 0);
    fork.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
    fork.extend(table);
    fork.extend([9; 50]);
    let start = data.len();
    data.extend(&fork);
    data.extend(trailer(8, (start, fork.len()), (0, 0)));
    let folder = folder_with(&data);
    for tool in [ours as Tool, qemu_img] {
        assert!(to_raw(tool, folder.path()).unwrap() == disk);
    }
    // These lengths lead out of the data.
    for (at, number) in [(0, 4000), (8, 0), (8, 4000), (256, 0), (256, 4000)] {
        let mut wrong = data.clone();
        wrong[start + at..start + at + 4].copy_from_slice(&u32::to_be_bytes(number));
        fs::write(folder.path().join("x.dmg"), wrong).unwrap();
        for tool in [ours as Tool, qemu_img] {
            let said = tool(folder.path(), &words("info x.dmg"));
            assert_eq!(said.status, Some(1), "{at} {number}");
        }
    }
}

/// Checks that the file name extension decides the format if the contents have no other one.
fn names() {
    let (_, bytes) = simple();
    let folder = folder_with(&bytes);
    let folder = folder.path();
    for name in ["y.img", "x.DMG", "y.dmg.bin", ".dmg"] {
        fs::write(folder.join(name), &bytes).unwrap();
        same_answer(folder, &["info", name]);
    }
    same_answer(folder, &["info", "./.dmg"]);
    qemu_img(folder, &words("create -q -f qcow2 z.dmg 1M")).ok();
    same_answer(folder, &words("info z.dmg"));
    for line in [
        "create -q -f qcow2 -b x.dmg -F dmg over.qcow2",
        "create -q -f qcow2 -b x.dmg over.qcow2",
    ] {
        same_answer(folder, &words(line));
    }
    same_answer(folder, &words("info --backing-chain over.qcow2"));
}

fn trailers() {
    let (disk, bytes) = simple();
    let folder = folder_with(&bytes);
    let folder = folder.path();
    for more in [200, 300, 600] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + more, 1);
        fs::write(folder.join("x.dmg"), longer).unwrap();
        same_answer(folder, &words("info x.dmg"));
        let found = to_raw(ours, folder);
        assert!(found == to_raw(qemu_img, folder));
        assert!(found.is_none_or(|found| found == disk));
    }
    for length in [0, 511, 512, bytes.len() - 512] {
        fs::write(folder.join("x.dmg"), &bytes[..length]).unwrap();
        same_answer(folder, &words("info x.dmg"));
    }
    // This makes the image one of several files.
    let mut part = bytes.clone();
    let at = part.len() - 512 + 63;
    part[at] = 2;
    fs::write(folder.join("x.dmg"), part).unwrap();
    ours(folder, &words("info x.dmg")).fails(1, "the image is in 2 files");
}

/// Checks tables at some of which qemu-img crashes, and at others of which it returns uninitialised memory.
fn wrong_tables() {
    let raw = |sector, bytes: usize| (RAW, sector, 2, vec![5; bytes]);
    let short = zlib(&[5; 1000]);
    for chunks in [
        vec![raw(0, 1000)],
        vec![(ZLIB, 0, 2, short)],
        vec![(ZLIB, 0, 2, vec![0xff; 100])],
        vec![],
    ] {
        let folder = folder_with(&image(2, &[(0, chunks)]));
        assert!(to_raw(ours, folder.path()).is_none());
    }
    // The chunks aren't in order, at which qemu-img fails.
    let folder = folder_with(&image(4, &[(0, vec![raw(2, 1024), raw(0, 1024)])]));
    assert_eq!(to_raw(ours, folder.path()).unwrap(), [5; 2048]);
    // The chunks have a hole, and end before the disk.
    let folder = folder_with(&image(8, &[(0, vec![raw(0, 1024), raw(4, 1024)])]));
    let said = ours(folder.path(), &words("convert -O raw x.dmg back.raw"));
    assert!(
        said.status == Some(0) && said.stderr.contains("read as zeroes"),
        "{said:?}"
    );
    let expected = [[5; 1024], [0; 1024], [5; 1024], [0; 1024]].concat();
    assert_eq!(fs::read(folder.path().join("back.raw")).unwrap(), expected);
    // This chunk is too long.
    let folder = folder_with(&image(2, &[(0, vec![(ZLIB, 0, 200_000, vec![5; 1024])])]));
    let message = "sector count 200000 for chunk 0 is larger than max (131072)";
    ours(folder.path(), &words("info x.dmg")).fails(1, message);
}

fn refusals() {
    let (_, bytes) = simple();
    let folder = folder_with(&bytes);
    let folder = folder.path();
    for line in [
        "create -f dmg y 1M",
        "measure -O dmg --size 1M",
        "convert -O dmg x.dmg y",
    ] {
        same_answer(folder, &words(line));
    }
    fs::write(folder.join("disk.raw"), [5; 512]).unwrap();
    for line in [
        "convert -n -f raw -O dmg disk.raw x.dmg",
        "resize -f dmg x.dmg 1M",
    ] {
        assert_eq!(ours(folder, &words(line)).status, Some(1), "{line}");
        assert!(fs::read(folder.join("x.dmg")).unwrap() == bytes);
    }
}
