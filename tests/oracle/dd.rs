//! Tests of `dd`: the same calls of both tools, their targets, and their output.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, Ran, write_disk};
use crate::tools::{SECRET, Tool, ours, qemu_img, to_raw, without_help};
use crate::trial;

/// The length of the source in bytes, which isn't a whole number of sectors.
const LENGTH: u64 = 20_001;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("dd::counts_as_the_other_does", counts),
        trial("dd::formats", formats),
        trial("dd::numbers_and_operands", numbers),
        trial("dd::mistakes", mistakes),
        trial("dd::encrypted_and_backed_sources", sources),
        trial("dd::the_source_is_no_target", same_file),
    ]
}

/// Runs a call with both tools, whose answers and files `out` must be the same. Returns both.
fn both(folder: &Path, call: &str) -> (Ran, Option<Vec<u8>>) {
    let words: Vec<&str> = call.split_whitespace().collect();
    let args = [&["dd"], &words[..]].concat();
    let run = |tool: Tool| {
        let ran = tool(folder, &args);
        let out = folder.join("out");
        let left = fs::read(&out).ok();
        if left.is_some() {
            fs::remove_file(out).unwrap();
        }
        (ran, left)
    };
    let (theirs, their_bytes) = run(qemu_img);
    let (ours, our_bytes) = run(ours);
    assert_eq!(ours.status, theirs.status, "{call}: {ours:?}");
    assert_eq!(ours.stdout, theirs.stdout, "{call}");
    let complaint = theirs.stderr.replace("qemu-img", "cowhide");
    assert_eq!(without_help(&ours.stderr, &complaint), complaint, "{call}");
    if !call.contains("-O qcow2") && !call.contains("-O vdi") {
        assert!(our_bytes == their_bytes, "{call}: not the same bytes");
    }
    (ours, our_bytes)
}

fn counts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("a.raw"), LENGTH, 5);
    fs::write(folder.join("noise.raw"), Noise(3).bytes(20_001)).unwrap();
    for of in ["a.raw", "noise.raw"] {
        for blocks in [
            "",
            "bs=4k count=2 skip=1",
            "count=1 skip=1",
            "count=1 skip=2",
            "count=0",
            "skip=0",
            "skip=39",
            "skip=40",
            "skip=41",
            "bs=1000",
            "bs=1000 count=3",
            "bs=1000 count=3 skip=1",
            "bs=1000 skip=20",
            "bs=1000 skip=21",
            "bs=777 skip=5",
            "bs=777 skip=5 count=20",
            "bs=2k skip=3 count=5",
            "bs=1 skip=511 count=3000",
            "bs=1M",
            "bs=2147483647",
            "bs=2 count=9223372036854775807",
            "bs=2 skip=9223372036854775807",
            "bs=256k count=1",
        ] {
            let (ran, left) = both(folder, &format!("-f raw {blocks} if={of} of=out"));
            assert_eq!(ran.status, Some(0));
            assert!(left.is_some());
        }
    }
}

/// Checks that every format gets the same contents, and that holes and zeroes take no space.
fn formats() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("a.raw"), 8 << 20, 5);
    qemu_img(folder, &["convert", "-O", "qcow2", "a.raw", "a.qcow2"]).ok();
    for from in ["raw", "qcow2"] {
        for to in ["raw", "qcow2", "vdi", "file"] {
            for (number, blocks) in ["bs=1M", "bs=1M skip=3 count=4", "bs=777 skip=5"]
                .iter()
                .enumerate()
            {
                let name = |tool| format!("{tool}.{from}.{to}.{number}");
                let input = format!("if=a.{from}");
                for (tool, run) in [("ours", ours as Tool), ("theirs", qemu_img)] {
                    let output = format!("of={}", name(tool));
                    let mut args = vec!["dd", "-f", from, "-O", to];
                    args.extend(blocks.split_whitespace());
                    args.extend([input.as_str(), &output]);
                    run(folder, &args).ok();
                }
                let to = if to == "file" { "raw" } else { to };
                let (mine, other) = (name("ours"), name("theirs"));
                let args = ["compare", "-f", to, "-F", to, &mine, &other];
                qemu_img(folder, &args).ok();
                let size = |name: &str| {
                    let answer = qemu_img(folder, &["info", "-f", to, "--output=json", name]).ok();
                    let info: serde_json::Value = serde_json::from_str(&answer).unwrap();
                    (info["virtual-size"].clone(), info["actual-size"].as_u64())
                };
                let (ours, theirs) = (size(&mine), size(&other));
                assert_eq!(ours.0, theirs.0, "{mine}");
                assert!(ours.1 < Some(4 << 20), "{mine}: {ours:?}");
            }
        }
    }
}

fn numbers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("a.raw"), LENGTH, 5);
    for operands in [
        "count=0x10",
        "count=010",
        "count=+3",
        "count=-1",
        "count=1k",
        "count=abc",
        "count=",
        "count=9223372036854775808",
        "skip=x",
        "skip=1.5",
        "skip=18446744073709551616",
        "bs=0",
        "bs=abc",
        "bs=",
        "bs=-1",
        "bs=0.5",
        "bs=0x10",
        "bs=1.5k",
        "bs=2147483648",
        "bs=3000000000",
        "foo",
        "bar=1",
        "if",
        "=",
        "=x",
        "count",
        "IF=x",
        "if=nope if=a.raw",
        "bs=0 foo",
        "foo bs=0",
        "seek=1",
        "conv=notrunc",
    ] {
        both(folder, &format!("-f raw {operands} if=a.raw of=out"));
    }
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("a.raw"), LENGTH, 5);
    for call in [
        "",
        "if=a.raw",
        "of=out",
        "-f raw if=nope of=out",
        "-O foo -f raw if=nope of=out",
        "-O foo -f raw if=a.raw of=out",
        "-f foo if=a.raw of=out",
        "-f qcow2 if=a.raw of=out",
        "-f raw if=a.raw of=",
        "-f raw if=a.raw of=/nope/out",
        "-f raw if=a.raw of=json:{}",
        "-f raw if=a.raw of=foo:bar",
        "-f raw if=a.raw of=.",
        "-f raw -O host_device if=a.raw of=out",
        "-f raw -O qcow2 if=a.raw of=/nope/out",
        "--image-opts -f raw if=driver=raw,file.filename=a.raw of=out",
        "--image-opts if=driver=raw,file.filename=a.raw of=out",
        "-U if=a.raw of=out",
        "-U -f raw -O file if=a.raw of=out",
        "-Z if=a.raw of=out",
        "-f",
    ] {
        both(folder, call);
    }
}

fn sources() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("a.raw"), 3_000_320, 5);
    qemu_img(folder, &["convert", "-O", "qcow2", "a.raw", "base.qcow2"]).ok();
    let create = "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2";
    qemu_img(folder, &create.split_whitespace().collect::<Vec<_>>()).ok();
    both(folder, "bs=1k skip=100 if=top.qcow2 of=out");
    let encrypted = "encrypt.format=aes,encrypt.key-secret=s";
    let convert = [
        "convert", "--object", SECRET, "-O", "qcow2", "-o", encrypted,
    ];
    qemu_img(folder, &[&convert[..], &["a.raw", "secret.qcow2"]].concat()).ok();
    let spec = "driver=qcow2,file.filename=secret.qcow2,encrypt.key-secret=s";
    to_raw(qemu_img, folder, spec, "whole.raw");
    let input = format!("if={spec}");
    let args = [
        "dd",
        "--object",
        SECRET,
        "--image-opts",
        "bs=1000",
        "skip=7",
        &input,
    ];
    ours(folder, &[&args[..], &["of=out"]].concat()).ok();
    let whole = fs::read(folder.join("whole.raw")).unwrap();
    let mut expected = whole[7000..].to_vec();
    expected.resize(expected.len().next_multiple_of(512), 0);
    assert!(fs::read(folder.join("out")).unwrap() == expected);
}

/// Checks a target that is the source. qemu-img empties the file, and copies that.
fn same_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let before = Noise(1).bytes(70_000);
    fs::write(folder.join("a.raw"), &before).unwrap();
    fs::hard_link(folder.join("a.raw"), folder.join("b.raw")).unwrap();
    for to in ["a.raw", "b.raw", "./a.raw"] {
        let output = format!("of={to}");
        let ran = ours(folder, &["dd", "-f", "raw", "if=a.raw", &output]);
        ran.fails(1, "are the same file");
        assert!(fs::read(folder.join("a.raw")).unwrap() == before);
    }
}
