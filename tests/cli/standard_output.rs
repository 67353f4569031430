//! Tests of standard output that is full or closed, or whose reader is gone. The work is done nevertheless, a lost
//! report is an error, and no exit status gets another meaning.

use std::fs;
use std::io::pipe;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{COWHIDE, Ran, cowhide, write_disk};

const CLUSTER: usize = 64 << 10;
const FULL: &str = "writing to standard output: No space left on device";
const CLOSED: &str = "writing to standard output: Bad file descriptor";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_disk(&path.join("disk.raw"), 100_352, 71);
    write_disk(&path.join("other.raw"), 100_352, 72);
    cowhide(path, "convert -O qcow2 disk.raw disk.qcow2").ok();
    // This adds a leaked cluster.
    let mut leaky = fs::read(path.join("disk.qcow2")).unwrap();
    let cluster = leaky.len().div_ceil(CLUSTER);
    leaky.resize((cluster + 1) * CLUSTER, 0);
    let field = |bytes: &[u8], at: usize| {
        let offset = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        usize::try_from(offset).unwrap()
    };
    let block = field(&leaky, field(&leaky, 48));
    leaky[block + 2 * cluster + 1] = 1;
    fs::write(path.join("leaky.qcow2"), leaky).unwrap();
    folder
}

fn sh(folder: &Path, script: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder);
    command.env("cowhide", COWHIDE).env("LC_ALL", "C");
    command.stdin(Stdio::null()).output().unwrap().into()
}

/// Commands, and their usual exit status.
const REPORTS: [(&str, i32); 10] = [
    ("info disk.qcow2", 0),
    ("info --output=json disk.qcow2", 0),
    ("map disk.qcow2", 0),
    ("map --output=json disk.qcow2", 0),
    ("check disk.qcow2", 0),
    ("check leaky.qcow2", 3),
    ("measure disk.qcow2", 0),
    ("checksum disk.qcow2", 0),
    ("compare disk.qcow2 disk.raw", 0),
    ("compare disk.raw other.raw", 1),
];

#[test]
fn a_lost_report_is_told_of() {
    let folder = folder();
    let folder = folder.path();
    for (call, status) in REPORTS {
        let expected = match status {
            _ if call.starts_with("compare") => 2,
            0 => 1,
            verdict => verdict,
        };
        for (to, message) in [("/dev/full", FULL), ("&-", CLOSED)] {
            let ran = sh(folder, &format!("exec $cowhide {call} >{to}"));
            assert_eq!(ran.status, Some(expected), "{call} >{to}: {ran:?}");
            assert!(ran.stderr.contains(message), "{call} >{to}: {ran:?}");
        }
        let ran = sh(folder, &format!("exec $cowhide {call} >/dev/null"));
        assert_eq!(ran.status, Some(status), "{call}: {ran:?}");
        // This is how Python's subprocess.DEVNULL opens it.
        let ran = sh(folder, &format!("exec $cowhide {call} 1<>/dev/null"));
        assert_eq!(ran.status, Some(status), "{call}: {ran:?}");
    }
    for call in ["--help", "--version", "info --help"] {
        sh(folder, &format!("exec $cowhide {call} >/dev/full")).fails(1, FULL);
        sh(folder, &format!("exec $cowhide {call} >&-")).fails(1, CLOSED);
    }
}

#[test]
fn who_prints_nothing_needs_no_output() {
    let folder = folder();
    let folder = folder.path();
    for call in [
        "convert -O raw disk.qcow2 x",
        "convert -p -O raw disk.qcow2 x",
        "create -q -f qcow2 y 1M",
        "compare -q disk.raw disk.qcow2",
        "check -q disk.qcow2",
    ] {
        for to in ["/dev/full", "&-"] {
            sh(folder, &format!("exec $cowhide {call} >{to}")).ok();
        }
    }
}

/// Checks that `create` makes the image even if its line can't be printed.
#[test]
fn images_are_created_before_output_is_missed() {
    let folder = folder();
    let folder = folder.path();
    for (to, message) in [("/dev/full", FULL), ("&-", CLOSED)] {
        for format in ["raw", "qcow2"] {
            let name = format!("{format}.new");
            sh(
                folder,
                &format!("exec $cowhide create -f {format} {name} 1M >{to}"),
            )
            .fails(1, message);
            let info = cowhide(folder, &format!("info -f {format} {name}")).ok();
            assert!(info.contains("virtual size: 1 MiB"), "{info}");
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
}

#[test]
fn a_reader_who_has_seen_enough_changes_no_status() {
    let folder = folder();
    let folder = folder.path();
    for (call, status) in REPORTS
        .into_iter()
        .chain([("create -f raw z 1M", 0), ("--help", 0)])
    {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let child = Command::new(COWHIDE)
            .args(call.split(' '))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.status, Some(status), "{call}: {ran:?}");
        assert!(!ran.stderr.contains("standard output"), "{call}: {ran:?}");
    }
    assert_eq!(fs::metadata(folder.join("z")).unwrap().len(), 1 << 20);
}
