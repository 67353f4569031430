//! Tests of progress: `-p` on standard output and SIGUSR1 on standard error.
//!
//! Programs split the output at carriage returns and parse the number in each piece. If it doesn't depend on the
//! length of the steps, it is the same as the oracle's to the byte. Otherwise its format, its beginning and its end
//! are the same.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use serde_json::{Map, Value};

use crate::common::{COWHIDE, Noise, Ran, until_it_has, write_disk};
use crate::tools::{Tool, ours, qemu_img, words};
use crate::trial;

/// Calls with the same output to the byte, on both descriptors.
const SAME: &[&str] = &[
    "convert -p -O qcow2 holes.raw x",
    "convert -p holes.raw x",
    "convert -p -O qcow2 empty.raw x",
    "convert -p empty.raw x",
    "convert -p -n holes.raw six.raw",
    "convert -p -n small.raw six.raw",
    "convert -p -n --target-is-zero -O raw small.raw holes.raw",
    "convert -p -O qcow2 holes.qcow2 x",
    "convert -p small.raw x",
    "convert -p -S 0 small.raw x",
    "convert -p -c -O qcow2 small.raw x",
    "convert -p -c -O qcow2 holes.raw x",
    "convert -p -O qcow2 -o preallocation=metadata small.raw x",
    "convert -p small.qcow2 x",
    "convert -p -q small.raw x",
    "convert -p nope x",
    "convert -p -f qcow2 small.raw x",
    "convert -p small.raw /nonexistent/x",
    "convert -p -C small.raw x",
    "compare -p holes.raw holes.raw",
    "compare -p empty.raw empty.raw",
    "compare -p empty.raw small.raw",
    "compare -p small.raw small.qcow2",
    "compare -p small.qcow2 small.qcow2",
    "compare -p small.raw other.raw",
    "compare -p small.raw six.raw",
    "compare -p holes.qcow2 holes.raw",
    "compare -p -s holes.qcow2 holes.raw",
    "compare -p -s small.qcow2 small.raw",
    "compare -p -q small.raw other.raw",
    "compare -p nope small.raw",
    "compare -p -f qcow2 small.raw small.raw",
    "compare -q small.raw small.raw",
    // These have no progress.
    "measure -p small.raw",
    "check -p small.qcow2",
    "map -p small.qcow2",
    "info -p small.raw",
    "create -p x 1M",
];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = SAME
        .iter()
        .map(|call| trial(format!("progress::[{call}]"), || same(call)))
        .collect();
    trials.push(trial("progress::lines", lines));
    trials.push(trial("progress::sigusr1_tells_once", sigusr1));
    trials.push(trial(
        "progress::sigusr1_beside_lines",
        sigusr1_beside_lines,
    ));
    trials
}

fn same(call: &str) {
    let told = |tool: Tool| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let small = Noise(7).bytes(65536);
        let mut other = small.clone();
        other[70] ^= 1;
        fs::write(folder.join("small.raw"), small).unwrap();
        fs::write(folder.join("other.raw"), other).unwrap();
        fs::write(folder.join("six.raw"), Noise(8).bytes(6 << 20)).unwrap();
        fs::write(folder.join("empty.raw"), "").unwrap();
        let holes = fs::File::create(folder.join("holes.raw")).unwrap();
        holes.set_len(64 << 20).unwrap();
        for name in ["small", "holes"] {
            let (raw, qcow2) = (format!("{name}.raw"), format!("{name}.qcow2"));
            qemu_img(folder, &["convert", "-O", "qcow2", &raw, &qcow2]).ok();
        }
        let ran = tool(folder, &words(call));
        let stderr = ran.stderr.replace("cowhide", "qemu-img");
        (ran.status, ran.stdout, stderr)
    };
    assert_eq!(told(ours), told(qemu_img));
}

/// Returns the numbers of lines that overwrite each other.
fn numbers(printed: &str) -> Vec<f64> {
    let number = |line: &str| {
        let number = line.strip_prefix("    (");
        let number = number.and_then(|line| line.strip_suffix("/100%)"));
        let number = number.unwrap_or_else(|| panic!("{line:?} in {printed:?}"));
        let decimals = number.split_once('.').map(|(_, decimals)| decimals.len());
        assert_eq!(decimals, Some(2), "{number}");
        number.parse().unwrap()
    };
    printed.split('\r').map(number).collect()
}

/// Checks calls whose steps differ: they only grow, and by at least one per cent (two in `compare`).
fn lines() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3_000_320, 9);
    fs::write(folder.join("noise.raw"), Noise(9).bytes(64 << 20)).unwrap();
    for (call, step, end) in [
        (
            "convert -p -O qcow2 disk.raw x",
            1.0,
            "\r    (100.00/100%)\r\n",
        ),
        (
            "convert -p -O qcow2 noise.raw x",
            1.0,
            "\r    (100.00/100%)\r\n",
        ),
        (
            "convert -p -W -m 8 noise.raw x",
            1.0,
            "\r    (100.00/100%)\r\n",
        ),
        (
            "compare -p disk.raw disk.raw",
            2.0,
            "\rImages are identical.\n\n",
        ),
        (
            "compare -p noise.raw noise.raw",
            2.0,
            "\rImages are identical.\n\n",
        ),
    ] {
        for tool in [ours as Tool, qemu_img] {
            let printed = tool(folder, &words(call)).ok();
            let steps = printed.strip_suffix(end);
            let steps = numbers(steps.unwrap_or_else(|| panic!("{call}: {printed:?}")));
            assert_eq!(steps.first(), Some(&0.0), "{call}");
            assert_eq!(steps.last(), Some(&100.0), "{call}");
            assert!(steps.len() > 3, "{call}: {steps:?}");
            let grown = steps
                .windows(2)
                .all(|two| two[1] == 100.0 || two[1] - two[0] > step - 0.02);
            assert!(grown, "{call}: {steps:?}");
        }
    }
}

/// Starts a conversion of two seconds.
fn slow_conversion(folder: &Path, options: &[&str]) -> Child {
    fs::write(folder.join("disk.raw"), Noise(1).bytes(8 << 20)).unwrap();
    let mut child = Command::new(COWHIDE)
        .args(words("convert -r 4M -O qcow2 disk.raw x.qcow2"))
        .args(options)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_has(1, folder, &mut child, "x.qcow2");
    child
}

/// Sends SIGUSR1 and waits for the end.
fn ask(child: Child) -> Ran {
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-USR1", &pid]).status();
    assert!(killed.unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    ran
}

fn sigusr1() {
    let folder = tempfile::tempdir().unwrap();
    for options in [&[][..], &["-p", "-q"]] {
        let ran = ask(slow_conversion(folder.path(), options));
        fs::remove_file(folder.path().join("x.qcow2")).unwrap();
        assert_eq!(ran.stdout, "");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        numbers(ran.stderr.strip_suffix('\n').unwrap());
    }
}

/// Checks that SIGUSR1 has no effect if progress is printed anyway.
fn sigusr1_beside_lines() {
    let folder = tempfile::tempdir().unwrap();
    let ran = ask(slow_conversion(folder.path(), &["-p"]));
    assert!(ran.stdout.ends_with("(100.00/100%)\r\n"), "{ran:?}");
    assert_eq!(ran.stderr, "");
    fs::remove_file(folder.path().join("x.qcow2")).unwrap();
    let ran = ask(slow_conversion(folder.path(), &["--progress=json"]));
    assert!(ran.stderr.lines().count() > 3, "{ran:?}");
    let is_object = |line: &str| serde_json::from_str::<Map<String, Value>>(line).is_ok();
    assert!(ran.stderr.lines().all(is_object), "{ran:?}");
}
