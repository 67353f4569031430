//! Tests of QEMU's locks. An image that another process has open is refused with the same error, and `-U` shares it.
//! QEMU's tools refuse images that cowhide has open.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::common::{COWHIDE, Noise, Ran, run, until_it_has, write_disk};
use crate::tools::{Tool, ours, qemu_img, without_help};
use crate::trial;

/// The arguments of `qemu-io` that keep an image open, and the calls that are compared meanwhile.
const HELD: &[(&str, &[&str])] = &[
    (
        "x.qcow2",
        &[
            "info x.qcow2",
            "info ./x.qcow2",
            "info file:x.qcow2",
            "info --image-opts driver=qcow2,file.filename=x.qcow2",
            "info -f raw x.qcow2",
            "info -U x.qcow2",
            "info --force-share --output=json x.qcow2",
            "check x.qcow2",
            "check -U x.qcow2",
            "check -r all x.qcow2",
            "check -r leaks -U x.qcow2",
            "map x.qcow2",
            "map -U x.qcow2",
            "measure x.qcow2",
            "measure -U -O qcow2 x.qcow2",
            "compare x.qcow2 disk.raw",
            "compare -U disk.raw x.qcow2",
            "convert -n -O qcow2 disk.raw x.qcow2",
            "convert -O raw --image-opts driver=qcow2,force-share=on,file.filename=x.qcow2 y.raw",
            "convert -O raw --image-opts driver=qcow2,file.force-share=on,file.filename=x.qcow2 y.raw",
            "convert -O raw --image-opts driver=qcow2,file.locking=off,file.filename=x.qcow2 y.raw",
            "check --image-opts driver=qcow2,file.locking=on,file.filename=x.qcow2",
            "info --backing-chain above.qcow2",
            "convert -U above.qcow2 y.raw",
            "convert x.qcow2 y.raw",
            "convert -U x.qcow2 y.raw",
            "convert -O qcow2 disk.raw x.qcow2",
            "convert -U -O qcow2 disk.raw x.qcow2",
            "create -f qcow2 -b x.qcow2 -F qcow2 new.qcow2",
            "convert -n disk.raw x.qcow2",
            "convert -n --target-image-opts disk.raw driver=qcow2,file.filename=x.qcow2",
            "convert -n --target-image-opts disk.raw driver=qcow2,force-share=on,file.filename=x.qcow2",
            "convert above.qcow2 y.raw",
            "convert --image-opts driver=qcow2,file.filename=above.qcow2,backing.file.locking=off y.raw",
            "compare above.qcow2 disk.raw",
            "compare disk.raw above.qcow2",
            "compare -U above.qcow2 disk.raw",
            "map above.qcow2",
            "map -U above.qcow2",
            "measure above.qcow2",
            "info above.qcow2",
            "info -U --backing-chain above.qcow2",
            "map --image-opts driver=qcow2,file.filename=above.qcow2,backing.driver=qcow2,backing.file.locking=off",
            "create -f qcow2 x.qcow2 1M",
            "resize x.qcow2 +1M",
            "resize -f qcow2 --shrink x.qcow2 512",
            "commit x.qcow2",
            "commit -f qcow2 -d x.qcow2",
            "commit above.qcow2",
            "rebase -u -f qcow2 -b disk.raw -F raw x.qcow2",
            "amend -o size=1M x.qcow2",
            "dd if=x.qcow2 of=y.raw",
        ],
    ),
    (
        "-r x.qcow2",
        &[
            "resize x.qcow2 +1M",
            "info x.qcow2",
            "check x.qcow2",
            "convert x.qcow2 y.raw",
            "convert -O qcow2 disk.raw x.qcow2",
            "convert -n disk.raw x.qcow2",
            "create -f qcow2 x.qcow2 1M",
        ],
    ),
    (
        "-f raw x.raw",
        &[
            "info x.raw",
            "check x.raw",
            "map x.raw",
            "convert x.raw y.raw",
            "convert -U x.raw y.raw",
            "dd -f raw if=x.raw of=y.raw",
            "dd if=over.qcow2 of=y.raw",
            "convert -O qcow2 disk.raw x.raw",
        ],
    ),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (holder, calls) in HELD {
        for call in *calls {
            trials.push(trial(format!("locks::[{call}] [{holder}]"), || {
                held(holder, call);
            }));
        }
    }
    trials.push(trial("locks::a_raw_image_in_use_survives", raw_in_use));
    trials.push(trial("locks::a_raw_image_in_use_is_resized", raw_resized));
    trials.push(trial("locks::left_out_of_a_target", unlocked_targets));
    trials.push(trial("locks::a_backing_file_in_use", backing_in_use));
    trials.push(trial("locks::what_a_target_is_over", backed_target));
    trials.push(trial("locks::check_asks_only_for_its_file", checked_alone));
    trials.push(trial("locks::somebody_elses_lock", foreign_lock));
    trials.push(trial("locks::ours_are_seen", ours_are_seen));
    trials.push(trial("locks::what_ours_is_over_is_seen", base_is_seen));
    trials
}

/// A process of `qemu-io` that keeps an image open until it is dropped.
pub struct Holder(Child);

impl Holder {
    pub fn open(folder: &Path, args: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(args.split_whitespace())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"length\n")
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(line.contains("iB"), "not the length: {line:?}");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

fn files(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 100_000, 2);
    write_disk(&folder.join("x.raw"), 300_000, 3);
    let args = ["convert", "-O", "qcow2", "x.raw", "x.qcow2"];
    qemu_img(folder, &args).ok();
    let args = "create -q -f qcow2 -b x.qcow2 -F qcow2 above.qcow2";
    let args: Vec<&str> = args.split(' ').collect();
    qemu_img(folder, &args).ok();
    let args = "create -q -f qcow2 -b x.raw -F raw over.qcow2";
    let args: Vec<&str> = args.split(' ').collect();
    qemu_img(folder, &args).ok();
}

fn image_bytes(folder: &Path) -> [Vec<u8>; 2] {
    ["x.raw", "x.qcow2"].map(|name| fs::read(folder.join(name)).unwrap())
}

fn held(holder: &str, call: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let holder = Holder::open(folder, holder);
    let before = image_bytes(folder);
    let args: Vec<&str> = call.split_whitespace().collect();
    let ours = ours(folder, &args);
    assert!(image_bytes(folder) == before, "written to while in use");
    let theirs = qemu_img(folder, &args);
    assert_eq!(ours.status, theirs.status, "{ours:?} {theirs:?}");
    let asked = theirs.stderr.contains("Is another process using");
    let said = without_holder(&ours, asked.then(|| holder.0.id()));
    let said = said.replace("cowhide", "qemu-img");
    assert_eq!(without_help(&said, &theirs.stderr), theirs.stderr);
    assert_eq!(ours.stdout, theirs.stdout);
    drop(holder);
}

/// Returns standard error without the line that only cowhide has. Asserts that the line names `holder`.
fn without_holder(ran: &Ran, holder: Option<u32>) -> String {
    let is_holder = |line: &&str| line.starts_with("Process ");
    if let Some(id) = holder {
        let line = ran.stderr.lines().find(is_holder).unwrap_or_default();
        let expected = format!("Process {id} (qemu-io) holds locks on it.");
        assert_eq!(line, expected, "{ran:?}");
    }
    let lines = ran.stderr.lines().filter(|line| !is_holder(line));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Checks that both tools resize a raw image that is in use.
fn raw_resized() {
    for holder in ["-f raw x.raw", "-r -f raw x.raw"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        files(folder);
        let holder = Holder::open(folder, holder);
        for (tool, length) in [(ours as Tool, "6M"), (qemu_img, "7M")] {
            let ran = tool(folder, &["resize", "-f", "raw", "x.raw", length]);
            assert_eq!(ran.ok(), "Image resized.\n");
        }
        assert_eq!(fs::metadata(folder.join("x.raw")).unwrap().len(), 7 << 20);
        drop(holder);
    }
}

/// Checks a raw file that another process writes. QEMU empties it, since raw images allow several writers.
fn raw_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let holder = Holder::open(folder, "-f raw x.raw");
    let before = image_bytes(folder);
    for args in [
        &["convert", "disk.raw", "x.raw"][..],
        &["create", "-q", "x.raw", "1M"],
    ] {
        refused(&ours(folder, args), "shared \"write\"", "x.raw");
    }
    assert!(image_bytes(folder) == before);
    drop(holder);
    ours(folder, &["convert", "disk.raw", "x.raw"]).ok();
}

fn refused(ran: &Ran, what: &str, name: &str) {
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let expected =
        format!("Failed to get {what} lock\nIs another process using the image [{name}]?\n");
    let said = without_holder(ran, None);
    assert!(said.ends_with(&expected), "{ran:?}");
}

/// Checks that `locking=off` ignores locks even for overwriting an image that is in use, but only for its own file.
fn unlocked_targets() {
    for tool in [qemu_img, ours] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        files(folder);
        let holder = Holder::open(folder, "x.qcow2");
        let raw = Holder::open(folder, "-f raw x.raw");
        let convert = ["convert", "-n", "--target-image-opts", "disk.raw"];
        let over = |target: &str| tool(folder, &[&convert[..], &[target]].concat());
        over("driver=qcow2,file.filename=x.qcow2,file.locking=off").ok();
        over("driver=raw,file.filename=x.raw,file.locking=off").ok();
        // The overwritten file isn't locked, but locks on its backing file still count.
        let above = "driver=qcow2,file.filename=above.qcow2";
        refused(
            &over(&format!("{above},file.locking=off")),
            "shared \"write\"",
            "x.qcow2",
        );
        over(&format!("{above},backing.file.locking=off")).ok();
        drop((holder, raw));
        let disk = fs::read(folder.join("disk.raw")).unwrap();
        for (format, name) in [
            ("raw", "x.raw"),
            ("qcow2", "x.qcow2"),
            ("qcow2", "above.qcow2"),
        ] {
            qemu_img(folder, &["convert", "-f", format, name, "back"]).ok();
            let back = fs::read(folder.join("back")).unwrap();
            assert!(back.starts_with(&disk), "{name}");
        }
    }
}

/// Checks that a backing file is locked during a conversion over it, which depends on its contents, and not for a new
/// empty overlay.
fn backed_target() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let holder = Holder::open(folder, "x.qcow2");
    let words = "convert -B x.qcow2 -F qcow2 -O qcow2 disk.raw new.qcow2";
    let words: Vec<&str> = words.split(' ').collect();
    refused(&qemu_img(folder, &words), "shared \"write\"", "x.qcow2");
    let _ = fs::remove_file(folder.join("new.qcow2"));
    refused(&ours(folder, &words), "shared \"write\"", "x.qcow2");
    assert!(!folder.join("new.qcow2").exists());
    drop(holder);
    ours(folder, &words).ok();
}

/// Checks that `check` opens no backing file, which may be in use or missing. QEMU opens it and fails.
fn checked_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let holder = Holder::open(folder, "x.qcow2");
    for args in [
        &["check", "above.qcow2"][..],
        &["check", "-r", "all", "above.qcow2"],
    ] {
        refused(&qemu_img(folder, args), "shared \"write\"", "x.qcow2");
        assert!(ours(folder, args).ok().starts_with("No errors"));
    }
    drop(holder);
    fs::remove_file(folder.join("x.qcow2")).unwrap();
    assert!(
        ours(folder, &["check", "above.qcow2"])
            .ok()
            .starts_with("No errors")
    );
}

/// Checks that cowhide names the locked file of the chain.
fn backing_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let holder = Holder::open(folder, "x.qcow2");
    for tool in [qemu_img, ours] {
        let ran = tool(folder, &["convert", "above.qcow2", "y.raw"]);
        refused(&ran, "shared \"write\"", "x.qcow2");
    }
    drop(holder);
    ours(folder, &["convert", "above.qcow2", "y.raw"]).ok();
}

/// Checks an exclusive lock on the same bytes, which QEMU never takes.
fn foreign_lock() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let path = folder.join("x.qcow2");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 203,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    for (call, refused) in [("check", true), ("info", true), ("info -U", false)] {
        let args: Vec<&str> = call.split(' ').chain(["x.qcow2"]).collect();
        let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        assert_eq!(ours.status, theirs.status, "{ours:?} {theirs:?}");
        let said = without_holder(&ours, None);
        assert_eq!(said.replace("cowhide", "qemu-img"), theirs.stderr);
        assert_eq!(said.contains("Failed to lock byte 203"), refused);
        // While another trial starts a program, a copy of this process has the file open, too.
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        let holder = format!(" ({}) holds locks on it.", name.trim());
        let is_told = |line: &str| line.starts_with("Process ") && line.ends_with(&holder);
        assert_eq!(ours.stderr.lines().any(is_told), refused, "{ours:?}");
    }
}

/// Checks that QEMU's tools can't write the source or use the target of a running conversion of cowhide.
fn ours_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("big.raw"), Noise(1).bytes(16 << 20)).unwrap();
    write_disk(&folder.join("disk.raw"), 100_000, 2);
    // A new file has no name before it is complete.
    fs::write(folder.join("new.qcow2"), "old").unwrap();
    let mut converting = Command::new(COWHIDE)
        .args("convert -r 64k -O qcow2 big.raw new.qcow2".split(' '))
        .current_dir(folder)
        .spawn()
        .unwrap();
    let mut still_converting = || {
        let over = converting.try_wait().unwrap();
        assert!(over.is_none(), "the conversion is over: {over:?}");
    };
    // It is locked before it is emptied.
    while fs::metadata(folder.join("new.qcow2")).unwrap().len() == 3 {
        still_converting();
    }
    // The target has no header yet, so it is probed as raw.
    let reading = ["convert", "new.qcow2", "y.raw"];
    for tool in [qemu_img, ours] {
        refused(&tool(folder, &reading), "shared \"write\"", "new.qcow2");
    }
    for tool in [qemu_img, ours] {
        let reading = ["convert", "-U", "new.qcow2", "y.raw"];
        assert_eq!(tool(folder, &reading).status, Some(0));
        let reading = ["info", "new.qcow2"];
        assert_eq!(tool(folder, &reading).status, Some(0));
        let writing = ["convert", "-O", "qcow2", "disk.raw", "new.qcow2"];
        refused(&tool(folder, &writing), "\"write\"", "new.qcow2");
        let writing = ["convert", "-n", "-O", "raw", "disk.raw", "big.raw"];
        refused(&tool(folder, &writing), "\"write\"", "big.raw");
    }
    let args = ["-f", "raw", "-c", "write 0 512", "big.raw"];
    let wrote = run(folder, "qemu-io", args);
    assert!(
        wrote.stderr.contains("Failed to get \"write\" lock"),
        "{wrote:?}"
    );
    still_converting();
    converting.kill().unwrap();
    converting.wait().unwrap();
    ours(folder, &["convert", "-O", "qcow2", "disk.raw", "new.qcow2"]).ok();
}

/// Checks that the whole backing chain of a target is locked until the target has been written.
fn base_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    fs::write(folder.join("big.raw"), Noise(1).bytes(8 << 20)).unwrap();
    let convert = "convert -r 256k -B above.qcow2 -F qcow2 -O qcow2 big.raw new.qcow2";
    for tool in ["qemu-img", COWHIDE] {
        let mut converting = Command::new(tool)
            .args(convert.split(' '))
            .current_dir(folder)
            .spawn()
            .unwrap();
        until_it_has(512 << 10, folder, &mut converting, "new.qcow2");
        for name in ["above.qcow2", "x.qcow2"] {
            let wrote = run(folder, "qemu-io", ["-c", "write -q 0 64k", name]);
            let expected = "Failed to get \"write\" lock";
            assert!(wrote.stderr.contains(expected), "{tool}: {wrote:?}");
            qemu_img(folder, &["info", name]).ok();
        }
        let over = converting.try_wait().unwrap();
        assert!(over.is_none(), "the conversion is over: {over:?}");
        converting.kill().unwrap();
        converting.wait().unwrap();
        let _ = fs::remove_file(folder.join("new.qcow2"));
    }
}
