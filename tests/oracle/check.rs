//! Tests of `check` with images of all kinds, with files that aren't images, and with truncated files.

use libtest_mimic::Trial;

use crate::common::{qemu_io, write_disk};
use crate::tools::{Tool, ours, qemu_img};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("check::statuses_without_a_report", statuses),
        trial("check::reports_of_all_kinds_of_images", kinds),
        trial("check::words_for_what_is_cut_off", cut_off),
    ]
}

fn statuses() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_000, 1);
    std::fs::write(folder.join("bad.qcow2"), b"QFI\xfb\0\0\0\x09").unwrap();
    for (name, status) in [("disk.raw", 63), ("missing", 1), ("bad.qcow2", 1), (".", 1)] {
        let (ours, theirs) = (
            ours(folder, &["check", name]),
            qemu_img(folder, &["check", name]),
        );
        assert_eq!(theirs.status, Some(status), "the oracle: {theirs:?}");
        assert_eq!(ours.status, Some(status), "{ours:?}");
        assert_eq!(ours.stdout, theirs.stdout);
    }
}

/// Makes images with everything that a check counts.
fn make_kinds(folder: &std::path::Path) -> Vec<&'static str> {
    let kinds = [
        ("plain", "cluster_size=64k"),
        ("one-bit", "cluster_size=512,refcount_bits=1"),
        ("wide", "cluster_size=4k,refcount_bits=64"),
        ("old", "cluster_size=4k,compat=0.10"),
        ("extended", "cluster_size=16k,extended_l2=on"),
        ("preallocated", "cluster_size=4k,preallocation=metadata"),
        ("external", "cluster_size=4k,data_file=data.raw"),
        ("snapshots", "cluster_size=4k"),
    ];
    let io = |image, commands: &[&str]| qemu_io(folder, "qcow2", image, commands);
    for (name, options) in kinds {
        qemu_img(
            folder,
            &["create", "-q", "-f", "qcow2", "-o", options, name, "4M"],
        )
        .ok();
        io(
            name,
            &["write -P 1 0 70k", "write -P 2 1M 200k", "write -z 2M 128k"],
        );
    }
    let qemu = |args: &str| qemu_img(folder, &args.split(' ').collect::<Vec<_>>()).ok();
    qemu("snapshot -c s1 snapshots");
    io("snapshots", &["write -P 7 32k 100k"]);
    qemu("snapshot -c s2 snapshots");
    qemu("bitmap --add -g 512 snapshots b");
    io("snapshots", &["write -P 7 900k 10k"]);
    qemu("convert -c -O qcow2 -o cluster_size=4k snapshots compressed");
    kinds
        .iter()
        .map(|(name, _)| *name)
        .chain(["compressed"])
        .collect()
}

fn kinds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in make_kinds(folder) {
        for output in ["--output=human", "--output=json"] {
            let args = ["check", output, name];
            assert_eq!(
                ours(folder, &args).ok(),
                qemu_img(folder, &args).ok(),
                "{name}"
            );
        }
    }
}

/// Checks the messages about a truncated file, which scripts search for.
fn cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let convert = "convert -O qcow2 -o cluster_size=4k disk.raw whole";
    write_disk(&folder.join("disk.raw"), 3 << 20, 8);
    ours(folder, &convert.split(' ').collect::<Vec<_>>()).ok();
    let whole = std::fs::read(folder.join("whole")).unwrap();
    let words = |tool: Tool| {
        let ran = tool(folder, &["check", "x"]);
        let lines = ran.stderr.lines();
        let lines =
            lines.filter(|line| line.contains("counting reference") || line.contains("outside"));
        // cowhide's findings come table by table, and qemu-img's entry by entry.
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut said = 0;
    for clusters in [2, 3, 4, 5, 6, 8, 12, 20] {
        for more in [0, 100, 512, 4000] {
            let length = (clusters * 4096 + more).min(whole.len());
            std::fs::write(folder.join("x"), &whole[..length]).unwrap();
            let theirs = words(qemu_img);
            assert_eq!(words(ours), theirs, "cut off after {length} bytes");
            said += theirs.len();
        }
    }
    assert!(said > 50, "{said}");
}
