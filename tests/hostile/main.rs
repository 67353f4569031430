//! Images from strangers: small, consistent, and then damaged in one place each.
//!
//! Whatever is in an image, the program ends by itself, in little memory, without a panic, and with
//! the verdict that the table says. Where qemu-img is installed its verdicts are held against the table
//! too, so that nobody has to take on trust what is said to differ from it, and why.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

const CASES: &str = include_str!("cases.txt");
const COWHIDE: &str = env!("CARGO_BIN_EXE_cowhide");
const CLUSTER: usize = 512;

/// A version 3 image with clusters of 512 bytes and a disk of 32 KiB: header, refcount table, refcount
/// block, L1 table, L2 table, and two clusters of data.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 7 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, b"\0\0\0\x09\0\0\0\0\0\0\x80\0");
    put(
        36,
        b"\0\0\0\x01\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x02\0\0\0\0\x01",
    );
    put(96, b"\0\0\0\x04\0\0\0\x68");
    put(0x200, b"\0\0\0\0\0\0\x04\0");
    put(0x400, b"\0\x01\0\x01\0\x01\0\x01\0\x01\0\x01\0\x01");
    put(0x600, b"\x80\0\0\0\0\0\x08\0");
    put(0x800, b"\x80\0\0\0\0\0\x0a\0\x80\0\0\0\0\0\x0c\0");
    put(0xa00, &[0xda; 2 * CLUSTER]);
    bytes
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    patches: &'static str,
    verdicts: &'static str,
    qemu: &'static str,
}

fn cases() -> Vec<Case> {
    let lines = CASES.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split(": ");
            let name = fields.next().unwrap();
            let patches = fields.next().unwrap();
            let verdicts = fields.next().unwrap();
            let qemu = fields.next().map_or(verdicts, |rest| {
                let (qemu, reason) = rest.rsplit_once(' ').unwrap();
                let explained = format!("# {reason}: ");
                assert!(
                    CASES.contains(&explained),
                    "{name}: {reason} is not explained"
                );
                qemu
            });
            Case {
                name,
                patches,
                verdicts,
                qemu,
            }
        })
        .collect()
}

fn patched(patches: &str) -> Vec<u8> {
    let mut bytes = image();
    for patch in patches.split(' ') {
        let (place, value) = patch.split_once('=').unwrap();
        match place {
            "cut" => bytes.truncate(value.parse().unwrap()),
            "len" => bytes.resize(value.parse().unwrap(), 0),
            _ => {
                let at = usize::from_str_radix(place, 16).unwrap();
                let value: Vec<u8> = (0..value.len() / 2)
                    .map(|index| u8::from_str_radix(&value[2 * index..2 * index + 2], 16).unwrap())
                    .collect();
                bytes.resize(bytes.len().max(at + value.len()), 0);
                bytes[at..at + value.len()].copy_from_slice(&value);
            }
        }
    }
    bytes
}

/// Runs a program, ours in 512 MiB of address space, and kills it when it doesn't end; its exit status.
fn run(folder: &Path, program: &str, args: &str) -> i32 {
    let memory = if program == COWHIDE {
        "524288"
    } else {
        "unlimited"
    };
    let script = format!("ulimit -v {memory}; exec timeout -s KILL 20 \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .args(args.split(' '))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{program} {args}: {stderr}");
    let status = output.status.code();
    status.unwrap_or_else(|| panic!("{program} {args}: {}: {stderr}", output.status))
}

fn verdicts(folder: &Path, program: &str, expected: &str) -> String {
    let commands = [
        "info -f qcow2 x.qcow2",
        "check -f qcow2 x.qcow2",
        "convert -f qcow2 -O raw x.qcow2 x.raw",
    ];
    let verdicts = commands.iter().zip(expected.split(' '));
    let verdicts = verdicts.map(|(args, expected)| match expected {
        "-" => "-".to_owned(),
        _ => run(folder, program, args).to_string(),
    });
    verdicts.collect::<Vec<_>>().join(" ")
}

fn test(case: Case, with_oracle: bool) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("x.qcow2");
    let bytes = patched(case.patches);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(verdicts(folder, COWHIDE, case.verdicts), case.verdicts);
    if with_oracle {
        assert_eq!(
            verdicts(folder, "qemu-img", case.qemu),
            case.qemu,
            "the oracle"
        );
    }
    // Reading writes nothing.
    assert!(
        std::fs::read(&path).unwrap() == bytes,
        "the image has changed"
    );
    // A repair leaves what it says it leaves, and nothing is left to repair after it.
    let check = case.verdicts.split(' ').nth(1).unwrap();
    for what in ["leaks", "all"] {
        if what == "leaks" && check < "2" {
            continue;
        }
        std::fs::write(&path, &bytes).unwrap();
        let repaired = run(
            folder,
            COWHIDE,
            &format!("check -q -f qcow2 -r {what} x.qcow2"),
        );
        let again = run(folder, COWHIDE, "check -f qcow2 x.qcow2");
        if case.verdicts.starts_with('0') {
            let info = run(folder, COWHIDE, "info -f qcow2 x.qcow2");
            assert_eq!(info, 0, "-r {what} made it unreadable");
        }
        assert!(
            repaired == 1 || repaired == again,
            "-r {what}: {repaired}, then {again}"
        );
        if with_oracle && repaired == 0 && !case.qemu.contains(" 1 ") {
            assert_eq!(
                run(folder, "qemu-img", "check -f qcow2 x.qcow2"),
                0,
                "-r {what}"
            );
        }
    }
}

/// Whether there is a qemu-img whose verdicts the table has.
fn has_oracle() -> bool {
    let output = Command::new("qemu-img").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.is_ok_and(|text| text.contains("version 10."))
}

fn main() -> ExitCode {
    let with_oracle = has_oracle();
    let cases = cases();
    assert!(cases.len() > 300, "cases are missing");
    let trials = cases.into_iter().map(|case| {
        Trial::test(case.name, move || {
            let test = std::panic::AssertUnwindSafe(|| test(case, with_oracle));
            std::panic::catch_unwind(test).map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.unwrap_or_else(|| "panicked".to_owned()).into()
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
