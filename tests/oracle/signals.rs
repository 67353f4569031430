//! Tests of a signal at every system call by which a conversion changes an existing target. Afterwards each file of
//! the target is empty, or the image is complete.
//!
//! interrupted.rs injects many faults into a sample of the calls of many commands. This file injects a signal into
//! every call.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, run};
use crate::system_calls::can_be_traced;
use crate::tools::qemu_img;
use crate::trial;

/// The system calls that change a file. The last one sets the final length of a target, or empties it.
const CALLS: [&str; 4] = ["pwrite64", "fallocate", "copy_file_range", "ftruncate"];

const SIGNALS: [&str; 4] = ["INT", "TERM", "HUP", "QUIT"];

/// The works: their names, and their options.
const WORKS: [(&str, &str); 6] = [
    ("raw", "-O raw"),
    ("raw_offloaded", "-C -O raw"),
    ("qcow2", "-O qcow2"),
    ("compressed", "-c -O qcow2"),
    ("data_file", "-O qcow2 -o data_file=x.data"),
    ("encrypted", "-O qcow2 --encrypt aes --password-file pw"),
];

pub fn trials() -> Vec<Trial> {
    let works = can_be_traced();
    let trials = WORKS.map(|(name, options)| {
        let name = format!("signals::{name}");
        trial(name, move || sweep(options)).with_ignored_flag(!works)
    });
    trials.into()
}

/// Returns the old contents of the files of a target.
fn before() -> Vec<u8> {
    Noise(3).bytes(700_000)
}

/// Converts over an existing target, under strace.
fn trace(folder: &Path, options: &str, expressions: &[&str]) -> (Ran, String) {
    for name in ["x", "x.data"] {
        fs::write(folder.join(name), before()).unwrap();
    }
    // The process that starts the tests may ignore a signal, and its children inherit that.
    let mut args = vec![
        "--default-signal=HUP,INT,QUIT,TERM",
        "strace",
        "-f",
        "-o",
        "trace",
    ];
    for expression in expressions {
        args.extend(["-e", expression]);
    }
    args.extend([COWHIDE, "convert", "-m", "3"]);
    args.extend(options.split(' ').chain(["disk.raw", "x"]));
    let ran = run(folder, "env", args);
    (ran, fs::read_to_string(folder.join("trace")).unwrap())
}

/// Returns the number of each call in the thread with the most of them.
pub fn counts(trace: &str) -> Vec<(&'static str, usize)> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else {
            continue;
        };
        let name = call.split('(').next().unwrap();
        *counts.entry((thread, name)).or_default() += 1;
    }
    let most = |call: &str| {
        let of_call = counts.iter().filter(|((_, name), _)| *name == call);
        of_call.map(|(_, count)| *count).max().unwrap_or(0)
    };
    CALLS.map(|call| (call, most(call))).into()
}

fn is_whole(folder: &Path, options: &str) -> bool {
    if options.contains("raw") {
        return fs::read(folder.join("x")).unwrap() == fs::read(folder.join("disk.raw")).unwrap();
    }
    let secret = "secret,id=s,file=pw";
    let mut spec = "driver=qcow2,file.filename=x".to_owned();
    if options.contains("aes") {
        spec += ",encrypt.key-secret=s";
    }
    let raw = "driver=raw,file.filename=disk.raw";
    let compare = [
        "compare",
        "-q",
        "--object",
        secret,
        "--image-opts",
        &spec,
        raw,
    ];
    qemu_img(folder, &compare).status == Some(0)
}

fn sweep(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), Noise(4).bytes(600_064)).unwrap();
    fs::write(folder.join("pw"), "cowhide").unwrap();
    let files: &[&str] = match options.contains("data_file") {
        true => &["x", "x.data"],
        false => &["x"],
    };
    let (ran, calls) = trace(folder, options, &["trace=all"]);
    assert!(
        ran.status == Some(0) && is_whole(folder, options),
        "{ran:?}"
    );
    let mut emptied = 0;
    // A late signal arrives after the work. On a busy machine most do.
    for round in 0..5 {
        if emptied >= 3 {
            break;
        }
        emptied += signals_at_each(folder, options, files, &calls, round);
    }
    assert!(emptied >= 3, "{options}: emptied {emptied} times");
}

/// Sends a signal at each call, one after the other. Returns the number of emptied targets.
fn signals_at_each(
    folder: &Path,
    options: &str,
    files: &[&str],
    calls: &str,
    round: usize,
) -> usize {
    let mut emptied = 0;
    for (call, count) in counts(calls) {
        for nth in 1..=count {
            let signal = SIGNALS[(nth + round) % SIGNALS.len()];
            let first = format!("inject={call}:signal={signal}:when={nth}");
            // A second signal comes with the message about the first, which is the only `write`.
            let second = "inject=write:signal=TERM:when=1";
            let both: &[&str] = match nth % 2 {
                0 => &[&first, second],
                _ => &[&first],
            };
            let (ran, trace) = trace(folder, options, both);
            let when = format!("{options}: {both:?}: {ran:?}");
            let ended = trace.contains("+++ killed by SIG");
            if ran.status == Some(0) {
                assert!(is_whole(folder, options), "{when}: not whole");
                continue;
            }
            assert!(ended, "{when}: neither done nor ended");
            let length = |name: &&str| fs::metadata(folder.join(name)).unwrap().len();
            let lengths: Vec<u64> = files.iter().map(length).collect();
            // The data file is opened after the image, and is unchanged until then.
            let is_touched = |name: &&&str| fs::read(folder.join(name)).unwrap() != before();
            let touched = files.iter().filter(is_touched).count();
            if lengths.iter().take(touched).any(|length| *length > 0) {
                assert!(is_whole(folder, options), "{when}: a rest, {lengths:?}");
                assert_eq!(ran.stderr, "", "{when}");
                continue;
            }
            emptied += 1;
            let said = ran.stderr.lines().filter(|line| {
                let emptied = "cowhide: interrupted: emptied 'x";
                line.starts_with(emptied)
            });
            let said = said.count();
            assert_eq!(said, touched, "{when}");
            assert_eq!(ran.stderr.lines().count(), said, "{when}");
        }
    }
    emptied
}
