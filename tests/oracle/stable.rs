//! Tests of cache modes by the system calls of a whole command. With every mode but `unsafe`, the default of
//! `convert`, each written file is flushed after its last change, and the directory of each new file too. The page
//! cache is bypassed if the mode says so.
//!
//! strace records the calls. The tests are listed as ignored if strace is missing or may not trace.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, run, write_disk};
use crate::tools::qemu_img;
use crate::{system_calls, trial};

const MODES: [&str; 6] = [
    "none",
    "writeback",
    "writethrough",
    "directsync",
    "unsafe",
    "",
];

/// Calls, and the files that they write.
const CALLS: &[(&str, &[&str])] = &[
    ("-O qcow2 disk.raw x", &["x"]),
    ("-O raw disk.qcow2 x", &["x"]),
    ("-c -O qcow2 disk.raw x", &["x"]),
    ("-O qcow2 -o preallocation=metadata disk.raw x", &["x"]),
    ("-O raw -o preallocation=full disk.qcow2 x", &["x"]),
    ("-O qcow2 -o data_file=y disk.raw x", &["x", "y"]),
    (
        "-O qcow2 -o encrypt.format=aes,encrypt.key-secret=s --object secret,id=s,data=a disk.raw x",
        &["x"],
    ),
    ("-n -O qcow2 disk.raw over.qcow2", &["over.qcow2"]),
    ("-n -O raw disk.qcow2 over.raw", &["over.raw"]),
    ("-C -n -O raw disk.raw over.raw", &["over.raw"]),
    ("--bitmaps -O qcow2 bitmap.qcow2 x", &["x"]),
];

/// Calls that open a file.
const OPENS: [&str; 2] = ["open", "openat"];

/// Calls that change a file.
const CHANGES: [&str; 6] = [
    "pwrite64",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "copy_file_range",
];

pub fn trials() -> Vec<Trial> {
    let works = system_calls::can_be_traced();
    let convert = MODES.into_iter().map(|mode| {
        let name = format!("stable::convert_with_[{mode}]");
        trial(name, move || conversions(mode)).with_ignored_flag(!works)
    });
    let mut trials: Vec<Trial> = convert.collect();
    trials.push(trial("stable::sources", sources).with_ignored_flag(!works));
    trials.push(trial("stable::repairs", repairs).with_ignored_flag(!works));
    trials
}

/// A system call: its name, its path, and the line of strace. A file without a name has the path that it gets later.
struct Call {
    name: String,
    path: String,
    line: String,
}

impl Call {
    fn is_open(&self) -> bool {
        OPENS.contains(&self.name.as_str())
    }

    fn is_flush(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync")
    }
}

/// Runs cowhide, and returns its system calls on files, in order.
fn trace(folder: &Path, args: &str) -> Vec<Call> {
    let what = format!(
        "trace=?open,openat,fsync,fdatasync,write,linkat,{}",
        CHANGES.join(",")
    );
    let mut all = vec!["-f", "-y", "-qq", "-o", "trace", "-e", &what, COWHIDE];
    all.extend(args.split_whitespace());
    run(folder, "strace", all).ok();
    let trace = fs::read_to_string(folder.join("trace")).unwrap();
    let call = |line: &str| {
        // 123  pwrite64(5</folder/x>, …) = 512; what was interrupted is told of as a beginning and an end.
        let (name, rest) = line.split_once(' ')?.1.trim_start().split_once('(')?;
        // The path is in the result of an open, and in the first argument of the others.
        let path = if OPENS.contains(&name) {
            rest.rsplit_once(") = ")?.1
        } else {
            rest
        };
        Some(Call {
            name: name.to_owned(),
            path: path.split(['<', '>']).nth(1)?.to_owned(),
            line: line.to_owned(),
        })
    };
    let mut calls: Vec<Call> = trace.lines().filter_map(call).collect();
    for (unnamed, name) in names(&trace, &calls) {
        for call in calls.iter_mut().filter(|call| call.path == unnamed) {
            call.path.clone_from(&name);
        }
    }
    calls
}

/// Returns the paths that files without a name have in the trace, and those of the names that they get.
fn names(trace: &str, calls: &[Call]) -> Vec<(String, String)> {
    let linked = |line: &str| {
        // linkat(AT_FDCWD<…>, "/proc/self/fd/7", 6</folder>, "x", AT_SYMLINK_FOLLOW) = 0
        let (_, rest) = line.split_once("linkat(")?;
        let mut quoted = rest.split('"').skip(1).step_by(2);
        let descriptor = quoted.next()?.rsplit('/').next()?;
        let folder = rest.rsplit_once("</")?.1.split('>').next()?;
        let name = format!("/{folder}/{}", quoted.next()?);
        let opened = calls
            .iter()
            .filter(|call| call.is_open() && call.path.contains("/#"));
        let mut opened = opened.filter(|call| call.line.contains(&format!(" = {descriptor}<")));
        Some((opened.next_back()?.path.clone(), name))
    };
    trace.lines().filter_map(linked).collect()
}

/// Makes a folder on a real disk, since not every tmpfs can bypass the page cache.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path();
    write_disk(&path.join("disk.raw"), 3_000_320, 4);
    fs::write(path.join("over.raw"), vec![7; 3_000_320]).unwrap();
    for line in [
        "convert -O qcow2 disk.raw disk.qcow2",
        "create -q -f qcow2 over.qcow2 3M",
        "convert -O qcow2 disk.raw bitmap.qcow2",
        "bitmap --add bitmap.qcow2 b",
    ] {
        qemu_img(path, &line.split(' ').collect::<Vec<_>>()).ok();
    }
    folder
}

/// Asserts that the last system call on a file is a flush, whatever its name was then.
fn assert_flushed(calls: &[Call], path: &Path, what: &str) {
    let about = |call: &&Call| Path::new(&call.path) == path;
    let changed = calls
        .iter()
        .rev()
        .filter(about)
        .find(|call| call.is_flush() || CHANGES.contains(&call.name.as_str()));
    let last = changed.unwrap_or_else(|| panic!("{what}: nothing was done to {path:?}"));
    assert!(last.is_flush(), "{what}: {path:?} ends with {}", last.line);
}

fn conversions(mode: &str) {
    let folder = folder();
    let folder = &folder.path().canonicalize().unwrap();
    for (call, files) in CALLS {
        for name in ["x", "y"] {
            let _ = fs::remove_file(folder.join(name));
        }
        let option = if mode.is_empty() { "" } else { "-t" };
        let call = format!("convert {option} {mode} {call}");
        let calls = trace(folder, &call);
        let flushes = calls.iter().filter(|call| call.is_flush()).count();
        if matches!(mode, "" | "unsafe") {
            assert_eq!(flushes, 0, "{call}");
        } else {
            for name in *files {
                assert_flushed(&calls, &folder.join(name), &call);
            }
            let made = files.contains(&"x");
            let directory = calls
                .iter()
                .any(|call| call.is_flush() && Path::new(&call.path) == folder);
            assert!(directory || !made, "{call}: the new name");
        }
        for name in *files {
            let opened = |flag: &str| {
                let mut written = calls.iter().filter(|call| {
                    let is_it = Path::new(&call.path) == folder.join(name);
                    call.is_open() && is_it && call.line.contains("O_RDWR")
                });
                written.any(|call| call.line.contains(flag))
            };
            assert!(opened("O_RDWR"), "{call}");
            let direct = matches!(mode, "none" | "directsync");
            assert_eq!(opened("O_DIRECT"), direct, "{call}: O_DIRECT");
            let synchronous = matches!(mode, "writethrough" | "directsync");
            assert_eq!(opened("SYNC"), synchronous, "{call}: O_DSYNC or O_SYNC");
        }
    }
}

/// Checks that `-T none` bypasses the page cache for reads.
fn sources() {
    let folder = folder();
    let folder = &folder.path().canonicalize().unwrap();
    for call in [
        "convert -T MODE -O qcow2 disk.raw x",
        "convert -T MODE -O raw disk.qcow2 x",
        "compare -T MODE disk.raw disk.qcow2",
        "check -T MODE disk.qcow2",
    ] {
        for (mode, direct) in [("none", true), ("directsync", true), ("writeback", false)] {
            let calls = trace(folder, &call.replace("MODE", mode));
            let opened = |flag: &str| {
                let of_disk = |call: &&Call| {
                    let path = Path::new(&call.path);
                    path.starts_with(folder) && path.file_stem() == Some("disk".as_ref())
                };
                let mut opened = calls.iter().filter(of_disk);
                opened.any(|call| call.is_open() && call.line.contains(flag))
            };
            assert!(opened("O_RDONLY") && !opened("O_RDWR"), "{call}");
            assert_eq!(opened("O_DIRECT"), direct, "{call} {mode}");
        }
    }
}

/// Checks that a repair is flushed with every cache mode.
fn repairs() {
    let folder = folder();
    let folder = &folder.path().canonicalize().unwrap();
    let image = folder.join("disk.qcow2");
    let mut bytes = fs::read(&image).unwrap();
    let number = |at: usize| {
        usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
    };
    let block = number(number(48));
    // This leaks a cluster: an unused one gets a refcount.
    bytes[block + 2 * 1000..block + 2 * 1000 + 2].copy_from_slice(&[0, 1]);
    fs::write(&image, bytes).unwrap();
    let calls = trace(folder, "check -q -r leaks disk.qcow2");
    assert_flushed(&calls, &image, "check -r leaks");
}
