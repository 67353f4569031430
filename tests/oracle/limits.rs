//! Tests with the limits that callers set for untrusted images. They are 1 GiB of address space and 2 s of processor
//! time for reading, and 2 GiB for converting with 16 threads. Every table of the images has its greatest length.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, run, same_contents};
use crate::tools::{SECRET, ours, qemu_img};
use crate::trial;

/// Makes the image `x` in a folder.
type Make = fn(&Path);

/// The peculiarity of an image, the function that makes it, and the output of `info`.
const IMAGES: &[(&str, Make, &str)] = &[
    (
        "1_tib_of_preallocated_metadata",
        preallocated,
        "(1099511627776 bytes)",
    ),
    ("an_l1_table_of_65536_entries", long_l1, "32 TiB"),
    ("10000_snapshots", snapshots, "a snapshot of the name 10000"),
    ("5000_bitmaps", bitmaps, "not as short as it could be: 4999"),
    (
        "a_chain_of_100_images",
        chain,
        "\"backing-filename\": \"0\"",
    ),
    ("2_tib_of_raw_holes", holes, "2 TiB"),
];

pub fn trials() -> Vec<Trial> {
    let looked_at = IMAGES
        .iter()
        .map(|(name, make, words)| trial(format!("limits::{name}"), || look(*make, words)));
    let mut trials: Vec<Trial> = looked_at.collect();
    trials.push(trial("limits::conversions_of_16_threads", conversions));
    trials
}

/// Runs cowhide with `memory` bytes of address space and `seconds` of processor time.
fn limited(folder: &Path, memory: u64, seconds: u32, args: &[&str]) -> Ran {
    let limits = [format!("--as={memory}"), format!("--cpu={seconds}")];
    let limits = limits.iter().map(String::as_str);
    run(
        folder,
        "prlimit",
        limits.chain([COWHIDE]).chain(args.iter().copied()),
    )
}

/// Checks that every command that only reads an image keeps the limits, and that `info` prints the same as the
/// oracle.
fn look(make: Make, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder);
    let mut all = String::new();
    for args in [
        &["info", "x"][..],
        &["info", "--output=json", "-U", "x"],
        &["info", "--backing-chain", "--output=json", "x"],
    ] {
        let told = limited(folder, 1 << 30, 2, args).ok();
        assert!(told == qemu_img(folder, args).ok(), "{args:?}");
        all.push_str(&told);
    }
    assert!(all.contains(words), "no {words:?}");
    for args in [
        &["check", "x"][..],
        &["map", "--output=json", "x"],
        &["map", "x"],
        &["measure", "-O", "qcow2", "x"],
        &["compare", "x", "x"],
        &["compare", "-s", "x", "x"],
    ] {
        let ran = limited(folder, 1 << 30, 2, args);
        // Images that are built here have wrong refcounts, and raw images have no check.
        let expected: &[i32] = if args[0] == "check" {
            &[0, 2, 63]
        } else {
            &[0]
        };
        let status = ran.status.unwrap_or(-1);
        assert!(
            expected.contains(&status),
            "{args:?}: {status} {}",
            ran.stderr
        );
    }
}

fn preallocated(folder: &Path) {
    let options = ["-o", "preallocation=metadata", "x", "1T"];
    ours(
        folder,
        &[&["create", "-q", "-f", "qcow2"], &options[..]].concat(),
    )
    .ok();
}

fn long_l1(folder: &Path) {
    // Each entry maps 512 MiB.
    ours(folder, &["create", "-q", "-f", "qcow2", "x", "32T"]).ok();
    let header = fs::read(folder.join("x")).unwrap();
    assert_eq!(header[36..40], 65536_u32.to_be_bytes());
}

fn holes(folder: &Path) {
    ours(folder, &["create", "-q", "-f", "raw", "x", "2T"]).ok();
}

fn chain(folder: &Path) {
    ours(folder, &["create", "-q", "-f", "qcow2", "0", "1G"]).ok();
    for number in 1..100 {
        let (below, name) = ((number - 1).to_string(), number.to_string());
        let create = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"];
        ours(folder, &[&create[..], &[&below, &name, "1G"]].concat()).ok();
    }
    fs::rename(folder.join("99"), folder.join("x")).unwrap();
}

/// Returns an image with one snapshot or bitmap, made by the oracle.
fn one(folder: &Path, args: &[&str]) -> Vec<u8> {
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x", "1G"]).ok();
    qemu_img(folder, args).ok();
    fs::read(folder.join("x")).unwrap()
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes[at..at + length].iter();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Appends `table` to the file, and returns its offset.
fn append(folder: &Path, image: &[u8], table: &[u8]) -> u64 {
    let file = fs::File::options().write(true).open(folder.join("x"));
    let start = (image.len() as u64).next_multiple_of(65536);
    file.unwrap().write_all_at(table, start).unwrap();
    start
}

fn put(folder: &Path, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(folder.join("x"));
    file.unwrap().write_all_at(bytes, at).unwrap();
}

fn snapshots(folder: &Path) {
    let image = one(folder, &["snapshot", "-c", "s", "x"]);
    let start = usize::try_from(number(&image, 64, 8)).unwrap();
    let extra = usize::try_from(number(&image, start + 36, 4)).unwrap();
    let fixed = &image[start..start + 40 + extra];
    let mut table = Vec::new();
    for id in 1..=10_000 {
        let (id, name) = (id.to_string(), format!("a snapshot of the name {id}"));
        let mut entry = fixed.to_vec();
        entry[12..14].copy_from_slice(&u16::try_from(id.len()).unwrap().to_be_bytes());
        entry[14..16].copy_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
        entry.extend([id.as_bytes(), name.as_bytes()].concat());
        entry.resize(entry.len().next_multiple_of(8), 0);
        table.extend(entry);
    }
    let start = append(folder, &image, &table);
    put(folder, 60, &10_000_u32.to_be_bytes());
    put(folder, 64, &start.to_be_bytes());
}

fn bitmaps(folder: &Path) {
    let image = one(folder, &["bitmap", "--add", "x", "b"]);
    let kind = 0x2385_2875_u32.to_be_bytes();
    let extension = image.windows(4).position(|bytes| bytes == kind).unwrap() + 8;
    let length = usize::try_from(number(&image, extension + 8, 8)).unwrap();
    let start = usize::try_from(number(&image, extension + 16, 8)).unwrap();
    let fixed = &image[start..start + 24];
    assert!(length <= 32, "one entry");
    let mut table = Vec::new();
    for number in 0..5000 {
        let name = format!("a bitmap whose name is not as short as it could be: {number}");
        let mut entry = fixed.to_vec();
        entry[18..20].copy_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
        entry.extend(name.as_bytes());
        entry.resize(entry.len().next_multiple_of(8), 0);
        table.extend(entry);
    }
    let start = append(folder, &image, &table);
    let extension = extension as u64;
    put(folder, extension, &5000_u32.to_be_bytes());
    put(folder, extension + 8, &(table.len() as u64).to_be_bytes());
    put(folder, extension + 16, &start.to_be_bytes());
}

/// Checks conversions with enough data for all threads, in the largest clusters.
fn conversions() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let noise = Noise(5).bytes(1 << 20);
    fs::write(folder.join("disk.raw"), noise.repeat(80)).unwrap();
    let key = ["--object", SECRET];
    let encrypted = "driver=qcow2,file.filename=e.qcow2,encrypt.key-secret=s";
    let options = "cluster_size=2M,encrypt.format=aes,encrypt.key-secret=s";
    for (args, made) in [
        (
            &["-O", "qcow2", "-o", options, "disk.raw", "e.qcow2"][..],
            false,
        ),
        (&["--image-opts", encrypted, "back"], true),
        (
            &[
                "-c",
                "-O",
                "qcow2",
                "-o",
                "cluster_size=2M",
                "disk.raw",
                "c.qcow2",
            ],
            false,
        ),
        (&["-f", "qcow2", "c.qcow2", "back"], true),
        (
            &["-W", "-t", "writeback", "-f", "qcow2", "c.qcow2", "back"],
            true,
        ),
        (
            &[
                "-c",
                "-O",
                "qcow2",
                "-o",
                "cluster_size=2M,compression_type=zstd",
                "disk.raw",
                "z.qcow2",
            ],
            false,
        ),
        (&["-f", "qcow2", "z.qcow2", "back"], true),
        (&["-n", "-O", "qcow2", "disk.raw", "c.qcow2"], false),
        (&["-f", "qcow2", "c.qcow2", "back"], true),
    ] {
        let all = [&["convert", "-m", "16"][..], &key, args].concat();
        // Compression takes two seconds of processor time.
        limited(folder, 2 << 30, 60, &all).ok();
        if made {
            assert!(
                same_contents(&folder.join("disk.raw"), &folder.join("back")),
                "{args:?}"
            );
            fs::remove_file(folder.join("back")).unwrap();
        }
    }
}
