//! Tests of missing permissions: both tools have the same messages, and cowhide creates, changes and loses nothing.
//!
//! As root, the tests run the tools as nobody, since root may do everything.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::common::{Ran, copy_program, write_disk};
use crate::tools::qemu_img;
use crate::trial;

/// Calls with the files of [`files`].
const CALLS: &[&str] = &[
    "info unreadable.raw",
    "info --image-opts driver=raw,file.filename=unreadable.raw",
    "info closed/disk.raw",
    "info closed/none",
    "map unreadable.raw",
    "check unreadable.raw",
    "check -r all fixed.qcow2",
    "compare unreadable.raw disk.raw",
    "compare disk.raw unreadable.raw",
    "measure -O qcow2 unreadable.raw",
    "info --backing-chain over.qcow2",
    "map over.qcow2",
    "convert over.qcow2 x",
    "convert unreadable.raw x",
    "convert disk.raw fixed.raw",
    "convert -O qcow2 disk.raw fixed.qcow2",
    "convert disk.raw unreadable.raw",
    "convert -n disk.raw fixed.raw",
    "convert -n -O qcow2 disk.raw fixed.qcow2",
    "convert disk.raw full/x",
    "convert -O qcow2 disk.raw full/x",
    "convert disk.raw closed/x",
    "convert -n disk.raw closed/x",
    "convert -O qcow2 -o data_file=full/d disk.raw x",
    "create fixed.raw 1M",
    "create full/x 1M",
    "create closed/x 1M",
    "create -f qcow2 full/x 1M",
    "create -f qcow2 fixed.qcow2 1M",
    "create -f qcow2 -o data_file=full/d x 1M",
    "create -f qcow2 -b unreadable.raw -F raw x",
    "create --object secret,id=s,file=unreadable.raw x 1M",
];

pub fn trials() -> Vec<Trial> {
    let trials = CALLS
        .iter()
        .map(|call| trial(format!("access::[{call}]"), move || same(call)));
    trials.collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Makes files and folders that may not be read or written.
fn files(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 100_352, 31);
    for name in ["unreadable.raw", "fixed.raw"] {
        fs::copy(folder.join("disk.raw"), folder.join(name)).unwrap();
    }
    for line in [
        "create -q -f qcow2 fixed.qcow2 1M",
        "create -q -f qcow2 -b unreadable.raw -F raw over.qcow2",
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        qemu_img(folder, &args).ok();
    }
    for name in ["closed", "full"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    fs::copy(folder.join("disk.raw"), folder.join("closed/disk.raw")).unwrap();
    for (name, mode) in [
        ("unreadable.raw", 0o000),
        ("fixed.raw", 0o444),
        ("fixed.qcow2", 0o444),
        ("closed", 0o000),
        ("full", 0o555),
        ("", 0o777),
    ] {
        set_mode(&folder.join(name), mode);
    }
}

/// Runs a tool as a user other than root.
fn run(folder: &Path, tool: &Path, call: &str) -> Ran {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = match is_root {
        true => {
            let mut command = Command::new("setpriv");
            let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            command.args(nobody).arg(tool);
            command
        }
        false => Command::new(tool),
    };
    command
        .args(call.split_whitespace())
        .current_dir(folder)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .into()
}

/// Returns the paths and lengths of all files.
fn lengths(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut lengths: Vec<_> = entries
        .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
        .collect();
    lengths.sort();
    lengths
}

fn same(call: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The copy is in a folder where another user may execute it.
    let binary = folder.join("cowhide");
    copy_program(&binary);
    files(folder);
    let before = lengths(folder);
    let ours = run(folder, &binary, call);
    assert_eq!(lengths(folder), before, "{ours:?}");
    let theirs = run(folder, Path::new("qemu-img"), call);
    let complaint = ours.stderr.replace("cowhide", "qemu-img");
    assert_eq!(
        (ours.status, ours.stdout.as_str(), complaint.as_str()),
        (
            theirs.status,
            theirs.stdout.as_str(),
            theirs.stderr.as_str()
        ),
    );
    // This allows the folder to be removed.
    set_mode(&folder.join("closed"), 0o755);
    set_mode(&folder.join("full"), 0o755);
}
