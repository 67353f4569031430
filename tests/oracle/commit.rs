//! Tests of `commit`: the same calls of both tools on copies of the same chain.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Ran, qemu_io, same_contents, write_disk};
use crate::rebase::{copy, scribble, theirs, words};
use crate::tools::{SECRET, Tool, ours, qemu_img, to_raw, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("commit::chains", chains),
        trial("commit::kinds_of_images", kinds),
        trial("commit::kinds_of_bases", bases),
        trial("commit::snapshots_and_bitmaps", snapshots),
        trial("commit::mistakes", mistakes),
        trial("commit::encrypted", encrypted),
        trial("commit::progress_and_rate", progress),
        trial("commit::a_big_overlay_is_cut_off", big),
    ]
}

/// Makes a chain in a folder: `top` over `mid` over `low` over `base`.
fn make(folder: &Path, options: &str, sizes: [u64; 4]) {
    let [base, low, mid, top] = sizes;
    theirs(folder, &format!("create -q -f qcow2 base {base}K"));
    for (name, below, size, options) in [
        ("low", "base", low, "-o cluster_size=4k"),
        ("mid", "low", mid, ""),
        ("top", "mid", top, options),
    ] {
        theirs(
            folder,
            &format!("create -q -f qcow2 {options} -b {below} -F qcow2 {name} {size}K"),
        );
    }
    for (seed, (name, size)) in (1..).zip(["base", "low", "mid", "top"].iter().zip(sizes)) {
        scribble(folder, "qcow2", name, size << 10, seed);
    }
}

/// Runs a call of both tools on copies of a folder, and compares the resulting images, whose formats are given. Files
/// that aren't in `changed` must not change.
fn both(original: &Path, call: &str, images: &[(&str, &str)], changed: &[&str]) -> [Ran; 2] {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ran = [(ours as Tool, &folders[0]), (qemu_img, &folders[1])].map(|(tool, folder)| {
        copy(original, folder.path());
        tool(folder.path(), &words(call))
    });
    assert_eq!(ran[0].status, ran[1].status, "{call}: {ran:?}");
    let [mine, other] = folders.each_ref().map(|folder| folder.path());
    let is_done = ran[0].status == Some(0);
    for entry in fs::read_dir(original).unwrap() {
        let name = entry.unwrap().file_name();
        if !is_done || !changed.iter().any(|changed| name == *changed) {
            let same = same_contents(&original.join(&name), &mine.join(&name));
            assert!(same, "{call}: {name:?} has changed");
        }
    }
    if !is_done {
        return ran;
    }
    for (format, name) in images {
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
        let compared = qemu_img(mine, &args);
        assert_eq!(
            compared.stdout, "Images are identical.\n",
            "{call}: {name}: {compared:?}"
        );
        let info = [mine, other].map(|folder| {
            let answer = qemu_img(folder, &["info", "-f", format, "--output=json", name]).ok();
            let info: serde_json::Value = serde_json::from_str(&answer).unwrap();
            ["backing-filename", "virtual-size", "snapshots"].map(|key| info[key].clone())
        });
        assert_eq!(info[0], info[1], "{call}: {name}");
        if *format == "qcow2" {
            let checked = qemu_img(mine, &["check", "-q", name]);
            assert_eq!(checked.status, Some(0), "{call}: {name}: {checked:?}");
        }
    }
    ran
}

const ALL: &[(&str, &str)] = &[
    ("qcow2", "base"),
    ("qcow2", "low"),
    ("qcow2", "mid"),
    ("qcow2", "top"),
];

/// Asserts that both answers are the same, except for the tools' names.
fn same(call: &str, [ours, theirs]: [Ran; 2]) {
    assert_eq!(ours.stdout, theirs.stdout, "{call}");
    let expected = theirs.stderr.replace("qemu-img", "cowhide");
    assert_eq!(without_help(&ours.stderr, &expected), expected, "{call}");
}

/// Asserts that the disk of `top` is the same afterwards, and that `top` has no data if it is emptied.
fn disk_stays(original: &Path, call: &str, is_emptied: bool) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy(original, folder);
    theirs(folder, "convert -f qcow2 -O raw top before");
    ours(folder, &words(call)).ok();
    theirs(folder, "convert -f qcow2 -O raw top after");
    assert!(
        same_contents(&folder.join("before"), &folder.join("after")),
        "{call}"
    );
    let map = qemu_img(folder, &words("map -f qcow2 --output=json top")).ok();
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let extents = map.as_array().unwrap();
    let own = extents
        .iter()
        .filter(|extent| extent["depth"] == 0 && extent["present"] == true);
    assert_eq!(own.count() == 0, is_emptied, "{call}: {map}");
}

fn chains() {
    for sizes in [
        [2048, 2048, 2048, 2048],
        [1000, 3000, 1500, 2500],
        [3000, 1000, 2000, 700],
        [700, 800, 900, 5000],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        make(folder, "", sizes);
        // One chain is tested with each option, and the others with those that depend on sizes.
        let is_first = sizes == [2048; 4];
        for (call, changed, is_emptied) in [
            ("commit top", &["top", "mid"][..], true),
            ("commit -d top", &["mid"], false),
            ("commit -q top", &["top", "mid"], true),
            ("commit -b mid top", &["mid"], false),
            ("commit -b low top", &["low"], false),
            ("commit -b base top", &["base"], false),
            ("commit -b ./base top", &["base"], false),
            ("commit -d -b base top", &["base"], false),
            ("commit -t none top", &["top", "mid"], true),
            ("commit -t unsafe -f qcow2 top", &["top", "mid"], true),
            ("commit -r 100M top", &["top", "mid"], true),
            (
                "commit --image-opts driver=qcow2,file.filename=top",
                &["top", "mid"],
                true,
            ),
        ] {
            if !is_first && !matches!(call, "commit top" | "commit -b base top") {
                continue;
            }
            // Images between the top and the base aren't valid afterwards.
            let committed = *changed.last().unwrap();
            let images: Vec<_> = match committed {
                "mid" => ALL.to_vec(),
                _ => ALL
                    .iter()
                    .copied()
                    .filter(|(_, name)| *name == committed)
                    .collect(),
            };
            same(call, both(folder, call, &images, changed));
            disk_stays(folder, call, is_emptied);
        }
        let call = "commit low";
        same(call, both(folder, call, &ALL[..2], &["low", "base"]));
    }
}

fn kinds() {
    for options in [
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o extended_l2=on,cluster_size=16k",
        "-o lazy_refcounts=on,refcount_bits=1",
        "-o compression_type=zstd",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        make(folder, options, [1000, 3000, 1500, 2500]);
        same(
            "commit top",
            both(folder, "commit top", ALL, &["top", "mid"]),
        );
        disk_stays(folder, "commit top", true);
        // Every format can be the base.
        theirs(folder, "create -q -f qcow2 -b top -F qcow2 over 2700K");
        scribble(folder, "qcow2", "over", 2700 << 10, 9);
        let images = [("qcow2", "top"), ("qcow2", "over")];
        same(
            "commit over",
            both(folder, "commit over", &images, &["over", "top"]),
        );
    }
}

fn bases() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("raw"), 1_500_160, 3);
    theirs(folder, "create -q -f vdi vdi 2M");
    scribble(folder, "vdi", "vdi", 2 << 20, 7);
    for (format, name, size) in [
        ("raw", "raw", "1M"),
        ("raw", "raw", "3M"),
        ("vdi", "vdi", "2M"),
        ("vdi", "vdi", "1M"),
    ] {
        theirs(
            folder,
            &format!("create -q -f qcow2 -b {name} -F {format} top {size}"),
        );
        scribble(folder, "qcow2", "top", 1 << 20, 8);
        let images = [(format, name), ("qcow2", "top")];
        same(name, both(folder, "commit top", &images, &["top", name]));
        disk_stays(folder, "commit top", true);
    }
    // This base can't be resized.
    theirs(folder, "create -q -f qcow2 -b vdi -F vdi top 3M");
    scribble(folder, "qcow2", "top", 3 << 20, 8);
    same("vdi", both(folder, "commit top", &[], &[]));
}

fn snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "", [2048, 2048, 2048, 2048]);
    theirs(folder, "snapshot -c one top");
    scribble(folder, "qcow2", "top", 2 << 20, 20);
    theirs(folder, "snapshot -c two mid");
    theirs(folder, "bitmap --add top bits");
    for (call, changed) in [
        ("commit top", &["top", "mid"][..]),
        ("commit -d top", &["mid"]),
    ] {
        same(call, both(folder, call, ALL, changed));
    }
    disk_stays(folder, "commit top", true);
    // The snapshot still reads as before.
    let copied = tempfile::tempdir().unwrap();
    copy(folder, copied.path());
    let copied = copied.path();
    theirs(
        copied,
        "convert -l one -f qcow2 -O qcow2 -B mid -F qcow2 top before",
    );
    ours(copied, &words("commit top")).ok();
    theirs(
        copied,
        "convert -l one -f qcow2 -O qcow2 -B mid -F qcow2 top after",
    );
    theirs(copied, "compare -f qcow2 -F qcow2 before after");
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "", [2048, 2048, 2048, 2048]);
    write_disk(&folder.join("raw"), 1_500_160, 3);
    for call in [
        "commit",
        "commit a b",
        "commit nope",
        "commit base",
        "commit raw",
        "commit -f raw raw",
        "commit -f raw top",
        "commit -f foo top",
        "commit -b nope top",
        "commit -b top top",
        "commit -b '' top",
        "commit -b x base",
        "commit -b raw top",
        "commit -t foo top",
        "commit -t foo nope",
        "commit -r foo top",
        "commit -r -1 top",
        "commit -r foo",
        "commit -f qcow2 --image-opts driver=qcow2,file.filename=top",
        "commit -p nope",
        "commit -p base",
        "commit -b",
        "commit -Z top",
        "commit ''",
        "commit .",
    ] {
        same(call, both(folder, call, &[], &[]));
    }
    fs::remove_file(folder.join("mid")).unwrap();
    for call in ["commit top", "commit -b base top", "commit -b mid top"] {
        same(call, both(folder, call, &[], &[]));
    }
}

fn encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "", [2048, 2048, 2048, 2048]);
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let create = [
        "create", "-q", "--object", SECRET, "-f", "qcow2", "-o", options,
    ];
    let rest = ["-b", "mid", "-F", "qcow2", "secret", "3M"];
    qemu_img(folder, &[&create[..], &rest].concat()).ok();
    let spec = "driver=qcow2,file.filename=secret,encrypt.key-secret=s";
    let raw = |name: &str| to_raw(qemu_img, folder, spec, name);
    let write = ["-c", "write -P 5 100k 300k", "--image-opts", spec];
    let args = [&["--object", SECRET][..], &write].concat();
    let written = crate::common::run(folder, "qemu-io", args);
    assert_eq!(written.status, Some(0), "{written:?}");
    raw("before");
    let args = ["commit", "--object", SECRET, "--image-opts", spec];
    assert_eq!(ours(folder, &args).ok(), "Image committed.\n");
    raw("after");
    assert!(same_contents(&folder.join("before"), &folder.join("after")));
    theirs(folder, "check -q mid");
    theirs(folder, "convert -f qcow2 -O raw mid mid.raw");
    assert!(same_contents(
        &folder.join("before"),
        &folder.join("mid.raw")
    ));
}

/// Checks that the percentage only grows, and ends as in qemu-img.
fn progress() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "", [2048, 2048, 2048, 2048]);
    for call in ["commit -p top", "commit -p -d -r 200M top"] {
        for told in both(folder, call, &[], &["top", "mid"]) {
            assert!(
                told.stdout.starts_with("    (0.00/100%)\r"),
                "{call}: {told:?}"
            );
            let end = "    (100.00/100%)\r\nImage committed.\n";
            assert!(told.stdout.ends_with(end), "{call}: {told:?}");
            assert_eq!(told.stderr, "");
        }
    }
    let call = "commit -p -q top";
    same(call, both(folder, call, ALL, &["top", "mid"]));
}

fn big() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    theirs(folder, "create -q -f qcow2 base 1G");
    theirs(folder, "create -q -f qcow2 -b base -F qcow2 top");
    qemu_io(
        folder,
        "qcow2",
        "top",
        &["write -P 3 10M 40M", "write -P 4 900M 5M"],
    );
    let call = "commit top";
    let images = [("qcow2", "base"), ("qcow2", "top")];
    same(call, both(folder, call, &images, &["top", "base"]));
    ours(folder, &words(call)).ok();
    assert!(fs::metadata(folder.join("top")).unwrap().len() <= 1 << 20);
}
