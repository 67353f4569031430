//! Tests of LUKS containers with cryptsetup, which makes most of them: creating and opening them, and changing
//! passwords. All work on files and nothing is mapped, so no privileges are needed.
//!
//! Without cryptsetup the tests are listed as ignored, as all others are without `qemu-img`.

use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::common::others;
use crate::common::{Ran, run, same_contents, write_disk};
use crate::tools::{ours, qemu_img};
use crate::trial;

/// The options that open the image with the password in the file `key`, and with that in `other`.
const KEY: &str = "driver=luks,file.filename=x.luks,key-secret=key";
const OTHER: &str = "driver=luks,file.filename=x.luks,key-secret=other";
const OBJECTS: [&str; 4] = [
    "--object",
    "secret,id=key,file=key",
    "--object",
    "secret,id=other,file=other",
];

pub fn trials() -> Vec<Trial> {
    only_with_cryptsetup(vec![
        trial("cryptsetup::its_containers_open_here", its_containers),
        trial(
            "cryptsetup::containers_from_here_open_there",
            our_containers,
        ),
        trial("cryptsetup::passwords_that_came_and_went", passwords),
    ])
}

/// Marks trials as ignored if cryptsetup is missing, unless all oracles are required.
pub fn only_with_cryptsetup(trials: Vec<Trial>) -> Vec<Trial> {
    let is_there = Command::new("cryptsetup").arg("--version").output().is_ok();
    let required = others::are_required();
    let ignored = |trial: Trial| trial.with_ignored_flag(!is_there && !required);
    trials.into_iter().map(ignored).collect()
}

/// Runs cryptsetup on `x.luks` with the password in `key`.
fn cryptsetup(folder: &Path, line: &str) -> Ran {
    run(folder, "cryptsetup", line.split_whitespace())
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("key"), "correct horse battery").unwrap();
    fs::write(
        folder.path().join("other"),
        "another one, longer than a hash of 64 bytes is, that is",
    )
    .unwrap();
    folder
}

/// Makes `x.luks` with cryptsetup, with space for a disk, and writes `disk.raw` into it with cowhide.
fn make_theirs(folder: &Path, cipher: &str, bits: &str, hash: &str) {
    let file = fs::File::create(folder.join("x.luks")).unwrap();
    file.set_len(6 << 20).unwrap();
    let more = format!("--cipher {cipher} --key-size {bits} --hash {hash} --key-file key x.luks");
    let line = format!("luksFormat -q --type luks1 --pbkdf-force-iterations 1000 {more}");
    cryptsetup(folder, &line).ok();
    write_disk(&folder.join("disk.raw"), 3 << 20, 8);
    let args = [
        "convert",
        "-n",
        "-f",
        "raw",
        "--target-image-opts",
        "disk.raw",
        KEY,
    ];
    ours(folder, &[&args[..], &OBJECTS].concat()).ok();
}

/// Reads the disk, which starts with `disk.raw`.
fn holds_disk(folder: &Path, image: &str, tool: crate::tools::Tool) {
    let args = ["convert", "-O", "raw", "--image-opts", image, "back.raw"];
    tool(folder, &[&args[..], &OBJECTS].concat()).ok();
    let back = fs::File::options()
        .write(true)
        .open(folder.join("back.raw"))
        .unwrap();
    back.set_len(3 << 20).unwrap();
    assert!(
        same_contents(&folder.join("disk.raw"), &folder.join("back.raw")),
        "{image}"
    );
}

/// Checks ciphers that cryptsetup has without the kernel. The stripes of the last one's key aren't a whole number of
/// sectors, at which `qemu-img` crashes.
fn its_containers() {
    let folder = folder();
    let folder = folder.path();
    for (cipher, bits, hash, theirs_can) in [
        ("aes-xts-plain64", "512", "sha256", true),
        ("aes-xts-plain64", "256", "sha512", true),
        ("aes-cbc-essiv:sha256", "256", "sha1", true),
        ("aes-cbc-plain", "128", "ripemd160", true),
        ("aes-cbc-essiv:sha256", "192", "sha256", false),
    ] {
        make_theirs(folder, cipher, bits, hash);
        holds_disk(folder, KEY, ours);
        if theirs_can {
            holds_disk(folder, KEY, qemu_img);
        }
        let info = ours(folder, &["info", "x.luks"]).ok();
        assert!(info.contains(&format!("hash alg: {hash}")), "{info}");
        let dump = cryptsetup(folder, "luksDump x.luks").ok();
        let uuid = dump
            .lines()
            .find_map(|line| line.strip_prefix("UUID:"))
            .unwrap();
        assert!(info.contains(uuid.trim()), "{info}: {dump}");
    }
}

fn our_containers() {
    let folder = folder();
    let folder = folder.path();
    for options in [
        "",
        ",cipher-alg=aes-128",
        ",cipher-alg=aes-192,cipher-mode=cbc,ivgen-alg=essiv",
        ",cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1",
        ",hash-alg=sha512",
    ] {
        let options = format!("key-secret=key,iter-time=0{options}");
        let args = ["create", "-q", "-f", "luks", "-o", &options, "x.luks", "1M"];
        ours(folder, &[&args[..], &OBJECTS].concat()).ok();
        cryptsetup(folder, "open --test-passphrase --key-file key x.luks").ok();
        let wrong = cryptsetup(folder, "open --test-passphrase --key-file other x.luks");
        assert_eq!(wrong.status, Some(2), "{wrong:?}");
    }
}

fn passwords() {
    let folder = folder();
    let folder = folder.path();
    make_theirs(folder, "aes-xts-plain64", "512", "sha256");
    cryptsetup(
        folder,
        "luksAddKey -q --pbkdf-force-iterations 1000 --key-file key x.luks other",
    )
    .ok();
    for image in [KEY, OTHER] {
        holds_disk(folder, image, ours);
    }
    cryptsetup(folder, "luksKillSlot -q --key-file other x.luks 0").ok();
    holds_disk(folder, OTHER, ours);
    let args = ["map", "--image-opts", KEY];
    let refused = ours(folder, &[&args[..], &OBJECTS].concat());
    refused.fails(1, "Invalid password, cannot unlock any keyslot");
}
