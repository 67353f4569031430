//! Tests of system calls that only improve speed, which fail with every error of kernels, containers and file
//! systems: the work succeeds without them and without a message. strace injects the errors. The tests are listed as
//! ignored if strace is missing or may not trace.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, run, write_disk};
use crate::tools::qemu_img;
use crate::{system_calls, trial};

const REFUSALS: [&str; 7] = [
    "EPERM",
    "ENOSYS",
    "EOPNOTSUPP",
    "EINVAL",
    "EIO",
    "EACCES",
    "ETXTBSY",
];

/// System calls, and work that uses them. `x` is the target, which may exist before.
const WORK: [(&str, &str, &str, &str); 14] = [
    (
        "copy",
        "copy_file_range",
        "convert -C -O raw disk.raw x",
        "",
    ),
    (
        "punch_raw",
        "fallocate",
        "convert -n -O raw disk.raw x",
        "full.raw",
    ),
    (
        "punch_qcow2",
        "fallocate",
        "convert -n -O qcow2 disk.raw x",
        "full.qcow2",
    ),
    (
        "reserve_raw",
        "fallocate",
        "convert -O raw -o preallocation=falloc disk.raw x",
        "",
    ),
    (
        "reserve_qcow2",
        "fallocate",
        "convert -O qcow2 -o preallocation=falloc disk.raw x",
        "",
    ),
    (
        "holes_of_sources",
        "lseek",
        "convert -O qcow2 disk.raw x",
        "",
    ),
    ("holes_mapped", "lseek", "map --output=json disk.raw", ""),
    (
        "holes_compared",
        "lseek",
        "compare -q disk.raw disk.raw",
        "",
    ),
    ("holes_measured", "lseek", "measure -O qcow2 disk.raw", ""),
    (
        "advice",
        "fadvise64",
        "convert --verify -O qcow2 disk.raw x",
        "",
    ),
    (
        "locks_for_writing",
        "fcntl",
        "convert -n -O qcow2 disk.raw x",
        "full.qcow2",
    ),
    ("locks_for_reading", "fcntl", "info full.qcow2", ""),
    (
        "flags",
        "ioctl",
        "create -q -f qcow2 -o nocow=on new 1M",
        "",
    ),
    (
        "sandbox",
        "landlock_create_ruleset,landlock_restrict_self,seccomp,prctl",
        "map --output=json full.qcow2",
        "",
    ),
];

pub fn trials() -> Vec<Trial> {
    let works = system_calls::can_be_traced();
    let refused = WORK.into_iter().map(|(name, calls, line, before)| {
        trial(format!("accelerations::{name}"), move || {
            refused(calls, line, before);
        })
    });
    let room = trial("accelerations::that_there_is_no_room_counts", no_room);
    let trials = refused.chain([room]);
    trials
        .map(|trial| trial.with_ignored_flag(!works))
        .collect()
}

fn prepare(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 1 << 20, 1);
    fs::write(folder.join("full.raw"), Noise(2).bytes(1 << 20)).unwrap();
    let args = ["convert", "-O", "qcow2", "full.raw", "full.qcow2"];
    qemu_img(folder, &args).ok();
}

/// Runs cowhide with all of the calls failing. There must be at least one.
fn with_error(folder: &Path, calls: &str, error: &str, line: &str) -> Ran {
    let expression = format!("inject={calls}:error={error}");
    let mut args = vec!["-f", "-o", "trace", "-e", &expression, COWHIDE];
    args.extend(line.split(' '));
    let ran = run(folder, "strace", args);
    let trace = fs::read_to_string(folder.join("trace")).unwrap();
    assert!(trace.contains("(INJECTED)"), "no {calls} in {line}");
    ran
}

fn refused(calls: &str, line: &str, before: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder);
    for error in REFUSALS {
        // This error of a lock means that another process has it.
        if calls == "fcntl" && error == "EACCES" {
            continue;
        }
        for name in ["x", "new"] {
            let _ = fs::remove_file(folder.join(name));
        }
        if !before.is_empty() {
            fs::copy(folder.join(before), folder.join("x")).unwrap();
        }
        let ran = with_error(folder, calls, error, line);
        assert_eq!(ran.status, Some(0), "{calls}, {error}: {ran:?}");
        assert!(ran.stderr.is_empty(), "{calls}, {error}: {ran:?}");
        if folder.join("x").exists() {
            let format = if line.contains("qcow2") {
                "qcow2"
            } else {
                "raw"
            };
            let compare = ["compare", "-f", "raw", "-F", format, "disk.raw", "x"];
            qemu_img(folder, &compare).ok();
        }
        assert!(folder.join("x").exists() || !line.ends_with(" x"), "{line}");
    }
}

/// Checks that a lack of space for a reservation is an error.
fn no_room() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder);
    for mode in ["falloc", "full"] {
        for format in ["raw", "qcow2"] {
            for (error, said) in [
                ("ENOSPC", "No space left on device"),
                ("EDQUOT", "Disk quota exceeded"),
                ("EFBIG", "File too large"),
            ] {
                let line = format!("convert -O {format} -o preallocation={mode} disk.raw x");
                let ran = with_error(folder, "fallocate", error, &line);
                ran.fails(1, said);
                assert!(!folder.join("x").exists(), "{line}");
            }
        }
    }
}
