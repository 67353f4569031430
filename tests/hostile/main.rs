//! Tests of malicious images: small, consistent ones, each damaged in one place.
//!
//! The program must end with any image, in little memory, without a panic, and with the exit statuses of the table.
//! If qemu-img is installed, its statuses are compared with the table too, so that the documented differences are
//! verified. If both can read a disk, it must be the same.
//!
//! The tables have the statuses of `info`, `check` and `convert`. Those of `map`, `measure` and `compare` follow from
//! the result of `convert`: see [`Seen::agrees_with_itself`].
//!
//! - `cases.txt`: damage to a plain image;
//! - `kinds.txt`: damage to the specific parts of all other kinds;
//! - [`mutants`]: random damage;
//! - [`short_reads`]: truncation during an operation.

#[path = "../common/mod.rs"]
mod common;

mod bases;
mod mutants;
mod short_reads;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bases::Base;
use common::COWHIDE;
use libtest_mimic::{Arguments, Failed, Trial};

const CASES: &str = include_str!("cases.txt");
const KINDS: &str = include_str!("kinds.txt");

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    kind: &'static str,
    patches: &'static str,
    verdicts: &'static str,
    qemu: &'static str,
}

fn cases(table: &'static str) -> impl Iterator<Item = Case> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(move |line| {
        let mut fields = line.split(": ");
        let name = fields.next().unwrap();
        let patches = fields.next().unwrap();
        let verdicts = fields.next().unwrap();
        let qemu = fields.next().map_or(verdicts, |rest| {
            let (qemu, reason) = rest.rsplit_once(' ').unwrap();
            let explained = format!("# {reason}: ");
            assert!(
                table.contains(&explained),
                "{name}: {reason} is not explained"
            );
            qemu
        });
        let kind = name.split_once('/').map_or("", |(kind, _)| kind);
        Case {
            name,
            kind,
            patches,
            verdicts,
            qemu,
        }
    })
}

fn patched(base: &Base, patches: &str) -> Vec<u8> {
    let mut bytes = base.bytes.clone();
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

/// The slowest call so far, which is printed. None should take a second.
static SLOWEST: Mutex<(Duration, String)> = Mutex::new((Duration::ZERO, String::new()));

struct Ran {
    status: i32,
    stdout: Vec<u8>,
}

/// Runs a program, and kills it if it doesn't end. cowhide has 512 MiB of address space and 10 s of processor time
/// (it never waits), and qemu-img has 10 s.
fn run(folder: &Path, program: &str, args: &[String]) -> Ran {
    let limits = "ulimit -v 524288; ulimit -t 10; exec \"$0\" \"$@\"";
    let (runner, options) = if program == COWHIDE {
        ("sh", ["-c", limits, COWHIDE])
    } else {
        ("timeout", ["-sKILL", "10", program])
    };
    let start = Instant::now();
    let output = Command::new(runner)
        .args(options)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let taken = start.elapsed();
    let mut slowest = SLOWEST.lock().unwrap_or_else(PoisonError::into_inner);
    if program == COWHIDE && taken > slowest.0 {
        let name = std::thread::current().name().unwrap_or("").to_owned();
        *slowest = (taken, format!("{name} {}", args.join(" ")));
    }
    drop(slowest);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{program} {args:?}: {stderr}");
    // qemu-img may crash, or never end.
    let status = output.status.code();
    let ended = status.is_some() || program != COWHIDE;
    assert!(ended, "{program} {args:?}: {}: {stderr}", output.status);
    Ran {
        status: status.unwrap_or(-1),
        stdout: output.stdout,
    }
}

/// The results of a program for an image.
struct Seen {
    verdicts: String,
    /// The disk, if it could be converted.
    contents: Option<Vec<u8>>,
    /// The results of `map`, `measure` and `compare`, unless the disk is huge.
    others: Option<[Ran; 3]>,
}

impl Seen {
    fn by(program: &str, folder: &Path, base: &Base, expected: &str) -> Self {
        let run = |command: &str, operands| run(folder, program, &base.command(command, operands));
        let mut verdicts: Vec<String> = ["info", "check"]
            .map(|command| run(command, "").status.to_string())
            .into();
        if expected.ends_with('-') {
            verdicts.push("-".to_owned());
            return Self {
                verdicts: verdicts.join(" "),
                contents: None,
                others: None,
            };
        }
        let converted = run("convert -O raw", "x.raw").status;
        verdicts.push(converted.to_string());
        let contents = (converted == 0).then(|| std::fs::read(folder.join("x.raw")).unwrap());
        let _ = std::fs::remove_file(folder.join("x.raw"));
        let others = [
            "map --output=json",
            "measure -O qcow2 --output=json",
            "compare",
        ];
        Self {
            verdicts: verdicts.join(" "),
            contents,
            others: Some(others.map(|command| run(command, ""))),
        }
    }

    /// Asserts that an image that can be converted can also be mapped, and measured unless its bitmaps are damaged,
    /// and equals its conversion. One that can't be converted doesn't equal anything. It may still be mapped and
    /// measured, since neither reads data.
    fn agrees_with_itself(&self, program: &str, base: &Base) {
        let Some([map, measure, compare]) = &self.others else {
            return;
        };
        let statuses = (map.status, measure.status, compare.status);
        if let Some(contents) = &self.contents {
            let length = contents.len().max(base.contents.len());
            let padded = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                bytes.resize(length, 0);
                bytes
            };
            let differs = i32::from(padded(contents) != padded(&base.contents));
            let measured = i32::from(self.verdicts.starts_with('1') && measure.status != 0);
            assert_eq!(statuses, (0, measured, differs), "{program}");
        } else {
            assert!(
                map.status < 2 && measure.status < 2,
                "{program}: {statuses:?}"
            );
            assert!((1..5).contains(&compare.status), "{program}: {statuses:?}");
        }
    }

    /// Asserts that an image that both programs can convert has the same disk and the same extents.
    fn agrees_with(&self, theirs: &Self) {
        let (Some(ours), Some(contents)) = (&self.contents, &theirs.contents) else {
            return;
        };
        assert!(ours == contents, "the data differs from the oracle's");
        let (Some([map, measure, _]), Some([their_map, their_measure, _])) =
            (&self.others, &theirs.others)
        else {
            return;
        };
        let text = |ran: &Ran| String::from_utf8_lossy(&ran.stdout).into_owned();
        assert_eq!(text(map), text(their_map));
        if measure.status == 0 {
            assert_eq!(text(measure), text(their_measure));
        }
    }
}

fn test(case: Case, base: &Base, with_oracle: bool) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("x.qcow2");
    let bytes = patched(base, case.patches);
    base.write(folder, &bytes);
    let ours = Seen::by(COWHIDE, folder, base, case.verdicts);
    assert_eq!(ours.verdicts, case.verdicts);
    ours.agrees_with_itself(COWHIDE, base);
    if with_oracle {
        let theirs = Seen::by("qemu-img", folder, base, case.qemu);
        assert_eq!(theirs.verdicts, case.qemu, "the oracle");
        theirs.agrees_with_itself("qemu-img", base);
        ours.agrees_with(&theirs);
    }
    // Reading must not write.
    assert!(
        std::fs::read(&path).unwrap() == bytes,
        "the image has changed"
    );
    // A repair must report the remaining findings correctly, must leave nothing that it can repair, and must not
    // change readable data.
    let check = case.verdicts.split(' ').nth(1).unwrap();
    for what in ["leaks", "all"] {
        if what == "leaks" && check < "2" {
            continue;
        }
        std::fs::write(&path, &bytes).unwrap();
        let run_ours = |command: &str, operands: &str| {
            run(folder, COWHIDE, &base.command(command, operands)).status
        };
        let repaired = run_ours(&format!("check -q -r {what}"), "");
        let again = run_ours("check", "");
        if case.verdicts.starts_with('0') {
            let info = run_ours("info", "");
            assert_eq!(info, 0, "-r {what} made it unreadable");
        }
        if let Some(before) = &ours.contents
            && check >= "2"
        {
            let converted = run_ours("convert -O raw", "x.raw");
            assert_eq!(converted, 0, "-r {what} made data unreadable");
            let after = std::fs::read(folder.join("x.raw")).unwrap();
            assert!(*before == after, "-r {what} changed data");
        } else if case.verdicts.ends_with("2 1") && case.name != "refcount table clusters 0x0" {
            // Data that a repair can't find must still be missing, and not become zeroes.
            let converted = run_ours("convert -O raw", "x.raw");
            assert_eq!(converted, 1, "-r {what} made zeroes of what is missing");
        }
        assert!(
            repaired == 1 || repaired == again,
            "-r {what}: {repaired}, then {again}"
        );
        if with_oracle && repaired == 0 && !case.qemu.contains(" 1 ") {
            let check = base.command("check", "");
            assert_eq!(run(folder, "qemu-img", &check).status, 0, "-r {what}");
        }
    }
}

/// Returns a test that fails by a panic.
fn trial(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let test = std::panic::AssertUnwindSafe(test);
        std::panic::catch_unwind(test).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Failed::from(text.unwrap_or_else(|| "panicked".to_owned()))
        })
    })
}

/// Returns true if the installed qemu-img is the version of the tables.
fn has_oracle() -> bool {
    let output = Command::new("qemu-img").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.is_ok_and(|text| text.contains("version 10."))
}

fn main() -> ExitCode {
    let with_oracle = has_oracle();
    let bases: Arc<BTreeMap<_, _>> = Arc::new(Base::all());
    let (plain, kinds): (Vec<_>, Vec<_>) = (cases(CASES).collect(), cases(KINDS).collect());
    assert!(plain.len() > 300 && kinds.len() > 300, "cases are missing");
    let cases = plain.into_iter().chain(kinds).map(|case| {
        let bases = Arc::clone(&bases);
        trial(case.name, move || {
            test(case, &bases[case.kind], with_oracle)
        })
    });
    let mut trials: Vec<Trial> = cases.collect();
    trials.extend(mutants::trials(&bases, with_oracle));
    trials.extend(short_reads::trials(&bases));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    let slowest = SLOWEST.lock().unwrap_or_else(PoisonError::into_inner);
    println!("slowest: {:?}: {}", slowest.0, slowest.1);
    conclusion.exit_code()
}
