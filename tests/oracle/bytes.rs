//! Tests of names in options with any bytes that a file's name may have. Both tools open the same file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, write_disk};
use crate::tools::without_help;
use crate::trial;

/// Calls of words that are separated by spaces. `~` stands for a byte that isn't UTF-8.
const CALLS: &[&str] = &[
    "create -f qcow2 -b d~ -F raw x",
    "create -f qcow2 -u -o backing_file=gone~,,x,backing_fmt=raw x 1M",
    "create -f qcow2 -o data_file=e~ x 1M",
    "create -f qcow2 -o data_file=e~,data_file_raw=on x~ 1M",
    "create -f raw x~ 1M",
    "create -f qcow2 --object secret,id=s,file=k~ -o encrypt.format=aes,encrypt.key-secret=s x 1M",
    "convert -O qcow2 -B d~ -F raw over.qcow2 x",
    "convert -O qcow2 -l s~ snap.qcow2 x",
    "convert -O qcow2 -l snapshot.name=s~ snap.qcow2 x",
    "convert -O qcow2 --image-opts driver=raw,file.filename=d~ x~",
    "convert -n --target-image-opts disk.raw driver=raw,file.filename=d~",
    "map --output=json --image-opts driver=raw,file.filename=d~",
    "map --image-opts driver=raw,offset=512,file.filename=d~",
    "map d~",
    "measure -O qcow2 --image-opts file.filename=d~",
    "measure -O qcow2 -l s~ snap.qcow2",
    "info --output=json --image-opts driver=raw,file.filename=d~",
    "info --output=json --image-opts driver=raw,offset=512,file.filename=d~",
    "info --object secret,id=s,data=~ disk.raw",
    // These fail in both tools.
    "create -f qcow2 --object secret,id=s,data=~ -o encrypt.format=aes,encrypt.key-secret=s x 1M",
    "create --object secret,id=~,data=x x 1M",
    "convert -l ~ snap.qcow2 x",
    "convert -l snapshot.id=~ snap.qcow2 x",
];

pub fn trials() -> Vec<Trial> {
    vec![
        trial("bytes::names_are_no_text", || {
            CALLS.iter().for_each(|call| same(call))
        }),
        trial("bytes::what_people_read", what_people_read),
    ]
}

/// Returns the words of a line, with the byte for `~`.
fn words(line: &str) -> Vec<OsString> {
    let word = |word: &str| {
        let bytes: Vec<u8> = word
            .bytes()
            .map(|byte| if byte == b'~' { 0xff } else { byte })
            .collect();
        OsStr::from_bytes(&bytes).to_owned()
    };
    line.split_whitespace().map(word).collect()
}

fn run(tool: &str, folder: &Path, line: &str) -> (Option<i32>, Vec<u8>, Vec<u8>) {
    let output = Command::new(tool)
        .args(words(line))
        .current_dir(folder)
        .output()
        .unwrap();
    (output.status.code(), output.stdout, output.stderr)
}

fn files(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 1_000_448, 22);
    fs::copy(folder.join("disk.raw"), folder.join(&words("d~")[0])).unwrap();
    fs::write(folder.join(&words("k~")[0]), "secret").unwrap();
    for line in [
        "convert -O qcow2 disk.raw snap.qcow2",
        "snapshot -c s~ snap.qcow2",
        "create -q -f qcow2 -b d~ -F raw over.qcow2",
    ] {
        assert_eq!(run("qemu-img", folder, line).0, Some(0), "{line}");
    }
}

/// Returns the names of a folder's files.
fn names(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn same(call: &str) {
    let told = [COWHIDE, "qemu-img"].map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        files(folder.path());
        let (status, stdout, stderr) = run(tool, folder.path(), call);
        let stderr = String::from_utf8_lossy(&stderr).replace("cowhide", "qemu-img");
        (stderr, (status, stdout, names(folder.path())))
    });
    let [(ours, our_answer), (theirs, their_answer)] = told;
    assert_eq!(our_answer, their_answer, "{call}");
    assert_eq!(without_help(&ours, &theirs), theirs, "{call}");
}

/// Checks that text reports are safe to print: bytes that aren't UTF-8 are replaced.
fn what_people_read() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let (status, stdout, _) = run(COWHIDE, folder.path(), "info d~");
    assert_eq!(status, Some(0));
    assert!(stdout.starts_with("image: d\u{fffd}\n".as_bytes()));
}
