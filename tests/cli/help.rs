//! Tests of `--help` and `--version` by the searches of programs that call `qemu-img`.
//!
//! Each line is the search of one program, as a shell command. It must find features that this version has, and no
//! others.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::{COWHIDE, Ran};

/// The searches that must succeed.
const FOUND: &[(&str, &str)] = &[
    ("oslo.utils", "qemu-img --help | grep -q luks"),
    (
        "libguestfs",
        r"qemu-img --help | grep -sqE -- '\binfo\b.*-U\b'",
    ),
    (
        "CloudStack: a format",
        r"qemu-img --help | grep -qE '^Supported formats:.* qcow2( |$)'",
    ),
    (
        "CloudStack: a format",
        r"qemu-img --help | grep -qE '^Supported formats:.* raw( |$)'",
    ),
    (
        "CloudStack: an option",
        "qemu-img --help | grep -q -- --target-is-zero",
    ),
    ("os-test-images", "qemu-img -h | grep -q 'Supported.*qcow2'"),
    (
        "one list of formats as before 10.1",
        r#"[ "$(qemu-img --help | grep -c '^Supported formats:')" = 1 ]"#,
    ),
    (
        "and one as after",
        r#"[ "$(qemu-img --help | grep -c '^Supported image formats:$')" = 1 ]"#,
    ),
    (
        "the later list has drivers, too",
        r"qemu-img --help | sed '1,/^Supported image formats:/d' | grep -wq host_device",
    ),
    (
        "one line for a command",
        r#"[ "$(qemu-img --help | grep -cE '^ *info ')" = 1 ]"#,
    ),
    (
        "cinder",
        r#"[ "$(qemu-img --version | grep -oE 'qemu-img version [0-9.]*')" = "qemu-img version 10.0.2" ]"#,
    ),
    (
        "cinder, from 2.10 on",
        r"qemu-img --version | grep -qE '^qemu-img version [1-9][0-9]+\.'",
    ),
    (
        "quickemu",
        r#"[ "$(qemu-img --version | head -n1 | awk '{print $3}')" = 10.0.2 ]"#,
    ),
    (
        "Incus",
        "qemu-img --version | head -n1 | grep -q '^qemu-img version '",
    ),
    ("-V", r#"[ "$(qemu-img -V)" = "$(qemu-img --version)" ]"#),
    ("-h", r#"[ "$(qemu-img -h)" = "$(qemu-img --help)" ]"#),
    (
        "libvirt",
        "qemu-img create -o '?' -f qcow2 /dev/null | grep -q compat",
    ),
    (
        "libvirt, a list of formats",
        "qemu-img create -f qcow2 -o help | grep -qE '^  lazy_refcounts='",
    ),
    (
        "10.1: a command's own page",
        r"qemu-img convert --help | grep -qE -- '--target-is-zero'",
    ),
    (
        "10.1: a command's own page",
        r"qemu-img info -h | grep -qE -- '-U, --force-share'",
    ),
    (
        "10.1: a command's own page",
        r"qemu-img create --help | grep -qE -- '-b, --backing'",
    ),
    (
        "vdsm",
        r"qemu-img --help | grep -qE '^ +convert .+ source\.\.\. target$'",
    ),
    (
        "oVirt: bitmaps",
        r"qemu-img convert --help | grep -q -- --bitmaps",
    ),
    (
        "vdsm: bitmaps",
        r"qemu-img --help | grep -qE '^\s+bitmap (.+) filename bitmap'",
    ),
    (
        "OpenNebula: threads",
        r"qemu-img --help | grep -qE '^ +convert .*\[-m N\]'",
    ),
    (
        "who reads one line only",
        "qemu-img --help | head -n1 | grep -q '^qemu-img version'",
    ),
    ("os-test-images", "qemu-img -h | grep -q 'Supported.*qed'"),
    (
        "the list of trace events",
        "qemu-img -T help && qemu-img --trace '?' info nope",
    ),
];

/// Runs a shell command for which `qemu-img` is this program.
fn shell(folder: &Path, line: &str) -> Ran {
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.display()))
        .output();
    output.unwrap().into()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    symlink(COWHIDE, folder.path().join("qemu-img")).unwrap();
    folder
}

#[test]
fn programs_find_what_they_look_for() {
    let folder = folder();
    for (who, line) in FOUND {
        let ran = shell(folder.path(), line);
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (Some(0), ""),
            "{who}: {line}"
        );
    }
}

/// Checks that every subcommand in the help text has its own help text, with every option of its line.
#[test]
fn pages_agree() {
    let folder = folder();
    let page = shell(folder.path(), "qemu-img --help").ok();
    let lines = page
        .lines()
        .take_while(|line| !line.starts_with("Supported"))
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut commands = Vec::new();
    for line in lines {
        let command = line.split_whitespace().next().unwrap();
        commands.push(command);
        let own = shell(folder.path(), &format!("qemu-img {command} --help")).ok();
        assert!(
            own.contains(&format!("Usage: qemu-img {}", line.trim())),
            "{own}"
        );
        let options = line.split(['[', ']']).filter(|word| word.starts_with('-'));
        for option in options {
            let name = option.split(' ').next().unwrap();
            let described = own.lines().any(|line| {
                let words = line.trim_start();
                words.starts_with('-') && words.split([' ', ',']).any(|word| word == name)
            });
            assert!(described, "{command}: {name} in {own}");
        }
    }
    for command in [
        "bitmap", "check", "compare", "convert", "create", "info", "map", "measure", "snapshot",
    ] {
        assert!(commands.contains(&command), "{command} in {commands:?}");
    }
    assert!(commands.is_sorted(), "{commands:?}");
}
