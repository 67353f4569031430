//! Tests of password files that other users may read: there is a warning at a terminal, and never for a script.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::common::{cowhide, type_at, write_disk};

const WARNING: &str = "warning: other users may read the password in 'pw' (chmod 600)";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.raw"), 100_352, 51);
    fs::write(folder.path().join("pw"), "secret").unwrap();
    folder
}

/// Commands that name the file in different ways.
const CALLS: [&str; 2] = [
    "convert --password-file pw -O qcow2 --encrypt aes disk.raw x",
    "convert --object secret,id=s,file=pw -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s disk.raw x",
];

fn set_mode(folder: &Path, mode: u32) {
    fs::set_permissions(folder.join("pw"), Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_person_is_warned_and_a_script_is_not() {
    let folder = folder();
    let folder = folder.path();
    for call in CALLS {
        for (mode, warned) in [
            (0o644, 1),
            (0o640, 1),
            (0o604, 1),
            (0o600, 0),
            (0o400, 0),
            (0o622, 0),
        ] {
            set_mode(folder, mode);
            let said = type_at(folder, call).exp_eof().unwrap();
            assert_eq!(
                said.matches(WARNING).count(),
                warned,
                "{call} {mode:o}: {said}"
            );
            cowhide(folder, call).ok();
        }
    }
}

#[test]
fn what_is_no_file_of_its_own_is_left_alone() {
    let folder = folder();
    let folder = folder.path();
    set_mode(folder, 0o644);
    let quiet = CALLS[0].replace("convert", "convert -q");
    for call in [
        quiet,
        CALLS[0].replace("pw", "/dev/fd/0"),
        CALLS[0].replace("pw", "/dev/stdin"),
    ] {
        let mut terminal = type_at(folder, &call);
        if call.contains("/dev") {
            terminal.send_line("secret").unwrap();
            terminal.send_control('d').unwrap();
        }
        let said = terminal.exp_eof().unwrap();
        assert!(!said.contains("other users"), "{call}: {said}");
    }
}
