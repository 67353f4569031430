//! Tests of the real binary with failures: its messages, and the files that it leaves.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{
    COWHIDE, Noise, Ran, cowhide, has_unnamed_files, run, same_contents, type_at, until_it_has,
    until_it_said,
};

/// Makes a folder with a disk of noise as `disk.raw` and passwords in `pw` and `wrong`.
fn folder(bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("disk.raw"), Noise(5).bytes(bytes)).unwrap();
    fs::write(folder.path().join("pw"), "correct horse\n").unwrap();
    fs::write(folder.path().join("wrong"), "correct mouse\n").unwrap();
    folder
}

fn names(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn start(folder: &Path, args: &str) -> Child {
    Command::new(COWHIDE)
        .args(args.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

/// Waits until a condition is true.
fn wait_until(child: &mut Child, what: &str, is_so: impl Fn() -> bool) {
    while !is_so() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "never: {what}: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Runs a script in a shell.
fn sh(folder: &Path, script: &str) -> Ran {
    run(folder, "sh", ["-c", script])
}

#[test]
fn what_is_verified_is_said() {
    let folder = folder(3 << 20);
    let folder = folder.path();
    let said = "Verified: the target holds the same 3145728 bytes as the source.\n";
    for options in [
        "-O raw",
        "-O raw -t none",
        "-O raw -S 0 -m 1",
        "-O qcow2",
        "-O qcow2 -m 7 -o cluster_size=512",
        "-O qcow2 --encrypt aes --password-file pw",
        "-O qcow2 -o preallocation=full,encrypt.format=aes --password-file pw",
    ] {
        let args = format!("convert --verify {options} disk.raw x");
        assert_eq!(cowhide(folder, &args).ok(), said, "{options}");
        assert_eq!(cowhide(folder, &format!("{args} -q")).ok(), "");
    }
    // This overwrites an existing, longer file.
    fs::write(folder.join("x"), vec![7; 4 << 20]).unwrap();
    assert_eq!(cowhide(folder, "convert --verify -n disk.raw x").ok(), said);
    assert_eq!(fs::metadata(folder.join("x")).unwrap().len(), 4 << 20);
    cowhide(folder, "convert --verify --salvage disk.raw y").fails(1, "exclude each other");
    assert!(!folder.join("y").exists());
}

#[test]
fn a_target_that_was_written_to_meanwhile_is_found_out() {
    let folder = folder(2 << 20);
    let folder = folder.path();
    for existing in [false, true] {
        let target = folder.join("x.raw");
        let mut options = "";
        if existing {
            fs::write(&target, vec![0; 2 << 20]).unwrap();
            options = "-n";
        }
        let convert = format!("convert --verify -r 2M -m 1 {options} disk.raw x.raw");
        let mut child = start(folder, &convert);
        let written = until_it_has(4096, folder, &mut child, "x.raw");
        let first = |target: &Path| {
            let mut bytes = [0; 4096];
            let file = fs::File::open(target)?;
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        };
        // The first block has been written, so that only the test changes it from now on.
        wait_until(&mut child, "something is written", || {
            first(&written).is_ok_and(|bytes| bytes != [0; 4096])
        });
        let disturbed = fs::File::options().write(true).open(&written).unwrap();
        let before = first(&written).unwrap()[300];
        disturbed.write_all_at(&[!before], 300).unwrap();
        let message =
            "verifying 'x.raw': it differs from the source in the sector at guest offset 0";
        end(child).fails(1, message);
        assert_eq!(target.exists(), existing, "a new file is removed");
    }
}

#[test]
fn checksums_are_what_other_tools_check() {
    let folder = folder((2 << 20) + 512);
    let folder = folder.path();
    let expected = sh(folder, "sha256sum disk.raw").ok();
    assert_eq!(cowhide(folder, "checksum disk.raw").ok(), expected);
    let disk = fs::read(folder.join("disk.raw")).unwrap();
    let blake3 = format!("{}  disk.raw\n", blake3::hash(&disk).to_hex());
    let line = cowhide(folder, "checksum --algorithm blake3 disk.raw").ok();
    assert_eq!(line, blake3);
    // Other formats and ways of copying give the same.
    let encrypt = "--encrypt aes --password-file pw -O qcow2";
    for options in ["-O raw", "-O qcow2", encrypt, "-O raw -C", "-O raw -S 0"] {
        let convert = format!("convert --checksum sha256 {options} disk.raw x");
        let line = cowhide(folder, &convert).ok();
        assert_eq!(line.split(' ').next(), expected.split(' ').next());
        assert!(line.ends_with("  x\n"), "{line}");
        let again = cowhide(folder, "checksum --password-file pw x").ok();
        assert_eq!(again, line);
    }
    // Names that would break the line are escaped as in coreutils.
    let odd = OsStr::from_bytes(b"a\\b\nc\xff");
    fs::copy(folder.join("disk.raw"), folder.join(odd)).unwrap();
    let ours = run(folder, COWHIDE, [OsStr::new("checksum"), odd]).ok();
    let theirs = run(folder, "sha256sum", [odd]).ok();
    assert_eq!(ours, theirs);
    let message = "unknown checksum 'md5' (there are: sha256, blake3)";
    for command in [
        "checksum --algorithm md5 disk.raw",
        "convert --checksum md5 disk.raw y",
    ] {
        let ran = cowhide(folder, command);
        assert_eq!(ran.status, Some(1));
        assert!(ran.stderr.contains(message), "{ran:?}");
    }
    assert!(!folder.join("y").exists());
}

/// Checks that a newline at the end of the password file is found to be a part of the password, as QEMU takes it.
#[test]
fn a_newline_that_belongs_to_the_password_is_found() {
    let folder = folder(0);
    let folder = folder.path();
    fs::copy(common::real_disk(), folder.join("disk1.img")).unwrap();
    fs::write(folder.join("line"), "secret\n").unwrap();
    fs::write(folder.join("other"), "wrong\n").unwrap();
    let secret = "--object secret,id=s,file=line -o encrypt.format=aes,encrypt.key-secret=s";
    cowhide(folder, &format!("convert {secret} -O qcow2 disk1.img x")).ok();
    let words = "with the newline at the end of its file it isn't";
    for (command, rest) in [("convert", "back.raw"), ("checksum", ""), ("info", "")] {
        let with = |from: &str| {
            let call = format!("{command} --require-plausible {from} x {rest}");
            cowhide(folder, &call)
        };
        with("--password-file line").fails(1, words);
        let ran = with("--password-file other");
        assert!(
            ran.status == Some(1) && !ran.stderr.contains(words),
            "{ran:?}"
        );
        let at_terminal = format!("{command} --password-file line x {rest}");
        let shown = type_at(folder, &at_terminal).exp_eof().unwrap();
        assert!(shown.contains(words), "{shown}");
    }
}

#[test]
fn a_wrong_password_is_noticed_where_it_can_be() {
    let folder = folder(0);
    let folder = folder.path();
    fs::copy(common::real_disk(), folder.join("disk1.img")).unwrap();
    let encrypt = "convert --encrypt aes --password-file pw -O qcow2";
    cowhide(folder, &format!("{encrypt} disk1.img x")).ok();
    let noise = "x: the password is probably wrong: with it, the start of the disk is noise";
    for (command, rest) in [("convert", "back.raw"), ("checksum", ""), ("info", "")] {
        let with = |password: &str, option: &str| {
            cowhide(
                folder,
                &format!("{command} {option} --password-file {password} x {rest}"),
            )
        };
        with("pw", "--require-plausible").ok();
        // Without a terminal nothing is printed on standard error.
        with("wrong", "").ok();
        let _ = fs::remove_file(folder.join("back.raw"));
        with("wrong", "--require-plausible").fails(1, noise);
        assert!(!folder.join("back.raw").exists());
        let at_terminal = format!("{command} --password-file wrong x {rest}");
        let shown = type_at(folder, &at_terminal).exp_eof().unwrap();
        assert!(shown.contains(&format!("warning: {noise}")), "{shown}");
    }
    let object = "info --object secret,id=s,file=wrong --require-plausible --image-opts \
                  driver=qcow2,file.filename=x,encrypt.key-secret=s";
    let ran = cowhide(folder, object);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("the start of the disk is noise"));
    cowhide(folder, "info --require-plausible x").fails(1, "takes a password");
    // An empty image can't show if the password is wrong.
    cowhide(
        folder,
        "create -q -f qcow2 --encrypt aes --password-file pw e 1M",
    )
    .ok();
    cowhide(
        folder,
        "convert --require-plausible --password-file wrong e back.raw",
    )
    .ok();
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_or_a_whole_image() {
    let folder = folder(1 << 20);
    let folder = folder.path();
    let target = folder.join("x");
    for (existing, encrypt) in [
        (false, ""),
        (false, "--encrypt aes --password-file pw"),
        (true, ""),
        (true, "--encrypt aes --password-file pw"),
    ] {
        let (mut nothing, mut unfinished, mut whole) = (0, 0, 0);
        for lines in 0.. {
            if existing {
                fs::write(&target, b"old").unwrap();
            }
            let convert = format!("convert -p -r 20M {encrypt} -O qcow2 disk.raw x");
            let mut child = start(folder, &convert);
            let has_more = until_it_said(lines, &mut child);
            child.kill().unwrap();
            child.wait().unwrap();
            if !target.exists() {
                nothing += 1;
            } else if cowhide(folder, "info -f qcow2 x").status == Some(0) {
                whole += 1;
                cowhide(folder, "check -q x").ok();
                let _ = fs::remove_file(folder.join("back"));
                cowhide(folder, "convert -q -f qcow2 --password-file pw x back").ok();
                assert!(same_contents(
                    &folder.join("disk.raw"),
                    &folder.join("back")
                ));
            } else {
                unfinished += 1;
                cowhide(folder, "convert -f qcow2 x y").fails(1, "Image is not in qcow2 format");
            }
            let _ = fs::remove_file(&target);
            if !has_more {
                break;
            }
        }
        let found = format!("{nothing} nothing, {unfinished} unfinished, {whole} whole");
        assert!(whole > 0, "{found}");
        // A new file gets its name only when it is complete.
        let is_new = !existing && has_unnamed_files(folder);
        assert!(!existing || unfinished > 0, "{found}");
        assert!(!is_new || nothing > 0 && unfinished == 0, "{found}");
    }
}

#[test]
fn a_source_whose_length_changes_is_an_error() {
    let folder = folder(1 << 20);
    let folder = folder.path();
    cowhide(folder, "convert -O qcow2 disk.raw stored").ok();
    for source in ["disk.raw", "stored"] {
        let path = folder.join(source);
        let before = fs::metadata(&path).unwrap().len();
        for after in [before + 512, before + (1 << 20), before - 512] {
            let mut child = start(folder, &format!("convert -r 1M -m 1 {source} x"));
            until_it_has(1, folder, &mut child, "x");
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(after).unwrap();
            let ran = end(child);
            assert_eq!(ran.status, Some(1), "{source} of {after}: {ran:?}");
            assert!(!folder.join("x").exists());
            if after > before {
                let message = format!("changed from {before} to {after} bytes while it was read");
                ran.fails(1, &message);
            }
            file.set_len(before).unwrap();
        }
    }
}

#[test]
fn what_is_no_file_is_refused_at_once_by_everything() {
    let folder = folder(4096);
    let folder = folder.path();
    fs::create_dir(folder.join("dir")).unwrap();
    assert!(sh(folder, "mkfifo fifo").status == Some(0));
    symlink("fifo", folder.join("link")).unwrap();
    let before = names(folder);
    for odd in ["dir", "fifo", "link", "/dev/tty", "."] {
        for command in [
            "info ODD",
            "info -f qcow2 ODD",
            "check -f qcow2 ODD",
            "checksum ODD",
            "convert ODD x",
            "convert -f qcow2 -O qcow2 ODD x",
            "convert disk.raw ODD",
            "convert -O qcow2 disk.raw ODD",
            "convert -n disk.raw ODD",
            "create -q ODD 1M",
            "create -q -f qcow2 ODD 1M",
        ] {
            let ran = cowhide(folder, &command.replace("ODD", odd));
            ran.fails(1, "");
            assert_eq!(names(folder), before, "{command} {odd}");
        }
    }
    for command in [
        "info nope",
        "check -f qcow2 nope",
        "checksum nope",
        "convert nope x",
    ] {
        cowhide(folder, command).fails(1, "Could not open 'nope': No such file or directory");
    }
}

#[test]
fn the_source_by_any_name_is_never_the_target() {
    let folder = folder(1 << 20);
    let folder = folder.path();
    cowhide(folder, "convert -O qcow2 disk.raw source").ok();
    let before = fs::read(folder.join("source")).unwrap();
    fs::hard_link(folder.join("source"), folder.join("hard")).unwrap();
    symlink("source", folder.join("soft")).unwrap();
    symlink("soft", folder.join("softer")).unwrap();
    for target in ["source", "./source", "hard", "soft", "softer"] {
        for options in ["", "-O qcow2", "-n", "-C", "--verify"] {
            for source in ["source", "hard", "softer"] {
                let command = format!("convert {options} {source} {target}");
                cowhide(folder, &command).fails(1, "are the same file");
                assert!(fs::read(folder.join("source")).unwrap() == before);
            }
        }
    }
    for link in ["soft", "softer"] {
        assert!(folder.join(link).is_symlink());
    }
}

#[test]
fn a_report_that_cannot_be_printed_is_a_failure_of_every_subcommand() {
    let folder = folder(4096);
    let folder = folder.path();
    cowhide(folder, "convert -O qcow2 disk.raw x").ok();
    for command in [
        "info disk.raw",
        "info --output=json x",
        "check x",
        "check --output=json x",
        "check -r all x",
        "map x",
        "map --output=json x",
        "measure -O qcow2 x",
        "measure -O raw --output=json x",
        "compare x disk.raw",
        "checksum x",
        "convert --checksum blake3 x y",
        "convert --verify x y",
        "create -f qcow2 z 1M",
        "convert -O qcow2 -o help x y",
        "speed --seconds 0.1",
        "--help",
        "--version",
        "convert --help",
    ] {
        let full = sh(folder, &format!("{COWHIDE} {command} >/dev/full"));
        // A status of 1 of compare means that the images differ.
        let status = 1 + i32::from(command.starts_with("compare"));
        full.fails(
            status,
            "writing to standard output: No space left on device",
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut closed = Command::new(COWHIDE);
        closed.args(command.split(' ')).current_dir(folder);
        let closed = closed.stdout(writer).output().unwrap();
        // A closed pipe isn't an error.
        assert_eq!(closed.status.code(), Some(0), "{command}: {closed:?}");
        assert_eq!(closed.stderr, b"", "{command}: {closed:?}");
    }
}

#[test]
fn hostile_names_move_no_cursor_and_break_no_json() {
    let folder = folder(64 << 10);
    let folder = folder.path();
    for name in [
        &b"\x1b[2J"[..],
        b"two\nencrypted yes",
        b"\xc2\x9b1mbold",
        b"no-utf8-\xff\xfe",
        b"\"quoted\\\"",
        "\u{202e}gmi.ksid".as_bytes(),
    ] {
        let name = OsStr::from_bytes(name);
        let ours = |args: &[&str], names: &[&OsStr]| {
            let args = args.iter().map(OsStr::new).chain(names.iter().copied());
            run(folder, COWHIDE, args)
        };
        let calm = |text: &str, lines: usize| {
            assert_eq!(text.lines().count(), lines, "{text:?}");
            let moves = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(moves), "{text:?}");
        };
        let disk = OsStr::new("disk.raw");
        let made = ours(&["create", "-f", "qcow2"], &[name, OsStr::new("1M")]);
        calm(&made.ok(), 1);
        ours(&["convert", "-O", "qcow2"], &[disk, name]).ok();
        let lines = cowhide(folder, "info --image-opts driver=qcow2,file.filename=x").stderr;
        calm(&lines, 1);
        calm(&ours(&["info"], &[name]).ok(), 17);
        calm(&ours(&["check"], &[name]).ok(), 3);
        for command in ["info", "check"] {
            let text = ours(&[command, "--output=json"], &[name]).ok();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["filename"], *name.to_string_lossy());
            assert!(text.is_ascii());
        }
        // The name is part of every message.
        for (args, names) in [
            (&["info", "-f"][..], &[name, disk][..]),
            (&["convert"], &[name, name]),
            (&["convert", "-O"], &[name, disk, OsStr::new("x")]),
            (
                &["convert", "-O", "qcow2", "-o"],
                &[name, disk, OsStr::new("x")],
            ),
            (&["convert", "-m"], &[name, disk, OsStr::new("x")]),
            (&["check", "-f", "raw"], &[name]),
            (&["info", "--image-opts"], &[name]),
            (&["checksum", "--algorithm"], &[name, disk]),
        ] {
            let ran = ours(args, names);
            assert_ne!(ran.stderr, "", "{args:?}: {ran:?}");
            for line in ran.stderr.lines() {
                calm(line, 1);
            }
            assert!(ran.stderr.starts_with("cowhide"), "{ran:?}");
        }
        fs::remove_file(folder.join(name)).unwrap();
    }
}

#[test]
fn a_file_system_that_fills_up_is_an_error_without_a_trace() {
    let folder = folder(6 << 20);
    let folder = folder.path();
    fs::create_dir(folder.join("small")).unwrap();
    // The script mounts a private file system of 4 MiB if the system allows it. Otherwise it sets a limit on the
    // length of files, which comes with a signal.
    let script = |commands: &str| {
        format!(
            "if mount -t tmpfs -o size=4m small small 2>/dev/null; then :; else ulimit -f 8192; fi\n\
             {commands}; echo $? >status; ls -A small >left"
        )
    };
    for options in [
        "-O raw",
        "-O raw -C",
        "-O raw -o preallocation=full",
        "-O raw -o preallocation=falloc",
        "-O qcow2",
        "-O qcow2 -m 7 -o cluster_size=512",
        "-O qcow2 --encrypt aes --password-file pw",
        "-O qcow2 -o preallocation=falloc",
    ] {
        let script = script(&format!("{COWHIDE} convert {options} disk.raw small/x"));
        let unshared = ["-r", "-m", "sh", "-c", &script];
        let mut ran = run(folder, "unshare", unshared);
        if !folder.join("status").exists() {
            ran = sh(folder, &script);
        }
        assert_eq!(
            fs::read_to_string(folder.join("status")).unwrap(),
            "1\n",
            "{ran:?}"
        );
        assert_eq!(fs::read_to_string(folder.join("left")).unwrap(), "");
        let reasons = ["No space left on device", "File too large"];
        assert!(
            reasons.iter().any(|reason| ran.stderr.contains(reason)),
            "{ran:?}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        fs::remove_file(folder.join("status")).unwrap();
    }
}
