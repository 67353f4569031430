//! Tests of LUKS2 containers, which cryptsetup makes and encrypts: no other tool here supports them.
//!
//! `cryptsetup reencrypt --encrypt` encrypts a file in place without the kernel, so nothing is mapped and no
//! privileges are needed. Without cryptsetup the tests are listed as ignored.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Ran, run, same_contents, write_disk};
use crate::cryptsetup::only_with_cryptsetup;
use crate::tools::{ours, qemu_img, words};
use crate::trial;

/// The size of disks in bytes: whole sectors of 4096 bytes, but not whole chunks.
const SIZE: u64 = (1 << 20) + 4096;

const IMAGE: &str = "driver=luks,file.filename=x.luks,key-secret=s";
const OTHER: &str = "driver=luks,file.filename=x.luks,key-secret=other";

/// The lowest costs of key derivation.
pub const ARGON2: &str = "--pbkdf-memory 32 --pbkdf-parallel 1 --pbkdf-force-iterations 4";
pub const PBKDF2: &str = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000";

pub fn trials() -> Vec<Trial> {
    only_with_cryptsetup(vec![
        trial("luks2::its_containers_open_here", its_containers),
        trial("luks2::converted_from_version_1", converted),
        trial("luks2::detached_header", detached),
        trial("luks2::passwords_that_came_and_went", passwords),
        trial("luks2::either_header_is_enough", headers),
        trial("luks2::refused", refused),
    ])
}

pub fn cryptsetup(folder: &Path, line: &str) -> Ran {
    run(folder, "cryptsetup", line.split_whitespace())
}

/// Runs cowhide with the passwords.
fn with_passwords(folder: &Path, line: &str) -> Ran {
    let passwords = [
        "--object",
        "secret,id=s,file=key",
        "--object",
        "secret,id=other,file=other",
    ];
    let line: Vec<&str> = words(line).into_iter().chain(passwords).collect();
    ours(folder, &line)
}

pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let folder_path = folder.path();
    fs::write(folder_path.join("key"), "correct horse battery").unwrap();
    fs::write(folder_path.join("other"), "another one").unwrap();
    write_disk(&folder_path.join("disk.raw"), SIZE, 9);
    folder
}

/// Makes `x.luks` of `disk.raw`: cryptsetup moves the disk after a header, and encrypts it.
pub fn make(folder: &Path, options: &str) {
    fs::copy(folder.join("disk.raw"), folder.join("x.luks")).unwrap();
    let file = fs::File::options().write(true).open(folder.join("x.luks"));
    // Half of the space is for the header, and the other half for the data that is being moved.
    file.unwrap().set_len(SIZE + (4 << 20)).unwrap();
    let room = "--reduce-device-size 4M --luks2-metadata-size 16k --luks2-keyslots-size 1M";
    let line = format!(
        "reencrypt --encrypt -q --disable-locks --type luks2 {room} {options} --key-file key x.luks"
    );
    cryptsetup(folder, &line).ok();
}

/// Asserts that the disk of the image starts with `disk.raw`, read as a whole and in parts.
fn holds_disk(folder: &Path, image: &str, what: &str) {
    with_passwords(
        folder,
        &format!("convert --image-opts {image} -O raw back.raw"),
    )
    .ok();
    let back = fs::File::options()
        .write(true)
        .open(folder.join("back.raw"));
    back.unwrap().set_len(SIZE).unwrap();
    let (disk, back) = (folder.join("disk.raw"), folder.join("back.raw"));
    assert!(same_contents(&disk, &back), "{what}");
    let line = format!("dd bs=512 count=8 skip=3 --image-opts if={image} of=part.raw");
    with_passwords(folder, &line).ok();
    let wanted = &fs::read(disk).unwrap()[3 * 512..8 * 512];
    assert!(
        fs::read(folder.join("part.raw")).unwrap() == wanted,
        "{what}"
    );
}

fn its_containers() {
    let folder = folder();
    let folder = folder.path();
    for (options, cipher) in [
        (format!("--pbkdf argon2id {ARGON2}"), "aes-256"),
        (
            format!("--pbkdf argon2i {ARGON2} --sector-size 4096 --label one"),
            "aes-256",
        ),
        (
            format!(
                "{PBKDF2} --hash sha512 --sector-size 1024 --cipher aes-xts-plain64 --key-size 256"
            ),
            "aes-128",
        ),
        (
            format!("{PBKDF2} --cipher aes-cbc-essiv:sha256 --key-size 256"),
            "aes-256",
        ),
        (
            format!("{PBKDF2} --cipher aes-cbc-plain64 --key-size 128 --sector-size 2048"),
            "aes-128",
        ),
        (
            format!("{PBKDF2} --cipher aes-xts-plain --sector-size 4096"),
            "aes-256",
        ),
    ] {
        make(folder, &options);
        holds_disk(folder, IMAGE, &options);
        let info = ours(folder, &["info", "-f", "luks", "x.luks"]).ok();
        let dump = cryptsetup(folder, "luksDump --disable-locks x.luks").ok();
        let uuid = dump.lines().find_map(|line| line.strip_prefix("UUID:"));
        for fact in [
            uuid.unwrap().trim(),
            "version: 2",
            &format!("cipher alg: {cipher}"),
        ] {
            assert!(info.contains(fact), "{fact}: {info}");
        }
    }
    // Several lanes use threads.
    let line = "luksChangeKey -q --disable-locks --pbkdf argon2id --pbkdf-memory 128 --pbkdf-parallel 4 \
                --pbkdf-force-iterations 5 --key-file key x.luks key";
    cryptsetup(folder, line).ok();
    holds_disk(folder, IMAGE, "lanes");
    for line in ["compare", "checksum"] {
        let images = match line {
            "compare" => format!("{IMAGE} {IMAGE}"),
            _ => IMAGE.to_owned(),
        };
        with_passwords(folder, &format!("{line} --image-opts {images}")).ok();
    }
    // They are only opened if the format is given: qemu-img, and so scripts, treat them as raw.
    let info = ours(folder, &["info", "x.luks"]).ok();
    assert_eq!(info, qemu_img(folder, &["info", "x.luks"]).ok());
    let explained = ours(folder, &["info", "--explain", "-f", "luks", "x.luks"]).ok();
    assert!(explained.contains("argon2id with 5 passes"), "{explained}");
}

/// Checks a container that qemu-img made with a header of version 1, which cryptsetup converted to version 2.
fn converted() {
    let folder = folder();
    let folder = folder.path();
    let file = fs::File::create(folder.join("x.luks")).unwrap();
    file.set_len(SIZE + (2 << 20)).unwrap();
    let line = "luksFormat -q --type luks1 --pbkdf-force-iterations 1000 --key-file key x.luks";
    cryptsetup(folder, line).ok();
    let line = "convert -n --object secret,id=s,file=key -f raw --target-image-opts disk.raw";
    qemu_img(folder, &words(&format!("{line} {IMAGE}"))).ok();
    cryptsetup(folder, "convert -q --disable-locks --type luks2 x.luks").ok();
    holds_disk(folder, IMAGE, "converted");
}

fn detached() {
    let folder = folder();
    let folder = folder.path();
    fs::copy(folder.join("disk.raw"), folder.join("payload")).unwrap();
    let line =
        "reencrypt --encrypt -q --disable-locks --type luks2 --sector-size 4096 --header header";
    let line = format!("{line} {PBKDF2} --key-file key payload");
    cryptsetup(folder, &line).ok();
    let image = "driver=luks,file.filename=payload,header.filename=header,key-secret=s";
    holds_disk(folder, image, "detached");
    let info = with_passwords(folder, &format!("info --untrusted --image-opts {image}")).ok();
    assert!(info.contains("detached header: true"), "{info}");
}

fn passwords() {
    let folder = folder();
    let folder = folder.path();
    make(folder, PBKDF2);
    let add = format!("luksAddKey -q --disable-locks {PBKDF2} --key-file key x.luks other");
    cryptsetup(folder, &add).ok();
    // An unbound key slot doesn't open the disk.
    let unbound =
        format!("{add} --new-key-slot 5 --unbound --key-size 512").replace("other", "key");
    cryptsetup(folder, &unbound).ok();
    cryptsetup(
        folder,
        "config --disable-locks --priority prefer --key-slot 1 x.luks",
    )
    .ok();
    cryptsetup(
        folder,
        "config --disable-locks --priority ignore --key-slot 0 x.luks",
    )
    .ok();
    holds_disk(folder, IMAGE, "first");
    holds_disk(folder, OTHER, "second");
    cryptsetup(
        folder,
        "luksKillSlot -q --disable-locks --key-file other x.luks 0",
    )
    .ok();
    holds_disk(folder, OTHER, "the first is gone");
    let wrong = "Invalid password, cannot unlock any keyslot";
    with_passwords(folder, &format!("map --image-opts {IMAGE}")).fails(1, wrong);
    ours(folder, &["map", "-f", "luks", "x.luks"]).fails(1, "key-secret");
}

/// Overwrites a part of `x.luks`.
fn damage(folder: &Path, at: u64, length: usize) {
    let file = fs::File::options().write(true).open(folder.join("x.luks"));
    file.unwrap().write_all_at(&vec![0x55; length], at).unwrap();
}

fn headers() {
    let folder = folder();
    let folder = folder.path();
    make(folder, PBKDF2);
    let whole = fs::read(folder.join("x.luks")).unwrap();
    for (at, length) in [
        (0, 16 << 10),
        (100, 1),
        (5000, 1),
        (16 << 10, 16 << 10),
        (20_500, 1),
    ] {
        fs::write(folder.join("x.luks"), &whole).unwrap();
        damage(folder, at, length);
        let line = format!("convert --image-opts {IMAGE} -O raw back.raw");
        let ran = with_passwords(folder, &line);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        assert!(
            ran.stderr
                .contains("One of the two LUKS2 headers is damaged"),
            "{ran:?}"
        );
    }
    damage(folder, 100, 1);
    let ran = ours(folder, &["info", "-f", "luks", "x.luks"]);
    ran.fails(1, "LUKS2 header is damaged: its checksum is wrong");
}

/// Checks that unsupported containers are refused by the name of the feature, and that nothing is written.
fn refused() {
    let folder = folder();
    let folder = folder.path();
    make(folder, PBKDF2);
    let before = fs::read(folder.join("x.luks")).unwrap();
    for line in [
        format!("convert -n -f raw --target-image-opts disk.raw {IMAGE}"),
        format!("resize --image-opts {IMAGE} 2M"),
        format!("bench -w -c 1 --image-opts {IMAGE}"),
    ] {
        let ran = with_passwords(folder, &line);
        ran.fails(1, "LUKS2 is read and not written");
    }
    assert!(fs::read(folder.join("x.luks")).unwrap() == before);
    let line = "reencrypt -q --disable-locks --init-only --key-file key x.luks";
    cryptsetup(folder, &format!("{line} {PBKDF2}")).ok();
    let ran = ours(folder, &["info", "-f", "luks", "x.luks"]);
    ran.fails(1, "LUKS2 reencryption is in progress ('online-reencrypt");
}
