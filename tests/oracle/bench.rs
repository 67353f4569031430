//! Tests of `bench`: the output of both tools, and the images that they leave.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, same_contents};
use crate::tools::{Tool, ours, qemu_img, without_help, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("bench::reads", reads),
        trial("bench::writes_leave_the_same_bytes", writes),
        trial("bench::mistakes", mistakes),
        trial("bench::flushes", flushes),
    ]
}

/// Returns the answer of a tool without the time.
fn answer(tool: Tool, folder: &Path, call: &str) -> (Option<i32>, String, String) {
    let ran = tool(folder, &words(call));
    let lines = ran.stdout.lines().map(|line| {
        let Some(time) = line.strip_prefix("Run completed in ") else {
            return line.to_owned();
        };
        let seconds = time.strip_suffix(" seconds.").unwrap();
        assert_eq!(seconds.split_once('.').unwrap().1.len(), 3, "{line}");
        seconds.parse::<f64>().unwrap();
        "Run completed".to_owned()
    });
    let stdout: Vec<String> = lines.collect();
    let stderr = ran.stderr.replace("cowhide", "qemu-img");
    (ran.status, stdout.join("\n"), stderr)
}

fn make(folder: &Path) {
    fs::write(folder.join("raw"), Noise(1).bytes(512 << 10)).unwrap();
    qemu_img(folder, &words("convert -f raw -O qcow2 raw base")).ok();
    qemu_img(folder, &words("create -q -f qcow2 -b base -F qcow2 top 1M")).ok();
    qemu_img(folder, &words("create -q -f qcow2 empty 0")).ok();
}

fn same(folder: &Path, call: &str) {
    let theirs = answer(qemu_img, folder, call);
    let mut ours = answer(ours, folder, call);
    ours.2 = without_help(&ours.2, &theirs.2);
    assert_eq!(ours, theirs, "{call}");
}

fn reads() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder);
    for call in [
        "bench -c 1000 -f raw raw",
        "bench -c 100 -d 4 raw",
        "bench -c 100 -d 1 -f qcow2 top",
        "bench -c 10 -s 1k top",
        "bench -c 10 -s 1 top",
        "bench -c 10 -s 1.5k -S 700 -o 77 top",
        "bench -c 10 -S 1M -f raw raw",
        "bench -c 10 -o 508k -f raw raw",
        "bench -c 2 -s 512k -f raw raw",
        "bench -c 2 -s 1M -f raw raw",
        "bench -c 6 -s 300k top",
        "bench -c 9 -s 300k -S 400k top",
        "bench -c 9 -o 1020k top",
        "bench -c 2 -o 511k -f raw raw",
        "bench -c 2 -o 512k -f raw raw",
        "bench -c 2 -o 10M -f raw raw",
        "bench -c 1 empty",
        "bench -q -c 2 top",
        "bench -U -c 2 top",
        "bench -i threads -c 2 top",
        "bench -i native -t none -c 2 -f raw raw",
        "bench -n -t none -c 2 -f raw raw",
        "bench --no-drain -c 2 top",
        "bench --pattern 3 -c 2 top",
        "bench --image-opts -c 2 driver=raw,file.filename=raw",
        "bench --count=3 --depth=2 --buffer-size=512 --step-size=1k --offset=512 --cache=unsafe top",
        "bench --aio=threads --force-share --format=qcow2 -c 1 top",
    ] {
        same(folder, call);
    }
}

fn writes() {
    let made = tempfile::tempdir().unwrap();
    make(made.path());
    for options in [
        "-c 30",
        "-c 30 -d 1 --pattern 65",
        "-c 100 -d 8 -s 512 -S 5k --pattern 0x41",
        "-c 30 -s 1k -o 77 --pattern 3",
        "-c 30 -s 700 --pattern 255",
        "-c 30 -s 300 -S 100 -d 16 --pattern 9",
        "-c 4 -s 512k --pattern 7",
        "-c 200 -S 77824 --pattern 8",
        "-c 20 -d 2 --flush-interval 3 --pattern 2",
        "-c 20 -d 2 --flush-interval 3 --no-drain --pattern 2",
        "-c 20 -d 1 --flush-interval 1 --pattern 4 -t none",
        "-c 20 -d 1 --flush-interval 0 --pattern 4 -t writethrough",
        "-c 2 -o 10M",
    ] {
        for (format, name) in [("raw", "raw"), ("qcow2", "top")] {
            let call = format!("bench -w {options} -f {format} {name}");
            let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let both = [ours as Tool, qemu_img];
            let answers = folders.iter().zip(both).map(|(folder, tool)| {
                for name in ["raw", "base", "top"] {
                    fs::copy(made.path().join(name), folder.path().join(name)).unwrap();
                }
                answer(tool, folder.path(), &call)
            });
            let answers: Vec<_> = answers.collect();
            assert_eq!(answers[0], answers[1], "{call}");
            if answers[0].0 != Some(0) {
                // Some of the requests in flight are done.
                continue;
            }
            let [mine, other] = folders.each_ref().map(|folder| folder.path());
            let path = other.join(name);
            let args = [
                "compare",
                "-f",
                format,
                "-F",
                format,
                name,
                path.to_str().unwrap(),
            ];
            qemu_img(mine, &args).ok();
            assert!(same_contents(&mine.join("base"), &made.path().join("base")));
            if format == "qcow2" {
                qemu_img(mine, &["check", "-q", "top"]).ok();
            }
        }
    }
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder);
    for call in [
        "bench",
        "bench a b",
        "bench nope",
        "bench -c 1 -w nope",
        "bench -c 0 raw",
        "bench -c -1 raw",
        "bench -c x raw",
        "bench -c 1k raw",
        "bench -c 2147483648 raw",
        "bench -d 0 raw",
        "bench -d 1k raw",
        "bench -s 0 raw",
        "bench -s x raw",
        "bench -s 2G raw",
        "bench -S -1 raw",
        "bench -S 4G raw",
        "bench -S x raw",
        "bench -o x raw",
        "bench -o -1 raw",
        "bench --pattern 256 -w raw",
        "bench --pattern -1 -w raw",
        "bench --pattern x -w raw",
        "bench --flush-interval 1k -w raw",
        "bench --flush-interval -1 -w raw",
        "bench --flush-interval 3 raw",
        "bench --flush-interval 3 -w nope",
        "bench --flush-interval 3 a b",
        "bench -i foo raw",
        "bench -i native -c 1 -f raw raw",
        "bench -n -c 1 -f raw raw",
        "bench -t foo raw",
        "bench -t foo -c x raw",
        "bench -i foo -t foo raw",
        "bench -f foo raw",
        "bench -f qcow2 raw",
        "bench -w -U -c 1 top",
        "bench -f raw --image-opts -c 1 driver=raw,file.filename=raw",
        "bench -c",
    ] {
        same(folder, call);
    }
}

/// Checks that each flush reaches the file.
fn flushes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder);
    let flushed = |options: &str| {
        let trace = folder.join("trace");
        let call = format!(
            "-f -o {} -e trace=fdatasync,fsync {} bench -w {options} -f raw raw",
            trace.display(),
            crate::common::COWHIDE
        );
        let ran = crate::common::run(folder, "strace", call.split_whitespace());
        assert_eq!(ran.status, Some(0), "{ran:?}");
        let trace = fs::read_to_string(trace).unwrap();
        trace.lines().filter(|line| line.contains("sync(")).count()
    };
    let without = flushed("-c 12 -d 2");
    for drain in ["", "--no-drain"] {
        let with = flushed(&format!("-c 12 -d 2 --flush-interval 3 {drain}"));
        assert_eq!(with, without + 4, "{drain}");
    }
}
