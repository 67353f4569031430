//! Tests of the real binary without an oracle: the main task, every way to give a password, and the files
//! that a failure leaves.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::{
    COWHIDE, SEED, cowhide, cowhide_with_input, real_disk, same_contents, type_at,
    type_new_password, write_disk,
};

/// Makes a folder with the real disk image as `disk1.img` and a password in `pw`.
pub(super) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(real_disk(), folder.path().join("disk1.img")).unwrap();
    fs::write(folder.path().join("pw"), "correct horse\n").unwrap();
    folder
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_decrypts(folder: &Path, image: &str) {
    cowhide(
        folder,
        &format!("convert --password-file pw {image} back.img"),
    )
    .ok();
    assert!(same_contents(
        &folder.join("disk1.img"),
        &folder.join("back.img")
    ));
}

#[test]
fn encrypt_check_decrypt_compare() {
    let folder = folder();
    let folder = folder.path();
    cowhide(
        folder,
        "convert --encrypt aes --password-file pw -O qcow2 disk1.img enc.qcow2",
    )
    .ok();
    assert!(
        cowhide(folder, "info enc.qcow2")
            .ok()
            .contains("encrypted: yes\n")
    );
    assert!(
        cowhide(folder, "check enc.qcow2")
            .ok()
            .starts_with("No errors")
    );
    assert_decrypts(folder, "enc.qcow2");
    // No block of 16 bytes of the disk is in the image, except for blocks of a single value.
    let image = fs::read(folder.join("enc.qcow2")).unwrap();
    let disk = fs::read(folder.join("disk1.img")).unwrap();
    let blocks: std::collections::HashSet<&[u8]> = image.chunks_exact(16).collect();
    assert!(
        disk.chunks_exact(16)
            .filter(|block| block.iter().any(|byte| *byte != block[0]))
            .all(|block| !blocks.contains(block)),
        "plaintext in an encrypted image"
    );
}

#[test]
fn every_way_to_give_a_password_is_the_same_password() {
    let folder = folder();
    let folder = folder.path();
    let run = |args: &str| cowhide(folder, args).ok();
    run("convert --encrypt aes --password-file pw -O qcow2 disk1.img a.qcow2");
    let object = "secret,id=s,data=correct horse";
    crate::common::run(
        folder,
        COWHIDE,
        [
            "convert",
            "--object",
            object,
            "-o",
            "encryption,encrypt.key-secret=s",
            "-O",
            "qcow2",
            "disk1.img",
            "b.qcow2",
        ],
    )
    .ok();
    let input = b"correct horse\n";
    cowhide_with_input(
        folder,
        "convert -o encrypt.format=aes --password-file - -O qcow2 disk1.img c.qcow2",
        input,
    )
    .ok();
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "exec {COWHIDE} convert --encrypt aes --password-fd 9 -O qcow2 disk1.img d.qcow2 9<pw"
        ))
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(status.success());
    // Only the first 16 bytes of a password are used, and a shorter one is padded with zeroes.
    let first = fs::read(folder.join("a.qcow2")).unwrap();
    for other in ["b.qcow2", "c.qcow2", "d.qcow2"] {
        assert!(first == fs::read(folder.join(other)).unwrap(), "{other}");
    }
    assert_decrypts(folder, "d.qcow2");
    // This converts one encrypted image into another with another cluster size and the same password.
    run("convert --encrypt aes --password-file pw -O qcow2 -o cluster_size=4k a.qcow2 e.qcow2");
    assert_decrypts(folder, "e.qcow2");
}

#[test]
fn every_cipher_backend_writes_the_same_image() {
    let folder = folder();
    let folder = folder.path();
    let args = "convert --encrypt aes --password-file pw -O qcow2 disk1.img";
    let mut images = Vec::new();
    for backend in cowhide::crypto::Backend::available() {
        let output = Command::new(COWHIDE)
            .args(args.split_whitespace())
            .arg(backend.name())
            .env("COWHIDE_CIPHER", backend.name())
            .current_dir(folder)
            .output()
            .unwrap();
        crate::common::Ran::from(output).ok();
        images.push(fs::read(folder.join(backend.name())).unwrap());
    }
    assert!(images.len() >= 2 && images.iter().all(|image| *image == images[0]));

    let output = Command::new(COWHIDE)
        .args(args.split_whitespace())
        .arg("x.qcow2")
        .env("COWHIDE_CIPHER", "enigma")
        .current_dir(folder)
        .output()
        .unwrap();
    crate::common::Ran::from(output).fails(1, "unknown cipher backend 'enigma'");
    assert!(!folder.join("x.qcow2").exists());
}

#[test]
fn without_a_password_or_a_terminal_it_fails_at_once_and_says_what_to_do() {
    let folder = folder();
    let folder = folder.path();
    let before = names(folder);
    for args in [
        "convert -o encryption -O qcow2 disk1.img enc1.qcow2",
        "convert --encrypt aes -O qcow2 disk1.img enc1.qcow2",
        "create -q -f qcow2 --encrypt aes enc1.qcow2 1M",
    ] {
        let ran = cowhide(folder, args);
        assert!(ran.stderr.contains("--password-file FILE"), "{ran:?}");
        assert!(ran.stderr.contains("--object secret"), "{ran:?}");
        ran.fails(1, "Parameter 'encrypt.key-secret' is required for cipher");
    }
    assert_eq!(names(folder), before);
    cowhide(
        folder,
        "create -q -f qcow2 --encrypt aes --password-file pw e.qcow2 1M",
    )
    .ok();
    cowhide(folder, "convert e.qcow2 x.raw").fails(
        1,
        "Could not open 'e.qcow2': Parameter 'encrypt.key-secret' is required",
    );
    assert!(!folder.join("x.raw").exists());
}

#[test]
fn bad_passwords_and_options_are_refused_before_anything_is_made() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("empty"), "\n").unwrap();
    let before = names(folder);
    for (options, message) in [
        (
            "--encrypt aes --password-file empty",
            "the password is empty",
        ),
        (
            "--encrypt aes --password-file nope",
            "'nope': No such file or directory",
        ),
        // The number is above the limit on descriptors, so that no other test has left it to this process.
        (
            "--encrypt aes --password-fd 2000000000",
            "descriptor 2000000000",
        ),
        (
            "--encrypt rot13 --password-file pw",
            "does not accept value 'rot13'",
        ),
        (
            "-o extended_l2=on,cluster_size=8k",
            "cluster sizes of at least 16384 bytes",
        ),
        (
            "-o backing_file=disk1.img",
            "Use of backing file requires explicit backing format",
        ),
    ] {
        let ran = cowhide(
            folder,
            &format!("convert {options} -O qcow2 disk1.img x.qcow2"),
        );
        ran.fails(1, message);
        assert_eq!(names(folder), before, "{options}");
    }
}

/// Checks conversions from one password to another, for a new and for an existing image.
#[test]
fn a_target_has_a_password_of_its_own() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("new"), "battery staple\n").unwrap();
    let run = |args: &str| cowhide(folder, args).ok();
    run("convert --encrypt aes --password-file pw -O qcow2 disk1.img aes.qcow2");
    let luks = "--encrypt luks -o encrypt.iter-time=1";
    let two = "convert --password-file pw --target-password-file new --verify -q";
    run(&format!("{two} {luks} -O qcow2 aes.qcow2 luks.qcow2"));
    run(&format!("{two} -n -O qcow2 aes.qcow2 luks.qcow2"));
    run("compare -q --password-file new disk1.img luks.qcow2");
    cowhide(folder, "map --password-file pw luks.qcow2").fails(1, "Invalid password");
    let both = format!("{two} --target-password-fd 3 {luks} -O qcow2 aes.qcow2 x.qcow2");
    let ran = cowhide(folder, &both);
    let wanted = "'--target-password-file' can't be used with '--target-password-fd";
    assert!(ran.stderr.contains(wanted), "{ran:?}");
    let nope = "convert --target-password-file nope -O qcow2 disk1.img x.qcow2";
    cowhide(folder, nope).fails(1, "reading the password from 'nope'");
}

/// Checks that new images only get passwords that are text, since QEMU accepts no others.
#[test]
fn passwords_that_are_no_text_only_open_images() {
    let folder = folder();
    let folder = folder.path();
    // An image of another program may have such a password. A zero at its end is the same as the padding of
    // the key.
    fs::write(folder.join("text"), "abc").unwrap();
    cowhide(
        folder,
        "convert --encrypt aes --password-file text -O qcow2 disk1.img enc",
    )
    .ok();
    for (name, bytes) in [
        ("zero", &b"abc\0"[..]),
        ("latin1", b"caf\xe9"),
        ("zeroes", b"\0\0"),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
        let from = format!("--encrypt aes --password-file {name} -O qcow2");
        let message = format!("Data from password file '{name}' is not valid UTF-8");
        cowhide(folder, &format!("convert {from} disk1.img x")).fails(1, &message);
        let from = format!("--encrypt aes --password-file {name} -f qcow2");
        cowhide(folder, &format!("create {from} x 1M")).fails(1, &message);
        assert!(!folder.join("x").exists(), "{name}");
        cowhide(
            folder,
            &format!("convert --password-file {name} -O raw enc dec-{name}"),
        )
        .ok();
    }
    assert!(same_contents(
        &folder.join("disk1.img"),
        &folder.join("dec-zero")
    ));
    let shown = type_at(folder, "convert --password-file zero -O raw enc dec");
    let shown = { shown }.exp_eof().unwrap();
    assert!(
        shown.contains("warning: Data from password file 'zero' is not valid UTF-8"),
        "{shown}"
    );
}

#[test]
fn at_a_terminal_a_person_is_asked() {
    let folder = folder();
    let folder = folder.path();
    let shown = type_new_password(folder, "correct horse", "correct mouse");
    assert!(shown.contains("the passwords differ"), "{shown}");
    assert!(!folder.join("enc1.qcow2").exists());

    let shown = type_new_password(folder, "correct horse", "correct horse");
    assert!(!shown.contains("correct"), "echoed: {shown}");
    assert_decrypts(folder, "enc1.qcow2");

    let mut terminal = type_at(folder, "convert enc1.qcow2 typed.img");
    terminal.exp_string("Password for 'enc1.qcow2': ").unwrap();
    terminal.send_line("correct horse").unwrap();
    let shown = terminal.exp_eof().unwrap();
    assert!(!shown.contains("correct"), "echoed: {shown}");
    let object = "convert --object secret,id=s,file=pw --image-opts \
                  driver=qcow2,file.filename=enc1.qcow2,encrypt.key-secret=s other.img";
    let said = type_at(folder, object).exp_eof().unwrap();
    assert_eq!(said.matches("can't detect a wrong password").count(), 1);
    assert!(!said.contains("luks"), "{said}");
    assert!(same_contents(
        &folder.join("disk1.img"),
        &folder.join("typed.img")
    ));

    let mut terminal = type_at(folder, &format!("{SEED} -q --password-file pw"));
    let shown = terminal.exp_eof().unwrap();
    assert_eq!(shown.trim(), "", "-q says nothing");
}

#[test]
fn a_full_disk_leaves_nothing_new_and_keeps_the_source() {
    let folder = folder();
    let folder = folder.path();
    let disk = fs::read(folder.join("disk1.img")).unwrap();
    // A limit on the length of files makes writes fail like a full disk.
    let run = |args: &str| -> crate::common::Ran {
        Command::new("sh")
            .arg("-c")
            .arg(format!(
                "trap '' XFSZ; ulimit -f 200; exec {COWHIDE} {args}"
            ))
            .current_dir(folder)
            .output()
            .unwrap()
            .into()
    };
    let before = names(folder);
    for (args, words) in [
        ("convert -O qcow2 disk1.img x.qcow2", "File too large"),
        (
            "convert --encrypt aes --password-file pw -O qcow2 disk1.img x.qcow2",
            "File too large",
        ),
        ("convert -O raw disk1.img x.raw", "File too large"),
        (
            "create -q -f raw x.raw 1M",
            "The image size is too large for file format 'raw'",
        ),
        (
            "create -q -f qcow2 -o preallocation=full x.qcow2 1M",
            "The image size is too large for file format 'qcow2'",
        ),
    ] {
        run(args).fails(1, words);
        assert_eq!(names(folder), before, "{args}");
    }
    // An existing file isn't removed, and can't be mistaken for an image.
    cowhide(folder, "create -q -f qcow2 old.qcow2 1M").ok();
    run("convert -O qcow2 disk1.img old.qcow2").fails(1, "File too large");
    assert_eq!(fs::metadata(folder.join("old.qcow2")).unwrap().len(), 0);
    assert!(disk == fs::read(folder.join("disk1.img")).unwrap());
}

#[test]
fn a_bad_source_leaves_an_existing_target_alone() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("precious"), b"precious").unwrap();
    fs::write(folder.join("bad.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
    for args in [
        "convert -O qcow2 nope precious",
        "convert -O qcow2 bad.qcow2 precious",
        "convert -O qcow2 --encrypt aes disk1.img precious",
        "convert -O qcow2 -o cluster_size=3 disk1.img precious",
        "convert -O raw precious precious",
    ] {
        let ran = cowhide(folder, args);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert_eq!(fs::read(folder.join("precious")).unwrap(), b"precious");
    }
}

#[test]
fn a_closed_or_full_output_is_a_failure_without_a_panic() {
    let folder = folder();
    let output = |script: &str| -> crate::common::Ran {
        Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(folder.path())
            .output()
            .unwrap()
            .into()
    };
    output(&format!("{COWHIDE} info disk1.img >/dev/full"))
        .fails(1, "writing to standard output: No space left on device");
    let ran = output(&format!(
        "({COWHIDE} info disk1.img; echo $? >status) | true"
    ));
    assert_eq!(ran.stderr, "");
    // The reader may close the pipe before or after the report was written. Both give the same status.
    let status = fs::read_to_string(folder.path().join("status")).unwrap();
    assert_eq!(status, "0\n");
}

#[test]
fn names_that_are_no_utf8_work() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder();
    let folder = folder.path();
    let odd = OsStr::from_bytes(b"odd-\xff\xfe.qcow2");
    let word = OsStr::new;
    crate::common::run(
        folder,
        COWHIDE,
        [
            word("convert"),
            word("-O"),
            word("qcow2"),
            word("disk1.img"),
            odd,
        ],
    )
    .ok();
    crate::common::run(folder, COWHIDE, [word("check"), odd]).ok();
    crate::common::run(folder, COWHIDE, [word("convert"), odd, word("back.img")]).ok();
    assert!(same_contents(
        &folder.join("disk1.img"),
        &folder.join("back.img")
    ));
}

#[test]
fn holes_and_zeroes_take_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("sparse.raw"), 8 << 40, 3);
    cowhide(folder, "convert -O qcow2 sparse.raw x.qcow2").ok();
    assert!(fs::metadata(folder.join("x.qcow2")).unwrap().len() < 2 << 20);
    cowhide(folder, "convert x.qcow2 back.raw").ok();
    let back = fs::metadata(folder.join("back.raw")).unwrap();
    assert_eq!(back.len(), 8 << 40);
    assert!(back.blocks() * 512 < 1 << 20);
}

/// Writes a version 2 image of 64 KiB with only the name of a backing file.
fn names_a_backing_file(path: &Path, backing: &str) {
    let mut bytes = vec![0; 4 << 16];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
    bytes[8..16].copy_from_slice(&80u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap().to_be_bytes());
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&65536u64.to_be_bytes());
    bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
    bytes[40..48].copy_from_slice(&(3u64 << 16).to_be_bytes());
    bytes[48..56].copy_from_slice(&(1u64 << 16).to_be_bytes());
    bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
    bytes[80..80 + backing.len()].copy_from_slice(backing.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn names_found_in_images_are_followed_unless_untrusted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("below")).unwrap();
    names_a_backing_file(&folder.join("top"), "below/middle");
    names_a_backing_file(&folder.join("below/middle"), "base");
    fs::write(folder.join("below/base"), vec![5; 65536]).unwrap();
    cowhide(folder, "convert top out.raw").ok();
    assert_eq!(fs::read(folder.join("out.raw")).unwrap(), vec![5; 65536]);

    let refused = "names a backing file ('below/middle')";
    cowhide(folder, "convert --untrusted top no.raw").fails(1, refused);
    assert!(!folder.join("no.raw").exists());
    cowhide(folder, "info --untrusted --backing-chain top").fails(1, refused);
    let shown = cowhide(folder, "info --untrusted top").ok();
    assert!(shown.contains("backing file: below/middle"), "{shown}");
}

#[test]
fn a_chain_that_leads_back_into_itself_ends() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    names_a_backing_file(&folder.join("a"), "b");
    names_a_backing_file(&folder.join("b"), "./c");
    std::os::unix::fs::symlink("a", folder.join("c")).unwrap();
    for command in ["convert a x.raw", "info --backing-chain a"] {
        cowhide(folder, command).fails(1, "Backing file './c' creates an infinite loop");
    }
    assert!(!folder.join("x.raw").exists());
}

#[test]
fn a_backing_file_is_never_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    names_a_backing_file(&folder.join("top"), "base");
    fs::write(folder.join("base"), vec![5; 65536]).unwrap();
    cowhide(folder, "convert top base").fails(1, "are the same file");
    cowhide(folder, "convert -n top base").fails(1, "are the same file");
    assert_eq!(fs::read(folder.join("base")).unwrap(), vec![5; 65536]);
    fs::remove_file(folder.join("base")).unwrap();
    let expected = "Could not open 'top': Could not open backing file: Could not open 'base'";
    cowhide(folder, "convert top x.raw").fails(1, expected);
    names_a_backing_file(&folder.join("top"), "nbd:host:1");
    cowhide(folder, "convert top x.raw").fails(1, "Unknown protocol 'nbd'");
}

#[test]
fn help_and_version_have_what_scripts_look_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::os::unix::fs::symlink(COWHIDE, folder.join("qemu-img")).unwrap();
    let qemu_img = folder.join("qemu-img");
    let called = |word: &str| crate::common::run(folder, qemu_img.to_str().unwrap(), [word]).ok();
    let version = called("--version");
    assert!(version.starts_with("qemu-img version 10."), "{version}");
    assert_eq!(version.lines().count(), 1);
    assert!(cowhide(folder, "-V").ok().starts_with("cowhide version "));

    let help = called("--help");
    assert_eq!(help, called("-h"));
    let line = |start: &str| {
        let mut lines = help.lines().filter(|line| line.starts_with(start));
        let line = lines.next().unwrap_or_else(|| panic!("no {start:?}"));
        assert_eq!(lines.next(), None, "{start}");
        line
    };
    let formats = line("Supported formats: ");
    assert!(formats.contains(" qcow2 "), "{formats}");
    assert!(line("  convert ").contains(" [--target-is-zero]"));
    assert!(line("  convert ").ends_with(" target"));
    assert!(line("  info ").contains(" [-f FMT]"));
    for subcommand in ["create", "convert", "info", "check", "speed"] {
        let usage = cowhide(folder, &format!("{subcommand} --help")).ok();
        assert!(usage.contains(&format!("Usage: cowhide {subcommand} ")));
        assert!(usage.starts_with(&cowhide(folder, &format!("{subcommand} x -h")).ok()));
    }
}

#[test]
fn a_data_file_is_undone_with_its_image_and_never_one_that_is_in_use() {
    let folder = folder();
    let folder = folder.path();
    let disk = fs::read(folder.join("disk1.img")).unwrap();
    let before = names(folder);
    for name in ["disk1.img", "./disk1.img", "y"] {
        let line = format!("convert -O qcow2 -o data_file={name} disk1.img y");
        cowhide(folder, &line).fails(1, "are the same file");
    }
    let line = "convert -O qcow2 -o data_file=/nonexistent/data disk1.img y";
    cowhide(folder, line).fails(1, "Could not create '/nonexistent/data'");
    assert_eq!(names(folder), before);
    assert!(fs::read(folder.join("disk1.img")).unwrap() == disk);

    // An existing file is emptied when it is opened as the target, but neither changed before nor removed.
    fs::write(folder.join("data"), b"old").unwrap();
    for refused in [
        "refcount_bits=3",
        "compat=v2",
        "data_file_raw=on,encryption=on,encrypt.key-secret=s",
    ] {
        let line = format!(
            "create --object secret,id=s,data=a -q -f qcow2 -o data_file=data,{refused} y 1M"
        );
        let ran = cowhide(folder, &line);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert_eq!(fs::read(folder.join("data")).unwrap(), b"old", "{refused}");
    }
    cowhide(
        folder,
        "convert -O qcow2 -o data_file=data,data_file_raw=on disk1.img y",
    )
    .ok();
    assert!(fs::read(folder.join("data")).unwrap() == disk);
    cowhide(folder, "convert y back.img").ok();
    assert!(fs::read(folder.join("back.img")).unwrap() == disk);
}

#[test]
fn reports_on_an_encrypted_image_take_its_password() {
    let folder = folder();
    let folder = folder.path();
    cowhide(
        folder,
        "convert --encrypt aes --password-file pw -O qcow2 disk1.img enc.qcow2",
    )
    .ok();
    let compare = "compare --password-file pw disk1.img enc.qcow2";
    assert_eq!(cowhide(folder, compare).ok(), "Images are identical.\n");
    let map = cowhide(folder, "map --output=json --password-file pw enc.qcow2").ok();
    assert!(map.starts_with("[{ \"start\": 0, "), "{map}");
    assert!(!map.contains("offset"), "{map}");
    cowhide(folder, "map --password-file pw enc.qcow2").fails(1, "encrypted or compressed");
    let measure = "measure -O qcow2 --password-file pw enc.qcow2";
    assert!(cowhide(folder, measure).ok().starts_with("required size: "));
    for line in ["map enc.qcow2", "measure enc.qcow2"] {
        cowhide(folder, line).fails(1, "encrypt.key-secret");
    }
    cowhide(folder, "compare disk1.img enc.qcow2").fails(2, "encrypt.key-secret");
}

#[test]
fn compare_says_where_and_in_its_status_what() {
    let folder = folder();
    let folder = folder.path();
    let mut changed = fs::read(folder.join("disk1.img")).unwrap();
    changed[70_000] ^= 1;
    fs::write(folder.join("changed.img"), &changed).unwrap();
    changed.extend([0; 5000]);
    fs::write(folder.join("longer.img"), &changed).unwrap();
    let different = cowhide(folder, "compare disk1.img changed.img");
    assert_eq!(different.status, Some(1));
    assert_eq!(different.stdout, "Content mismatch at offset 69632!\n");
    let longer = "compare changed.img longer.img";
    let expected = "Warning: Image size mismatch!\nImages are identical.\n";
    assert_eq!(cowhide(folder, longer).ok(), expected);
    assert_eq!(
        cowhide(folder, "compare -q changed.img longer.img").ok(),
        ""
    );
    let strict = cowhide(folder, "compare -s changed.img longer.img");
    assert_eq!(strict.status, Some(1));
    cowhide(folder, "compare disk1.img nope").fails(2, "No such file or directory");
    assert_eq!(cowhide(folder, "compare disk1.img").status, Some(1));
}

#[test]
fn a_map_whose_reader_goes_away_ends_in_silence() {
    let folder = folder();
    let folder = folder.path();
    // Every second cluster of 512 bytes has data, which gives more lines than fit into a pipe.
    let bytes: Vec<u8> = (0..4u32 << 20).map(|n| u8::from(n >> 9 & 1 == 0)).collect();
    fs::write(folder.join("striped.img"), bytes).unwrap();
    let convert = "convert -S 512 -O qcow2 -o cluster_size=512 striped.img striped.qcow2";
    cowhide(folder, convert).ok();
    assert!(cowhide(folder, "map striped.qcow2").ok().len() > 200_000);
    let script = format!("{COWHIDE} map striped.qcow2 | head -n 1");
    let ran = crate::common::run(folder, "sh", ["-c", &script]);
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    assert_eq!(ran.stderr, "");
}
