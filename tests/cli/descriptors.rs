//! Tests of descriptors that options name by number. Each is what the caller left open, at its current position, and
//! never a file that the program opened itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{COWHIDE, Ran, cowhide, write_disk};

const ENCRYPT: &str = "convert --encrypt aes -O qcow2 disk.raw";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.raw"), 100_352, 61);
    fs::write(folder.path().join("pw"), "correct horse").unwrap();
    fs::write(folder.path().join("lines"), "first\ncorrect horse\n").unwrap();
    cowhide(
        folder.path(),
        &format!("{ENCRYPT} --password-file pw right"),
    )
    .ok();
    folder
}

/// Runs a script of bash, for which `$cowhide` is the program. Descriptors of the tests aren't open there.
fn bash(folder: &Path, script: &str) -> Ran {
    let closed: String = (3..20)
        .map(|number| format!("exec {number}>&-; "))
        .collect();
    Command::new("bash")
        .args(["-c", &(closed + script)])
        .current_dir(folder)
        .env("cowhide", COWHIDE)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .into()
}

#[test]
fn passwords_are_read_from_where_descriptors_stand() {
    let folder = folder();
    let folder = folder.path();
    let right = fs::read(folder.join("right")).unwrap();
    for from in [
        "--password-fd 3 3<pw",
        "--password-fd 0 <pw",
        "--password-fd 3 3<<<'correct horse'",
        "--password-fd 3 3< <(sleep 0.1; echo correct horse)",
        "--password-fd 4 4< <(exec 5<lines; read -u 5; cat <&5)",
        "--password-file /dev/fd/3 3<pw",
        "--password-file - <pw",
        "--password-file <(cat pw)",
        "--object secret,id=s,file=/dev/fd/3 -o encrypt.key-secret=s 3<pw",
    ] {
        bash(folder, &format!("exec $cowhide {ENCRYPT} x {from}")).ok();
        assert!(fs::read(folder.join("x")).unwrap() == right, "{from}");
    }
    let after_a_line = format!("exec 3<lines; read -u 3 line; exec $cowhide {ENCRYPT} x");
    for from in ["--password-fd 3", "--password-file - <&3"] {
        bash(folder, &format!("{after_a_line} {from}")).ok();
        assert!(fs::read(folder.join("x")).unwrap() == right, "{from}");
    }
}

#[test]
fn sockets_give_passwords_even_those_that_do_not_wait() {
    let folder = folder();
    let folder = folder.path();
    let (mut one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    other.set_nonblocking(true).unwrap();
    let child = Command::new(COWHIDE)
        .args(ENCRYPT.split(' '))
        .args(["x", "--password-fd", "0"])
        .current_dir(folder)
        .stdin(std::os::fd::OwnedFd::from(other))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut one, b"correct horse").unwrap();
    drop(one);
    Ran::from(child.wait_with_output().unwrap()).ok();
    assert!(crate::common::same_contents(
        &folder.join("x"),
        &folder.join("right")
    ));
}

/// Checks each number that a file of the program itself could have.
#[test]
fn a_descriptor_that_is_not_open_gives_no_password() {
    let folder = folder();
    let folder = folder.path();
    for number in 3..20 {
        for option in [
            format!("--password-fd {number}"),
            format!("--password-file /dev/fd/{number}"),
            format!("--password-file /proc/self/fd/{number}"),
        ] {
            let ran = bash(folder, &format!("exec $cowhide {ENCRYPT} x {option}"));
            ran.fails(1, "reading the password from ");
            assert!(!folder.join("x").exists(), "{option}");
        }
        let object = format!("secret,id=s,file=/dev/fd/{number}");
        let ran = bash(
            folder,
            &format!("exec $cowhide {ENCRYPT} x --object {object} -o encrypt.key-secret=s"),
        );
        ran.fails(1, "Unable to read /dev/fd/");
        assert!(!folder.join("x").exists(), "{number}");
    }
    for (option, message) in [
        ("--password-fd 3 3>x", "descriptor 3: Bad file descriptor"),
        ("--password-fd 3 3<.", "descriptor 3: Is a directory"),
        ("--password-fd 2147483647", "Bad file descriptor"),
    ] {
        let ran = bash(folder, &format!("exec $cowhide {ENCRYPT} y {option}"));
        ran.fails(1, message);
        assert!(!folder.join("y").exists(), "{option}");
    }
    // The status is that of an error, and not of a difference.
    bash(
        folder,
        "exec $cowhide compare --password-fd 3 right disk.raw",
    )
    .fails(2, "descriptor 3");
}

#[test]
fn an_image_is_never_a_file_that_the_program_opened_itself() {
    let folder = folder();
    let folder = folder.path();
    for number in 3..20 {
        let name = format!("/dev/fd/{number}");
        let compare = format!("exec $cowhide compare -f raw -F raw disk.raw {name}");
        bash(folder, &compare).fails(2, &format!("'{name}': No such file or directory"));
        for (options, target) in [
            ("-O raw", name.clone()),
            ("-O qcow2", name.clone()),
            ("-n -O raw", name.clone()),
            (
                "-n --target-image-opts",
                format!("driver=raw,file.filename={name}"),
            ),
            ("-O qcow2 -B pw -F raw", name.clone()),
        ] {
            let ran = bash(
                folder,
                &format!("exec $cowhide convert {options} disk.raw {target}"),
            );
            ran.fails(1, "No such file or directory");
        }
        let data = format!("exec $cowhide convert -O qcow2 -o data_file={name} disk.raw x");
        bash(folder, &data).fails(1, "No such file or directory");
        assert!(!folder.join("x").exists(), "{number}");
    }
    let disk = fs::read(folder.join("disk.raw")).unwrap();
    bash(
        folder,
        "exec $cowhide compare -f raw -F raw disk.raw /dev/fd/3 3<disk.raw",
    )
    .ok();
    bash(
        folder,
        "exec $cowhide convert -n -f raw -O raw disk.raw /dev/fd/3 3<>copy",
    )
    .fails(1, "");
    assert_eq!(fs::read(folder.join("disk.raw")).unwrap(), disk);
}
