//! Tests of files that are named by a descriptor, most of which have no other name. The same file is read and written
//! as with `qemu-img`, and no other file is created.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use rustix::fs::{MemfdFlags, Mode, OFlags};

use crate::common::{COWHIDE, Noise, Ran, qemu_io};
use crate::tools::qemu_img;
use crate::trial;

/// Makes a file to be named by its descriptor.
type Make = fn(&Path) -> File;

/// The names of standard input, and links to it.
const NAMES: [&str; 5] = [
    "/dev/stdin",
    "/dev/fd/0",
    "/proc/self/fd/0",
    "link",
    "link-to-link",
];

pub fn trials() -> Vec<Trial> {
    let kinds: [(&str, Make); 4] = [
        ("named", |folder| open(&folder.join("named"))),
        ("unlinked", |folder| {
            let file = open(&folder.join("unlinked"));
            fs::remove_file(folder.join("unlinked")).unwrap();
            file
        }),
        ("unnamed", |folder| {
            let flags = OFlags::TMPFILE | OFlags::RDWR;
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::open(folder, flags, mode).unwrap().into()
        }),
        ("in_memory", |_| {
            let made = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC);
            made.unwrap().into()
        }),
    ];
    let mut trials: Vec<Trial> = kinds
        .into_iter()
        .map(|(kind, make)| trial(format!("descriptors::{kind}"), move || written(make)))
        .collect();
    trials.push(trial("descriptors::refused", refused));
    trials
}

fn open(path: &Path) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(true);
    file.open(path).unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("disk.raw"), Noise(1).bytes(5 << 16)).unwrap();
    fs::write(path.join("other.raw"), Noise(2).bytes(5 << 16)).unwrap();
    qemu_img(path, &["create", "-q", "-f", "qcow2", "leaky", "1M"]).ok();
    qemu_io(path, "qcow2", "leaky", &["write -P 1 0 64k"]);
    symlink("/proc/self/fd/0", path.join("link")).unwrap();
    symlink("link", path.join("link-to-link")).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Runs a tool with a file as its standard input.
fn with_input(folder: &Path, tool: &str, call: &str, input: Stdio) -> Ran {
    let mut command = Command::new(tool);
    let words = call.split(' ').filter(|word| !word.is_empty());
    command.args(words).current_dir(folder);
    command
        .env("LC_ALL", "C")
        .stdin(input)
        .output()
        .unwrap()
        .into()
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Checks that both tools do the same with the file: with its old contents, and in a call whose target it is.
fn written(make: Make) {
    let folder = folder();
    let folder = folder.path();
    let image = {
        // This leaks a cluster.
        let mut bytes = fs::read(folder.join("leaky")).unwrap();
        let field = |bytes: &[u8], at: usize| {
            usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
        };
        let l1 = field(&bytes, 40);
        let l2 = field(&bytes, l1) & 0x00ff_ffff_ffff_fe00;
        bytes[l2..l2 + 8].fill(0);
        bytes
    };
    for name in NAMES {
        for (before, call) in [
            (&b"old"[..], "convert -O raw disk.raw NAME"),
            (b"", "convert -O raw -t none disk.raw NAME"),
            (b"old", "convert -O qcow2 disk.raw NAME"),
            (b"", "convert -t writeback -O qcow2 disk.raw NAME"),
            (b"", "convert -c -O qcow2 disk.raw NAME"),
            (b"old", "create -q -f raw NAME 1M"),
            (b"", "create -q -f qcow2 NAME 1M"),
            (&image, "convert -n -O qcow2 disk.raw NAME"),
            (&image, "check -q -f qcow2 -r all NAME"),
            (
                b"",
                "convert -O qcow2 -o data_file=NAME,data_file_raw=on disk.raw x",
            ),
        ] {
            let call = call.replace("NAME", name);
            let mut ends = Vec::new();
            for tool in [COWHIDE, "qemu-img"] {
                let file = make(folder);
                file.write_all_at(before, 0).unwrap();
                let files = names(folder);
                let input = file.try_clone().unwrap();
                let ran = with_input(folder, tool, &call, input.into());
                // Neither tool can do what files in memory don't support.
                let is_refused =
                    ran.stderr.contains("O_DIRECT") || ran.stderr.contains("Invalid argument");
                let is_possible = !(is_refused && call.contains("-t none"));
                assert!(
                    !is_possible || ran.status == Some(0),
                    "{tool} {call}: {ran:?}"
                );
                if call.ends_with(" x") {
                    fs::remove_file(folder.join("x")).unwrap();
                }
                assert_eq!(names(folder), files, "{tool} {call}");
                let bytes = contents(&file);
                // The contents are compared, and not the layout.
                fs::write(folder.join("written"), &bytes).unwrap();
                let format = ["raw", "qcow2"][usize::from(bytes.starts_with(b"QFI\xfb"))];
                let to_raw = ["convert", "-f", format, "-O", "raw", "written", "back"];
                qemu_img(folder, &to_raw).ok();
                ends.push((is_possible, format, fs::read(folder.join("back")).unwrap()));
                for name in ["written", "back"] {
                    fs::remove_file(folder.join(name)).unwrap();
                }
            }
            assert!(ends[0] == ends[1], "{call}");
        }
        // The target can be verified, and be read as a source.
        let file = make(folder);
        let call = format!("convert --verify -q -O qcow2 disk.raw {name}");
        let input = file.try_clone().unwrap();
        with_input(folder, COWHIDE, &call, input.into()).ok();
        let call = format!("compare -q {name} disk.raw");
        with_input(folder, COWHIDE, &call, file.into()).ok();
    }
}

/// Checks pipes, and descriptors that aren't open: both tools have the same errors, and create nothing.
fn refused() {
    let folder = folder();
    let folder = folder.path();
    let before = names(folder);
    for call in [
        "convert -O raw disk.raw /dev/stdin",
        "convert -O qcow2 disk.raw /dev/fd/0",
        "convert -n -O raw disk.raw /dev/stdin",
        "convert -O raw /dev/stdin x",
        "convert -f raw -O raw link x",
        "create -q -f raw /dev/stdin 1M",
        "create -q -f qcow2 link-to-link 1M",
        "check -f qcow2 /dev/stdin",
        "info -f raw /dev/stdin",
        "convert -O raw disk.raw /dev/fd/77",
        "create -q -f qcow2 /proc/self/fd/77 1M",
        "info /dev/fd/77",
    ] {
        let ends = [COWHIDE, "qemu-img"].map(|tool| {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let input = reader.try_clone().unwrap();
            let mut ran = with_input(folder, tool, call, input.into());
            drop(writer);
            let mut written = Vec::new();
            reader.read_to_end(&mut written).unwrap();
            assert!(written.is_empty(), "{tool} {call}");
            ran.stderr = ran.stderr.replace("cowhide:", "qemu-img:");
            assert_eq!(names(folder), before, "{tool} {call}");
            (ran.status, ran.stderr)
        });
        assert_eq!(ends[0], ends[1], "{call}");
    }
}
