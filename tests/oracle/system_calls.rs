//! Tests of the real program in which every system call on a file fails once, is interrupted once, and is the last
//! one once. strace injects that without a change to the program. The tests are listed as ignored if strace is
//! missing or may not trace.
//!
//! Either the program succeeds and its target has the source's data, or it prints an error of one line and leaves no
//! image that can be opened. A killed program leaves the same, or a complete image.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Ran, run, write_disk};
use crate::tools::complaints;
use crate::trial;

/// Returns true if strace is installed and may trace.
pub fn can_be_traced() -> bool {
    std::process::Command::new("strace")
        .args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "inject=pread64:error=EIO:when=1000",
            "true",
        ])
        .output()
        .is_ok_and(|output| output.status.success())
}

pub fn trials() -> Vec<Trial> {
    let works = can_be_traced();
    WORKS
        .into_iter()
        .map(|work| {
            let name = format!("system_calls::{}", work.name);
            trial(name, move || sweep(&work)).with_ignored_flag(!works)
        })
        .collect()
}

/// A command with the target `x`.
struct Work {
    name: &'static str,
    command: &'static str,
    /// The file that `x` is a copy of before, or an empty string for none.
    before: &'static str,
    /// True if `x` must have data afterwards even if the program fails.
    keeps: bool,
}

const WORKS: [Work; 8] = [
    Work {
        name: "convert_to_qcow2",
        command: "convert -m 2 -O qcow2 disk.raw x",
        before: "",
        keeps: false,
    },
    Work {
        name: "convert_to_qcow2_on_stable_storage",
        command: "convert -m 1 -t writeback -O qcow2 disk.raw x",
        before: "",
        keeps: false,
    },
    Work {
        name: "convert_to_raw",
        command: "convert -m 2 -t none -O raw disk.qcow2 x",
        before: "",
        keeps: false,
    },
    Work {
        name: "convert_compressed",
        command: "convert -c -m 2 -O qcow2 disk.raw x",
        before: "",
        keeps: false,
    },
    Work {
        name: "convert_preallocated",
        command: "convert -O qcow2 -o preallocation=falloc disk.raw x",
        before: "",
        keeps: false,
    },
    Work {
        name: "copy_ranges",
        command: "convert -C -O raw disk.raw x",
        before: "",
        keeps: false,
    },
    Work {
        name: "convert_into_an_image",
        command: "convert -n -t writeback -O qcow2 disk.raw x",
        before: "over.qcow2",
        keeps: false,
    },
    Work {
        name: "repair",
        command: "check -q -f qcow2 -r all x",
        before: "broken.qcow2",
        keeps: true,
    },
];

/// System calls, their errors, and true if they change something: those are also interrupted, and the last one.
const CALLS: [(&str, &str, bool); 8] = [
    ("pread64", "EIO", false),
    ("pwrite64", "ENOSPC", true),
    ("fdatasync", "EIO", true),
    ("ftruncate", "EIO", true),
    ("fallocate", "ENOSPC", true),
    ("copy_file_range", "EIO", true),
    ("lseek", "EIO", false),
    ("statx", "EIO", false),
];

fn qemu_img(folder: &Path, args: &str) -> Ran {
    run(folder, "qemu-img", args.split(' '))
}

fn prepare(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 300_032, 1);
    write_disk(&folder.join("other.raw"), 300_032, 2);
    for (from, to) in [
        ("disk.raw", "disk.qcow2"),
        ("other.raw", "over.qcow2"),
        ("disk.raw", "broken.qcow2"),
    ] {
        let convert = format!("convert -O qcow2 -o cluster_size=4k {from} {to}");
        qemu_img(folder, &convert).ok();
    }
    // The image loses its refcount blocks, so that all are rebuilt.
    let path = folder.join("broken.qcow2");
    let mut bytes = fs::read(&path).unwrap();
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap());
    let table = usize::try_from(table).unwrap();
    bytes[table..table + 8].fill(0);
    fs::write(&path, bytes).unwrap();
}

fn renew(work: &Work, folder: &Path) {
    let _ = fs::remove_file(folder.join("x"));
    if !work.before.is_empty() {
        fs::copy(folder.join(work.before), folder.join("x")).unwrap();
    }
}

/// Does the work with a fault at the n-th of a call. Returns `None` if there were fewer.
fn inject(work: &Work, folder: &Path, call: &str, what: &str, nth: usize) -> Option<Ran> {
    renew(work, folder);
    let expression = format!("inject={call}:{what}:when={nth}");
    let trace = folder.join("trace");
    let mut args = vec!["-f", "-o", "trace", "-e", &expression, COWHIDE];
    args.extend(work.command.split(' '));
    let ran = run(folder, "strace", args);
    let trace = fs::read_to_string(trace).unwrap();
    let happened = trace.contains("(INJECTED)") || trace.contains("+++ killed by SIGKILL +++");
    happened.then_some(ran)
}

/// Returns true if `x` has the disk's contents.
fn is_right(folder: &Path) -> bool {
    let raw = qemu_img(folder, "info x")
        .stdout
        .contains("file format: raw");
    let format = if raw { "raw" } else { "qcow2" };
    let compare = format!("compare -q -f raw -F {format} disk.raw x");
    qemu_img(folder, &compare).status == Some(0)
}

/// Asserts that a failed work has left only what it may leave.
fn left_over(work: &Work, folder: &Path, when: &str) {
    if work.keeps {
        assert!(is_right(folder), "{when}: data was lost");
        let again = run(folder, COWHIDE, work.command.split(' '));
        assert_eq!(again.status, Some(0), "{when}: {again:?}");
        qemu_img(folder, "check -q -f qcow2 x").ok();
        assert!(is_right(folder), "{when}: data was lost by a second repair");
    } else if !work.before.is_empty() {
        // The image was in use, and still is: it must have no damage but leaks.
        let status = qemu_img(folder, "check -q -f qcow2 x").status;
        assert!(matches!(status, Some(0 | 3)), "{when}: {status:?}");
    }
}

fn sweep(work: &Work) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder);
    let sources = || ["disk.raw", "disk.qcow2"].map(|name| fs::read(folder.join(name)).unwrap());
    let before = sources();
    let mut failures = 0;
    for (call, error, changes) in CALLS {
        let effects = [
            format!("error={error}"),
            "error=EINTR".to_owned(),
            "signal=KILL".to_owned(),
        ];
        for effect in &effects {
            let interrupts = effect.ends_with("EINTR");
            let is_read = call == "pread64";
            if !changes && (effect.contains("KILL") || interrupts && !is_read) {
                continue;
            }
            for nth in 1.. {
                let Some(ran) = inject(work, folder, call, effect, nth) else {
                    break;
                };
                // Calls of the dynamic loader don't count.
                if ran.status == Some(127) && ran.stderr.contains("shared libraries") {
                    continue;
                }
                let when = format!("{}: {call} {nth}, {effect}", work.command);
                if ran.status == Some(0) {
                    assert!(is_right(folder), "{when}: {ran:?}");
                    assert!(work.keeps || ran.stderr.is_empty(), "{when}: {ran:?}");
                    continue;
                }
                assert!(!interrupts, "{when}: {ran:?}");
                failures += 1;
                if !effect.contains("KILL") {
                    assert!(matches!(ran.status, Some(1..=3)), "{when}: {ran:?}");
                    assert_eq!(complaints(&ran).len(), 1, "{when}: {ran:?}");
                    // The owner of a name is unknown if the system call that tells it fails.
                    let left = fs::metadata(folder.join("x")).is_ok_and(|meta| meta.len() > 0);
                    assert!(!left || !work.before.is_empty(), "{when}: left behind");
                } else if work.before.is_empty() && work.command.contains("-O qcow2") {
                    let opens = qemu_img(folder, "info -f qcow2 x").status == Some(0);
                    assert!(!opens || is_right(folder), "{when}: unfinished, but opens");
                }
                left_over(work, folder, &when);
            }
        }
    }
    assert!(failures > 10, "{failures}");
    assert!(sources() == before, "a source has changed");
}
