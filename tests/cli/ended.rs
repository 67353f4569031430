//! Tests of the real binary when a signal or a limit ends it: its message, and the state of its target.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::commands::{folder, names};
use crate::common::{COWHIDE, Noise, copy_program, cowhide, has_unnamed_files, until_it_said};

/// Starts a conversion that takes 15 seconds, and waits until it has reported some progress.
fn under_way(folder: &Path, target: &str) -> std::process::Child {
    // The process that starts the tests may ignore signals, and its children inherit that.
    let mut child = Command::new("env")
        .args(["--default-signal=HUP,INT,QUIT,TERM", COWHIDE, "convert"])
        .args(["--encrypt", "aes", "--password-file", "pw", "-p"])
        .args(["-r", "4M", "-O", "qcow2", "big.raw", target])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(until_it_said(2, &mut child));
    child
}

fn send(signal: &str, child: &std::process::Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn signals_leave_nothing_that_is_unfinished() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("big.raw"), Noise(7).bytes(64 << 20)).unwrap();
    let before = names(folder);
    let signals = [("INT", 2), ("TERM", 15), ("HUP", 1), ("QUIT", 3)];
    for (name, number) in signals.into_iter().chain([("KILL", 9)]) {
        let mut child = under_way(folder, "x.qcow2");
        assert!(
            names(folder) == before || !has_unnamed_files(folder),
            "{name}: it has a name"
        );
        send(name, &child);
        assert_eq!(child.wait().unwrap().signal(), Some(number), "SIG{name}");
        if name == "KILL" && !has_unnamed_files(folder) {
            cowhide(folder, "info -f qcow2 x.qcow2").fails(1, "Image is not in qcow2 format");
            continue;
        }
        assert_eq!(names(folder), before, "SIG{name}");
        let said = child.wait_with_output().unwrap().stderr;
        let expected = match name {
            "KILL" => "",
            _ if has_unnamed_files(folder) => "cowhide: interrupted: did not make 'x.qcow2'\n",
            _ => "cowhide: interrupted: removed 'x.qcow2'\n",
        };
        assert_eq!(String::from_utf8_lossy(&said), expected, "SIG{name}");
    }
    // An existing file is emptied, even if the signal comes again.
    for (first, number) in signals {
        fs::write(folder.join("old.qcow2"), "old").unwrap();
        let mut child = under_way(folder, "old.qcow2");
        for name in [first, "TERM", first] {
            send(name, &child);
        }
        let status = child.wait().unwrap();
        assert!([Some(number), Some(15)].contains(&status.signal()));
        assert_eq!(fs::read(folder.join("old.qcow2")).unwrap(), b"", "{first}");
        let said = child.wait_with_output().unwrap().stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(said, "cowhide: interrupted: emptied 'old.qcow2'\n");
    }
}

#[test]
fn a_limit_on_the_length_of_files_is_reported_also_with_an_existing_target() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("old.raw"), b"").unwrap();
    cowhide(folder, "create -q -f qcow2 old.qcow2 4M").ok();
    fs::write(folder.join("big.raw"), Noise(7).bytes(1 << 20)).unwrap();
    File::options()
        .write(true)
        .open(folder.join("old.raw"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    for args in [
        "convert -n -O qcow2 big.raw old.qcow2",
        "convert -n -O raw big.raw old.raw",
    ] {
        // The signal has its default effect here.
        let script = format!("ulimit -f 400; exec {COWHIDE} {args}");
        crate::common::run(folder, "sh", ["-c", &script]).fails(1, "File too large");
    }
}

#[test]
fn a_directory_that_may_not_be_read_takes_new_images() {
    let folder = folder();
    let folder = folder.path();
    copy_program(&folder.join("program"));
    fs::create_dir(folder.join("drop")).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.join("drop"), fs::Permissions::from_mode(0o333)).unwrap();
    for args in [
        "create -q -f qcow2 drop/a 1M",
        "convert -t writeback -O qcow2 disk1.img drop/b",
        "convert -t writeback -O qcow2 -o data_file=drop/d disk1.img drop/c",
    ] {
        let mut command = Command::new("./program");
        command.args(args.split(' ')).current_dir(folder);
        // The test needs another user than root, who may read everything.
        if fs::metadata("/proc/self/status").unwrap().uid() == 0 {
            command.uid(65534).gid(65534);
        }
        assert_eq!(crate::common::Ran::from(command.output().unwrap()).ok(), "");
    }
    fs::set_permissions(folder.join("drop"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(names(&folder.join("drop")), ["a", "b", "c", "d"]);
}
