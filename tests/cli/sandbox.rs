//! Tests of the privileges that the program drops while it reads an image, from outside of the process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{COWHIDE, Noise, copy_program, cowhide};

/// Returns the value of a line in the status of a process.
fn status(process: &str, name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/{process}/status"))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(|value| value.trim_start_matches(':').trim().parse().unwrap())
}

/// Makes an image with so many leaked clusters that the findings of `check` fill a pipe that isn't read.
fn leaky(folder: &Path) {
    fs::write(folder.join("disk.raw"), Noise(1).bytes(4 << 20)).unwrap();
    cowhide(
        folder,
        "convert -O qcow2 -o cluster_size=512 disk.raw x.qcow2",
    )
    .ok();
    let image = File::options()
        .read(true)
        .write(true)
        .open(folder.join("x.qcow2"))
        .unwrap();
    let mut field = [0; 12];
    image.read_exact_at(&mut field, 36).unwrap();
    let entries = u32::from_be_bytes(field[..4].try_into().unwrap());
    let table = u64::from_be_bytes(field[4..].try_into().unwrap());
    image
        .write_all_at(&vec![0; entries as usize * 8], table)
        .unwrap();
}

/// Returns the number of seccomp filters, and the no_new_privs flag, while `check` runs.
fn while_checking(folder: &Path, option: &str) -> (Option<u64>, Option<u64>) {
    let mut child = Command::new(COWHIDE)
        .args(["check", option, "x.qcow2"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut findings = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    findings.read_line(&mut first).unwrap();
    assert!(first.contains("Leaked cluster"), "{first}");
    let id = child.id().to_string();
    let seen = (status(&id, "Seccomp_filters"), status(&id, "NoNewPrivs"));
    let lines = findings.lines().map(Result::unwrap);
    assert!(lines.count() > 8000);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    seen
}

#[test]
fn check_runs_in_a_sandbox_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    leaky(folder);
    let outside = (
        status("self", "Seccomp_filters"),
        status("self", "NoNewPrivs"),
    );
    assert_eq!(while_checking(folder, "--no-sandbox"), outside);
    let filters = outside.0.map(|filters| filters + 1);
    assert_eq!(while_checking(folder, "-q"), (filters, Some(1)));
}

#[test]
fn what_reads_all_data_runs_in_a_sandbox_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The disk is so large that reading it doesn't end during the test.
    let disk = File::create(folder.join("disk.raw")).unwrap();
    disk.set_len(1 << 42).unwrap();
    let Some(outside) = status("self", "Seccomp_filters") else {
        return;
    };
    let mut child = Command::new(COWHIDE)
        .args(["checksum", "-f", "raw", "disk.raw"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    let filters = loop {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "it never entered one: {ended:?}");
        match status(&id, "Seccomp_filters") {
            Some(filters) if filters > outside => break filters,
            _ => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(filters, outside + 1);
}

#[test]
fn reports_are_the_same_in_a_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    leaky(folder);
    let convert = "convert --encrypt aes --password-file pw -O qcow2 disk.raw";
    fs::write(folder.join("pw"), "correct horse").unwrap();
    cowhide(folder, &format!("{convert} secret.qcow2")).ok();
    cowhide(folder, "convert -c -O qcow2 disk.raw small.qcow2").ok();
    for call in [
        "info x.qcow2",
        "info --output=json x.qcow2",
        "check x.qcow2",
        "map x.qcow2",
        "info -f raw x.qcow2",
        "measure -O qcow2 x.qcow2",
        "checksum x.qcow2",
        "checksum -f raw x.qcow2",
        "checksum -T none -p small.qcow2",
        "checksum --password-file pw secret.qcow2",
        "compare x.qcow2 disk.raw",
        "compare -f raw -F raw x.qcow2 x.qcow2",
        "compare -p -s small.qcow2 disk.raw",
        "compare --password-file pw -T none secret.qcow2 small.qcow2",
    ] {
        let run = |option| cowhide(folder, &format!("{call} {option}"));
        let (inside, outside) = (run("-q"), run("--no-sandbox -q"));
        assert_eq!(inside.status, outside.status);
        assert_eq!(inside.stdout, outside.stdout);
        assert_eq!(inside.stderr, outside.stderr);
    }
}

/// Starts a slow conversion with an option, as a user other than root, with unlimited core dumps, and aborts it.
/// Returns true if the user owned its memory in /proc, and true if a core was dumped.
fn aborted(folder: &Path, option: &str) -> (bool, bool) {
    let whoever = fs::metadata("/proc/self/status").unwrap().uid();
    let who = if whoever == 0 { 65534 } else { whoever };
    let script =
        format!("ulimit -c unlimited && exec ./program convert -r 100k {option} disk.raw x");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(folder);
    if whoever == 0 {
        command.uid(who).gid(who);
    }
    let target = folder.join("x");
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o666)).unwrap();
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    // It has read the password once it has emptied the existing file.
    while fs::read(&target).unwrap() == b"old" {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{option}: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let memory = fs::metadata(format!("/proc/{}/maps", child.id())).unwrap();
    let id = child.id().to_string();
    let killed = Command::new("kill").args(["-s", "ABRT", &id]).status();
    assert!(killed.unwrap().success());
    let ended = child.wait().unwrap();
    assert_eq!(ended.signal(), Some(6), "{option}: {ended}");
    fs::remove_file(target).unwrap();
    let names = fs::read_dir(folder).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name());
    let has_core = names.any(|name| name.to_string_lossy().starts_with("core"));
    assert!(memory.uid() == who || memory.uid() == 0, "{}", memory.uid());
    (memory.uid() == who, ended.core_dumped() || has_core)
}

/// Checks that root owns the memory of a process that isn't dumpable: no other user can read it, and a crash writes
/// no core.
#[test]
fn a_process_that_holds_a_password_leaves_no_core() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    copy_program(&folder.join("program"));
    fs::write(folder.join("disk.raw"), Noise(1).bytes(4 << 20)).unwrap();
    fs::write(folder.join("pw"), "correct horse").unwrap();
    let secret = "--object secret,id=s,file=pw -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s";
    for option in ["-O qcow2 --encrypt aes --password-file pw", secret] {
        let (is_open, dumped) = aborted(folder, option);
        assert!(!is_open, "{option}: its memory can be read");
        assert!(!dumped, "{option}: a core was dumped");
    }
    // Without a password the process is a usual one. The settings of the system decide if it leaves a core.
    let (is_open, _) = aborted(folder, "-O qcow2");
    assert!(is_open, "no process is open here");
}

/// Checks the statistics that the dynamic linker prints at the end. If it can't print them, it exits with 127.
#[test]
fn statistics_of_the_dynamic_linker_are_printed_in_a_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    leaky(folder);
    let plain = cowhide(folder, "info x.qcow2").ok();
    let output = Command::new(COWHIDE)
        .args(["info", "x.qcow2"])
        .current_dir(folder)
        .env("LD_DEBUG", "statistics")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), plain);
    // A statically linked program has none.
    let said = String::from_utf8_lossy(&output.stderr);
    let at_the_end = said.matches("final number of relocations:").count();
    assert_eq!(
        at_the_end,
        said.matches("total startup time").count().min(1),
        "{said}"
    );
}
