//! Tests of failures of all commands, with a sample of their system calls (system_calls.rs tests a few conversions
//! with every call). Each kind of call fails, finds the end of the file, is interrupted by a signal, or is the last
//! one of the program.
//!
//! There are two possible outcomes. After success the result is right to the last byte, a report is the same as
//! without a fault, and no false difference is found. After an error of one line no new file is left, an existing
//! file still has its contents, and a second attempt succeeds. A source is never changed.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, qemu_io, run, write_disk};
use crate::system_calls::can_be_traced;
use crate::tools::complaints;
use crate::trial;

/// The number of injections for each work.
const SAMPLE: usize = 24;

const SECRET: &str = "secret,id=s,file=pw";

/// The purpose of a work, which decides the check of its outcome.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `x` is created with the contents of `disk.raw`.
    New,
    /// `x` is created as an empty disk of 1 MiB.
    Empty,
    /// `x` is a copy of that file, and gets the contents of `disk.raw`.
    Into(&'static str),
    /// `x` is a copy of that damaged file with the contents of `disk.raw`, and is repaired.
    Repair(&'static str),
    /// Only the output counts.
    Report,
}

struct Work {
    name: &'static str,
    command: &'static str,
    kind: Kind,
}

const fn work(name: &'static str, command: &'static str, kind: Kind) -> Work {
    Work {
        name,
        command,
        kind,
    }
}

const AES_X: &str = "driver=qcow2,file.filename=x,encrypt.key-secret=s";

const WORKS: [Work; 29] = [
    work(
        "convert_to_aes",
        "convert -m 2 --encrypt aes --password-file pw -O qcow2 disk.raw x",
        Kind::New,
    ),
    work(
        "convert_from_aes",
        "convert -m 2 --password-file pw -f qcow2 -O raw aes x",
        Kind::New,
    ),
    work(
        "convert_over_a_backing_file",
        "convert -f qcow2 -O qcow2 -B base -F qcow2 top x",
        Kind::New,
    ),
    work(
        "convert_to_a_data_file",
        "convert -O qcow2 -o data_file=x.data disk.raw x",
        Kind::New,
    ),
    work(
        "convert_from_a_data_file",
        "convert -f qcow2 -O qcow2 external x",
        Kind::New,
    ),
    work(
        "convert_from_zstd",
        "convert -f qcow2 -O raw zstd x",
        Kind::New,
    ),
    work(
        "convert_bitmaps",
        "convert --bitmaps -f qcow2 -O qcow2 marked x",
        Kind::New,
    ),
    work(
        "convert_and_verify",
        "convert -q --verify -f qcow2 -O qcow2 whole x",
        Kind::New,
    ),
    work(
        "convert_a_snapshot",
        "convert -l s1 -f qcow2 -O raw marked x",
        Kind::New,
    ),
    work(
        "convert_into_raw",
        "convert -n -f qcow2 -O raw whole x",
        Kind::Into("other.raw"),
    ),
    work(
        "convert_into_an_image_with_a_snapshot",
        "convert -n -O qcow2 disk.raw x",
        Kind::Into("snapshot"),
    ),
    work(
        "convert_into_lazy_refcounts",
        "convert -n -t writeback -O qcow2 disk.raw x",
        Kind::Into("lazy"),
    ),
    work(
        "convert_into_bitmaps",
        "convert -n -f qcow2 -O qcow2 whole x",
        Kind::Into("with-bitmap"),
    ),
    work(
        "convert_into_aes",
        "convert -n --object secret,id=s,file=pw --target-image-opts disk.raw \
         driver=qcow2,file.filename=x,encrypt.key-secret=s",
        Kind::Into("other-aes"),
    ),
    work("create_raw", "create -q x 1M", Kind::Empty),
    work("create", "create -q -f qcow2 x 1M", Kind::Empty),
    work(
        "create_preallocated",
        "create -q -f qcow2 -o preallocation=full,cluster_size=512 x 1M",
        Kind::Empty,
    ),
    work(
        "create_with_a_data_file",
        "create -q -f qcow2 -o data_file=x.data x 1M",
        Kind::Empty,
    ),
    work(
        "compare",
        "compare -q -f qcow2 -F raw whole disk.raw",
        Kind::Report,
    ),
    work(
        "compare_strictly",
        "compare -s -f qcow2 -F qcow2 whole same",
        Kind::Report,
    ),
    work("checksum", "checksum -f qcow2 whole", Kind::Report),
    work("map", "map -f qcow2 --output=json top", Kind::Report),
    work("measure", "measure -f qcow2 -O qcow2 whole", Kind::Report),
    work(
        "info",
        "info -f qcow2 --backing-chain --output=json top",
        Kind::Report,
    ),
    work(
        "info_of_snapshots_and_bitmaps",
        "info -f qcow2 marked",
        Kind::Report,
    ),
    work("info_of_a_format_found_out", "info whole", Kind::Report),
    work("check", "check -f qcow2 marked", Kind::Report),
    work(
        "repair_leaks",
        "check -q -f qcow2 -r leaks x",
        Kind::Repair("leaky"),
    ),
    work(
        "repair_with_a_snapshot",
        "check -q -f qcow2 -r all x",
        Kind::Repair("damaged"),
    ),
];

/// System calls, their errors, and the other faults that are injected.
const CALLS: [(&str, &[&str]); 8] = [
    (
        "pread64",
        &["error=EIO", "retval=0", "error=EINTR", "signal=TERM"],
    ),
    (
        "pwrite64",
        &["error=ENOSPC", "error=EINTR", "signal=KILL", "signal=INT"],
    ),
    ("fdatasync", &["error=EIO", "signal=KILL"]),
    ("ftruncate", &["error=EIO", "signal=KILL", "signal=TERM"]),
    ("fallocate", &["error=ENOSPC", "signal=KILL"]),
    ("copy_file_range", &["error=EIO", "signal=INT"]),
    ("lseek", &["error=EIO"]),
    ("statx", &["error=EIO"]),
];

pub fn trials() -> Vec<Trial> {
    let works = can_be_traced();
    let trials = WORKS.iter().map(|work| {
        let name = format!("interrupted::{}", work.name);
        trial(name, move || sweep(work)).with_ignored_flag(!works)
    });
    trials.collect()
}

fn qemu_img(folder: &Path, args: &str) -> Ran {
    run(folder, "qemu-img", args.split_whitespace())
}

fn prepare(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 200_192, 1);
    write_disk(&folder.join("other.raw"), 200_192, 2);
    fs::write(folder.join("pw"), "cowhide").unwrap();
    let qemu = |args: &str| assert_eq!(qemu_img(folder, args).status, Some(0), "{args}");
    let to = "convert -f raw -O qcow2 -o cluster_size=4k";
    let aes = format!("--object {SECRET} -o encrypt.format=aes,encrypt.key-secret=s");
    for name in ["whole", "same", "marked", "leaky", "damaged"] {
        qemu(&format!("{to} disk.raw {name}"));
    }
    for name in ["base", "snapshot", "with-bitmap"] {
        qemu(&format!("{to} other.raw {name}"));
    }
    qemu(&format!("{to} -c -o compression_type=zstd disk.raw zstd"));
    qemu(&format!("{to} -o lazy_refcounts=on other.raw lazy"));
    qemu(&format!(
        "{to} -o data_file=external.data disk.raw external"
    ));
    qemu(&format!("{to} {aes} disk.raw aes"));
    qemu(&format!("{to} {aes} other.raw other-aes"));
    qemu("create -q -f qcow2 -b base -F qcow2 top");
    qemu("convert -n -f raw -O qcow2 disk.raw top");
    qemu("snapshot -c s1 snapshot");
    qemu("snapshot -c s1 damaged");
    qemu_io(folder, "qcow2", "damaged", &["write -q -s disk.raw 0 40k"]);
    for image in ["marked", "with-bitmap"] {
        qemu(&format!("bitmap --add -g 4k {image} b"));
    }
    qemu_io(folder, "qcow2", "marked", &["write -q -s disk.raw 0 40k"]);
    qemu("snapshot -c s1 marked");
    // These are refcounts of one block. Those of "leaky" are too high for free clusters, and those of "damaged" are 0
    // for data, metadata, and clusters that a snapshot shares.
    for (name, changes) in [
        ("leaky", &[(0, 7), (60, 1), (61, 7)][..]),
        ("damaged", &[(1, 0), (5, 0), (9, 0), (12, 0), (60, 2)]),
    ] {
        let path = folder.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let get = |bytes: &[u8], at: usize| {
            let field = bytes[at..at + 8].try_into().unwrap();
            usize::try_from(u64::from_be_bytes(field)).unwrap()
        };
        let block = get(&bytes, get(&bytes, 48));
        bytes.resize(64 * 4096, 0);
        for (cluster, refcount) in changes {
            bytes[block + 2 * cluster + 1] = *refcount;
        }
        fs::write(path, bytes).unwrap();
        let status = qemu_img(folder, &format!("check {name}")).status;
        assert_eq!(status, Some(if name == "leaky" { 3 } else { 2 }), "{name}");
    }
}

/// Returns true if an image in the folder has the contents of a raw file.
fn holds(folder: &Path, image: &str, raw: &str) -> bool {
    let driver = if is_raw(folder, image) {
        "raw"
    } else {
        "qcow2"
    };
    let mut spec = format!("driver={driver},file.filename={image}");
    if qemu_img(folder, &format!("info -U {image}"))
        .stdout
        .contains("encrypted: yes")
    {
        spec += ",encrypt.key-secret=s";
    }
    let raw = format!("driver=raw,file.filename={raw}");
    let args = format!("compare -q --object {SECRET} --image-opts {spec} {raw}");
    qemu_img(folder, &args).status == Some(0)
}

fn is_raw(folder: &Path, image: &str) -> bool {
    let start = fs::read(folder.join(image)).unwrap();
    !start.starts_with(b"QFI\xfb")
}

/// Returns the status of qemu-img's check, or 0 if the format has none.
fn status(folder: &Path, image: &str) -> Option<i32> {
    if is_raw(folder, image) {
        return Some(0);
    }
    let spec = if holds_secret(folder, image) {
        format!("--object {SECRET} --image-opts {AES_X}")
    } else {
        format!("-f qcow2 {image}")
    };
    qemu_img(folder, &format!("check -q {spec}")).status
}

fn holds_secret(folder: &Path, image: &str) -> bool {
    fs::read(folder.join(image)).unwrap()[32..36] == *b"\0\0\0\x01"
}

/// Returns true if the work was done correctly.
fn is_done(work: &Work, folder: &Path, ran: &Ran, without_fault: &Ran) -> bool {
    match work.kind {
        Kind::Report => ran.stdout == without_fault.stdout && ran.stderr.is_empty(),
        Kind::Empty => {
            let info = qemu_img(folder, "info x").stdout;
            info.contains("virtual size: 1 MiB") && status(folder, "x") == Some(0)
        }
        Kind::New | Kind::Into(_) | Kind::Repair(_) => {
            let clean = status(folder, "x") == Some(0);
            clean && holds(folder, "x", "disk.raw") && snapshot_is_whole(work, folder)
        }
    }
}

/// Returns true if the snapshot has its old contents.
fn snapshot_is_whole(work: &Work, folder: &Path) -> bool {
    let raw = match work.kind {
        Kind::Into("snapshot") => "other.raw",
        Kind::Repair("damaged") => "disk.raw",
        _ => return true,
    };
    let _ = fs::remove_file(folder.join("of-snapshot"));
    let convert = "convert -l s1 -f qcow2 -O raw x of-snapshot";
    let converted = qemu_img(folder, convert).status == Some(0);
    converted && holds(folder, "of-snapshot", raw)
}

/// Asserts that a failed work has left nothing that could be mistaken for its result.
fn is_undone(work: &Work, folder: &Path, [killed, ended]: [bool; 2], when: &str) {
    match work.kind {
        Kind::Report => {}
        Kind::New | Kind::Empty => {
            // An unfinished image never has a name, but a data file gets its name first.
            let is_done = || match work.kind {
                Kind::Empty => status(folder, "x") == Some(0),
                _ => holds(folder, "x", "disk.raw"),
            };
            let left = folder.join("x").exists();
            assert!(!left || ended && is_done(), "{when}: left behind");
            let data = folder.join("x.data").exists();
            assert!(killed || left || !data, "{when}: its data file left behind");
        }
        Kind::Into(_) => {
            let status = status(folder, "x");
            assert!(matches!(status, Some(0 | 3)), "{when}: {status:?}");
            assert!(snapshot_is_whole(work, folder), "{when}: the snapshot");
        }
        Kind::Repair(_) => {
            assert!(holds(folder, "x", "disk.raw"), "{when}: data was lost");
            assert!(snapshot_is_whole(work, folder), "{when}: the snapshot");
        }
    }
}

fn renew(work: &Work, folder: &Path) {
    for name in ["x", "x.data"] {
        let _ = fs::remove_file(folder.join(name));
    }
    if let Kind::Into(from) | Kind::Repair(from) = work.kind {
        fs::copy(folder.join(from), folder.join("x")).unwrap();
    }
}

/// Does the work under strace.
fn trace(work: &Work, folder: &Path, expression: &str) -> (Ran, String) {
    renew(work, folder);
    // The process that starts the tests may ignore SIGINT, and its children inherit that.
    let tool = "--default-signal=INT strace -f -o trace -e";
    let args = tool.split(' ').chain([expression, COWHIDE]);
    let ran = run(folder, "env", args.chain(work.command.split_whitespace()));
    (ran, fs::read_to_string(folder.join("trace")).unwrap())
}

/// Returns expressions for strace that inject faults into a sample of the calls, spread over their kinds and over
/// time.
fn sample(work: &Work, trace: &str) -> Vec<String> {
    // Calls are counted for each thread, as in strace.
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else {
            continue;
        };
        let name = call.split('(').next().unwrap();
        *counts.entry((thread, name)).or_default() += 1;
    }
    let mut all = Vec::new();
    for (call, effects) in CALLS {
        let of_call = counts.iter().filter(|((_, name), _)| *name == call);
        let most = of_call.map(|(_, count)| *count).max().unwrap_or(0);
        for effect in effects {
            all.push(
                (1..=most)
                    .map(|nth| format!("inject={call}:{effect}:when={nth}"))
                    .collect(),
            );
        }
    }
    let kinds: Vec<Vec<String>> = all
        .into_iter()
        .filter(|kind: &Vec<_>| !kind.is_empty())
        .collect();
    let each = SAMPLE.div_ceil(kinds.len());
    let mut noise = Noise(work.name.len() as u64);
    let mut chosen = Vec::new();
    for mut kind in kinds {
        while kind.len() > each {
            kind.remove(usize::try_from(noise.below(kind.len() as u64)).unwrap());
        }
        chosen.extend(kind);
    }
    chosen
}

fn sweep(work: &Work) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder);
    let all = || {
        let files = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let ours = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            !name.starts_with('x') && name != "trace" && name != "of-snapshot"
        };
        let mut files: Vec<_> = files.filter(|path| ours(path)).collect();
        files.sort();
        let read = |path: std::path::PathBuf| (fs::read(&path).unwrap(), path);
        files.into_iter().map(read).collect::<Vec<_>>()
    };
    let sources = all();
    let (without_fault, calls) = trace(work, folder, "trace=all");
    let done = is_done(work, folder, &without_fault, &without_fault);
    assert!(without_fault.status == Some(0) && done, "{without_fault:?}");
    let (mut happened, mut failures) = (0, 0);
    for expression in sample(work, &calls) {
        let (ran, trace) = trace(work, folder, &expression);
        // Calls of the dynamic loader don't count.
        let is_loaders = ran.stderr.contains("shared librar");
        let is_ended = |signal| trace.contains(&format!("+++ killed by SIG{signal}"));
        let killed = is_ended("KILL");
        let ended = killed || is_ended("INT") || is_ended("TERM");
        if is_loaders || !(ended || trace.contains("(INJECTED)") || trace.contains("--- SIG")) {
            continue;
        }
        happened += 1;
        let when = format!("{}: {expression}: {ran:?}", work.command);
        if ran.status == Some(0) {
            assert!(
                is_done(work, folder, &ran, &without_fault),
                "{when}: not done"
            );
            continue;
        }
        failures += 1;
        assert!(!expression.contains("EINTR"), "{when}");
        if !ended {
            // A fault must not be reported as a difference.
            let least = if work.name.starts_with("compare") {
                2
            } else {
                1
            };
            assert!(ran.status >= Some(least), "{when}");
            let said = complaints(&ran);
            assert_eq!(said.len(), 1, "{when}");
            assert!(said[0].starts_with("cowhide: "), "{when}");
        }
        is_undone(work, folder, [killed, ended], &when);
        if let Kind::Into(_) | Kind::Repair(_) = work.kind {
            // Seemingly missing refcounts correctly mark an image as corrupt.
            let repair = ["check", "-q", "-f", "qcow2", "-r", "all", "x"];
            if ran.stderr.contains("Marking image as corrupt") {
                assert_eq!(run(folder, COWHIDE, repair).status, Some(0), "{when}");
            }
            let again = run(folder, COWHIDE, work.command.split_whitespace());
            assert_eq!(again.status, Some(0), "{when}: then {again:?}");
            // Only leaks are allowed.
            if let (Kind::Into(_), Some(3)) = (work.kind, status(folder, "x")) {
                assert_eq!(run(folder, COWHIDE, repair).status, Some(0), "{when}");
            }
            assert!(
                is_done(work, folder, &again, &without_fault),
                "{when}: again"
            );
        }
    }
    assert!(
        happened >= 8 && failures >= 2,
        "{happened} happened, {failures} failed"
    );
    assert!(all() == sources, "a source has changed");
}
