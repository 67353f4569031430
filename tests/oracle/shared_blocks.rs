//! Tests of blocks that source and target share, on file systems that can do that. They are made in files and
//! mounted, which needs root and support by the kernel. Without these the tests are listed as ignored.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, run, write_disk};
use crate::tools::qemu_img;
use crate::trial;

/// A test, in the folder of a mounted file system.
type Test = fn(&Path);

/// The tests for each file system.
const TESTS: [(&str, Test); 5] = [
    ("same_image_and_contents", same_image_and_contents),
    ("images_in_use", images_in_use),
    ("changes_stay_apart", changes_stay_apart),
    ("refusals", refusals),
    ("full_disk", full_disk),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in ["xfs", "btrfs"] {
        let possible = Mounted::new(kind).is_some();
        for (name, test) in TESTS {
            let run = move || test(&Mounted::new(kind).unwrap().path());
            let trial = trial(format!("shared_blocks::{name} on {kind}"), run);
            trials.push(trial.with_ignored_flag(!possible));
        }
    }
    trials
}

/// A new file system in a file, mounted until it is dropped.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(kind: &str) -> Option<Self> {
        let mounted = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let file = mounted.folder.path().join("file");
        fs::File::create(&file).unwrap().set_len(400 << 20).unwrap();
        fs::create_dir(mounted.path()).unwrap();
        let done = |program: &str, args: &[&str], last: &[&Path]| {
            let mut command = Command::new(program);
            command.args(args).args(last);
            let output = command.stdin(Stdio::null()).output();
            output.is_ok_and(|output| output.status.success())
        };
        let made = done(&format!("mkfs.{kind}"), &["-q"], &[&file]);
        let is_mounted = made && done("mount", &["-o", "loop"], &[&file, &mounted.path()]);
        is_mounted.then_some(mounted)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg(self.path())
            .stderr(Stdio::null())
            .status();
    }
}

fn cowhide(folder: &Path, command: &str) -> Ran {
    run(folder, COWHIDE, command.split(' '))
}

fn qemu(folder: &Path, command: &str) -> Ran {
    qemu_img(folder, &command.split(' ').collect::<Vec<_>>())
}

/// Returns the map of an image: guest offset, length and host offset. Holes of the file within data are joined, since
/// a shared cluster has none.
fn tables(folder: &Path, image: &str) -> Vec<(u64, u64, Option<u64>)> {
    let map = cowhide(folder, &format!("map --output=json {image}")).ok();
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let mut runs: Vec<(u64, u64, Option<u64>)> = Vec::new();
    for extent in map {
        let number = |key: &str| extent[key].as_u64();
        let start = number("start").unwrap();
        let (end, host) = (start + number("length").unwrap(), number("offset"));
        match runs.last_mut() {
            Some((first, last, at))
                if host.is_some() && at.map(|at| at + (start - *first)) == host =>
            {
                *last = end;
            }
            _ => runs.push((start, end, host)),
        }
    }
    runs
}

fn same(folder: &Path, one: &str, other: &str) {
    assert!(
        fs::read(folder.join(one)).unwrap() == fs::read(folder.join(other)).unwrap(),
        "{one} and {other} differ"
    );
}

/// Checks that tables don't depend on sharing, and that everything that can be shared is, by `always`.
fn same_image_and_contents(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 40 << 20, 7);
    write_disk(&folder.join("odd.raw"), (5 << 20) + 1536, 8);
    qemu(folder, "convert -O qcow2 disk.raw theirs.qcow2").ok();
    for (name, source, options, compared) in [
        ("plain", "disk.raw", "-O qcow2", true),
        ("sparse", "disk.raw", "-O qcow2 -S 1M", true),
        ("whole", "disk.raw", "-O qcow2 -S 0", true),
        ("offloaded", "disk.raw", "-O qcow2 -C", true),
        ("large", "disk.raw", "-O qcow2 -o cluster_size=2M", true),
        ("small", "disk.raw", "-O qcow2 -o cluster_size=4k", true),
        (
            "extended",
            "disk.raw",
            "-O qcow2 -o extended_l2=on,cluster_size=128k",
            true,
        ),
        (
            "reserved",
            "disk.raw",
            "-O qcow2 -o preallocation=metadata",
            true,
        ),
        ("raw", "disk.raw", "-O raw", false),
        ("back", "theirs.qcow2", "-O raw", false),
        ("again", "theirs.qcow2", "-O qcow2", true),
        ("both", "disk.raw theirs.qcow2", "-O qcow2", true),
    ] {
        let convert = |how: &str, to: &str| {
            cowhide(
                folder,
                &format!("convert --reflink={how} {options} {source} {to}"),
            )
            .ok();
        };
        convert("always", name);
        convert("never", "copied");
        if compared {
            assert_eq!(tables(folder, name), tables(folder, "copied"), "{name}");
            qemu(folder, &format!("check -q {name}")).ok();
            qemu(folder, &format!("compare -q {name} copied")).ok();
        } else {
            same(folder, name, "copied");
        }
        fs::remove_file(folder.join("copied")).unwrap();
        fs::remove_file(folder.join(name)).unwrap();
    }
    let data = "convert --reflink=always -O qcow2 -o data_file=data disk.raw external";
    cowhide(folder, data).ok();
    qemu(folder, "compare -q external disk.raw").ok();
    // These are a partial block at the end, clusters smaller than a block, and data that isn't stored unchanged.
    cowhide(folder, "convert -c -O qcow2 disk.raw packed").ok();
    for (source, options) in [
        ("odd.raw", "-O qcow2"),
        ("odd.raw", "-O raw"),
        ("disk.raw", "-O qcow2 -o cluster_size=512"),
        ("packed", "-O raw"),
        ("packed theirs.qcow2", "-O qcow2"),
    ] {
        cowhide(folder, &format!("convert {options} {source} x")).ok();
        cowhide(
            folder,
            &format!("convert --reflink=never {options} {source} y"),
        )
        .ok();
        qemu(folder, "compare -q x y").ok();
    }
}

fn changes_stay_apart(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 8 << 20, 9);
    fs::copy(folder.join("disk.raw"), folder.join("before.raw")).unwrap();
    cowhide(folder, "convert --reflink=always -O qcow2 disk.raw x.qcow2").ok();
    let disk = fs::File::options()
        .write(true)
        .open(folder.join("disk.raw"))
        .unwrap();
    disk.write_all_at(&Noise(4).bytes(3 << 20), 1 << 20)
        .unwrap();
    disk.sync_all().unwrap();
    qemu(folder, "compare -q x.qcow2 before.raw").ok();
    // A write to the target doesn't change the source either.
    let io = ["-f", "qcow2", "-c", "write -P 5 0 4M", "x.qcow2"];
    assert_eq!(run(folder, "qemu-io", io).status, Some(0));
    fs::copy(folder.join("disk.raw"), folder.join("after.raw")).unwrap();
    qemu(folder, "compare -q disk.raw after.raw").ok();
}

/// An image in use shares what it gets new room for, and after a commit all that the image above it had.
fn images_in_use(folder: &Path) {
    let noise = |name: &str, seed| {
        fs::write(folder.join(name), Noise(seed).bytes(16 << 20)).unwrap();
    };
    for (command, name, is_shared) in [
        ("commit -q -f qcow2 top.qcow2", "base.qcow2", true),
        ("commit -q -d -f qcow2 top.qcow2", "base.qcow2", false),
        ("rebase -f qcow2 -b  top.qcow2", "top.qcow2", true),
        (
            "convert -n -f raw -O qcow2 disk.raw new.qcow2",
            "new.qcow2",
            true,
        ),
        (
            "convert -n --reflink=never -f raw -O qcow2 disk.raw new.qcow2",
            "new.qcow2",
            false,
        ),
    ] {
        // An image that is emptied shares with a third file before, by which it is seen what becomes of its blocks.
        let reflink = if command.starts_with("commit") {
            "auto"
        } else {
            "never"
        };
        for (seed, image) in [(1, "base"), (2, "top")] {
            noise("disk.raw", seed);
            let convert = format!("convert --reflink={reflink} -O qcow2 disk.raw {image}.qcow2");
            cowhide(folder, &convert).ok();
        }
        // The image doesn't store all of it, and has parts of clusters of its own.
        let io = ["-f", "qcow2", "-c", "discard 8M 4M", "top.qcow2"];
        assert_eq!(run(folder, "qemu-io", io).status, Some(0));
        cowhide(
            folder,
            "rebase -u -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
        )
        .ok();
        let io = ["-f", "qcow2", "-c", "write -P 7 9M 1536", "top.qcow2"];
        assert_eq!(run(folder, "qemu-io", io).status, Some(0));
        cowhide(folder, "create -q -f qcow2 new.qcow2 30M").ok();
        cowhide(folder, "convert -O raw top.qcow2 before.raw").ok();
        cowhide(folder, command).ok();
        assert_eq!(shares(&folder.join(name)), is_shared, "{command}");
        qemu(folder, &format!("check -q {name}")).ok();
        let expected = if name == "new.qcow2" {
            "disk.raw"
        } else {
            "before.raw"
        };
        let read = if name == "new.qcow2" {
            name
        } else {
            "top.qcow2"
        };
        qemu(folder, &format!("compare -q {read} {expected}")).ok();
        if command.starts_with("commit") {
            qemu(folder, &format!("compare -q {name} {expected}")).ok();
        }
    }
}

/// Says if blocks of a file are another file's as well.
fn shares(file: &Path) -> bool {
    fs::File::open(file).unwrap().sync_all().unwrap();
    let listed = Command::new("filefrag")
        .arg("-v")
        .arg(file)
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).unwrap().contains("shared")
}

fn refusals(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 8 << 20, 3);
    fs::write(folder.join("pw"), "correct horse").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("x");
    let to = target.to_str().unwrap();
    cowhide(
        folder,
        &format!("convert --reflink=always -O qcow2 disk.raw {to}"),
    )
    .fails(
        1,
        &format!("'disk.raw' with '{to}': Invalid cross-device link"),
    );
    assert!(!target.exists());
    cowhide(folder, &format!("convert -O qcow2 disk.raw {to}")).ok();
    qemu(folder, &format!("compare -q disk.raw {to}")).ok();
    for options in [
        "--encrypt aes --password-file pw -O qcow2",
        "-c -O qcow2",
        "-O qcow2 -o preallocation=full",
        "-O raw -o preallocation=falloc",
    ] {
        cowhide(
            folder,
            &format!("convert --reflink=always {options} disk.raw x"),
        )
        .fails(1, "blocks can't be shared");
        assert!(!folder.join("x").exists(), "{options}");
    }
    cowhide(
        folder,
        "convert --reflink=always --checksum sha256 -O qcow2 disk.raw x",
    )
    .fails(1, "every byte has to be read");
    cowhide(folder, "convert --reflink=often disk.raw x").fails(1, "'often'");
    assert!(!folder.join("x").exists());
}

/// Checks a full disk: shared blocks take no space, and copied ones without space are an error that leaves no file.
fn full_disk(folder: &Path) {
    fs::write(folder.join("disk.raw"), Noise(6).bytes(100 << 20)).unwrap();
    fs::File::open(folder.join("disk.raw"))
        .and_then(|disk| disk.sync_all())
        .unwrap();
    let filler = fs::File::create(folder.join("filler")).unwrap();
    let free = || {
        let stat = rustix::fs::statvfs(folder).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let mut at = 0;
    while free() > 60 << 20 {
        filler.write_all_at(&Noise(at).bytes(4 << 20), at).unwrap();
        filler.sync_all().unwrap();
        at += 4 << 20;
    }
    cowhide(
        folder,
        "convert -t writeback --reflink=never -O qcow2 disk.raw x",
    )
    .fails(1, "No space left on device");
    assert!(!folder.join("x").exists());
    cowhide(
        folder,
        "convert -t writeback --reflink=always -O qcow2 disk.raw x",
    )
    .ok();
    qemu(folder, "compare -q x disk.raw").ok();
}
