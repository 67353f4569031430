//! Tests of `resize`: both tools resize copies of one image, with the same output and the same disk.
//!
//! The images have random combinations of features, and the most important features are also tested one by one. The
//! seed is the test's name, so that a failure can be reproduced.
//!
//! Deliberate differences:
//!
//! - with qemu-img, data in the last cluster beyond the end of a smaller disk comes back with a larger one, and with
//!   cowhide it reads as zeroes;
//! - preallocated space of an encrypted disk reads as noise with qemu-img, and as zeroes with cowhide;
//! - host offsets, and the messages of the repair of a dirty image, which cowhide doesn't have.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::argv::map;
use crate::common::{Ran, qemu_io, run, same_contents};
use crate::devices::Device;
use crate::features::{bitmaps, noise};
use crate::random_images::{header, make_chain};
use crate::tools::{SECRET, Tool, is_finding, ours, qemu_img, same_answer, spec};
use crate::trial;

/// The number of random chains of images.
const CHAINS: u64 = 16;

/// The number of resizes of each.
const CHANGES: u64 = 3;

pub fn trials() -> Vec<Trial> {
    let random =
        (0..CHAINS).map(|seed| trial(format!("resize::seed_{seed}"), move || at_random(seed)));
    let kinds = KINDS.iter().flat_map(|(name, options, writes)| {
        SIZES.iter().map(move |size| {
            let name = format!("resize::{name}_{}", size.join("_"));
            trial(name, move || one_kind(options, writes, size))
        })
    });
    let possible = Device::are_possible();
    let others = [
        trial("resize::mistakes", mistakes),
        trial("resize::raw_files", raw_files),
        trial("resize::other_formats", other_formats),
        trial("resize::backing_files", backing_files),
        trial("resize::encrypted", encrypted),
        trial("resize::devices", devices).with_ignored_flag(!possible),
    ];
    random.chain(kinds).chain(others).collect()
}

/// Kinds of images: their names, their options, and the data that is written.
const KINDS: &[(&str, &str, &str)] = &[
    ("default", "", "write -P 3 0 1M,write -P 4 2M 512k"),
    ("small_clusters", "cluster_size=512", "write -P 3 700k 2M"),
    ("large_clusters", "cluster_size=2M", "write -P 3 700k 2M"),
    (
        "version_2",
        "compat=0.10,cluster_size=4k",
        "write -P 3 700k 2M",
    ),
    (
        "lazy",
        "lazy_refcounts=on,cluster_size=4k",
        "write -P 3 700k 2M",
    ),
    (
        "one_bit",
        "refcount_bits=1,cluster_size=4k",
        "write -P 3 700k 2M",
    ),
    (
        "64_bits",
        "refcount_bits=64,cluster_size=4k",
        "write -P 3 700k 2M",
    ),
    (
        "subclusters",
        "extended_l2=on,cluster_size=64k",
        "write -P 3 700k 1M,write -P 4 2098k 2k",
    ),
    ("data_file", "data_file=x.data", "write -P 3 700k 2M"),
    (
        "raw_data_file",
        "data_file=x.data,data_file_raw=on",
        "write -P 3 700k 2M",
    ),
    (
        "preallocated",
        "preallocation=metadata",
        "write -P 3 700k 2M",
    ),
    (
        "compressed",
        "cluster_size=64k",
        "write -c -P 3 0 64k,write -c -P 5 2944k 64k",
    ),
    ("zeroes", "cluster_size=4k", "write -z 0 3M"),
];

/// The sizes for a disk of 3 MiB.
const SIZES: &[&[&str]] = &[
    &["3073k"],
    &["+20M"],
    &["--shrink", "1M"],
    &["-512", "--shrink"],
    &["--preallocation=metadata", "4100k"],
    &["--preallocation=falloc", "4100k"],
    &["--preallocation=full", "+1M"],
];

/// Makes the same image in a folder for each tool, and resizes it in both.
fn both(prepare: &dyn Fn(&Path), args: &[&str]) -> [(tempfile::TempDir, Ran); 2] {
    let original = tempfile::tempdir().unwrap();
    prepare(original.path());
    both_in(original.path(), args)
}

/// Resizes an image in two copies of a folder, one for each tool.
fn both_in(original: &Path, args: &[&str]) -> [(tempfile::TempDir, Ran); 2] {
    [ours as Tool, qemu_img].map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(original).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let args = [
                OsStr::new("--sparse=always"),
                path.as_os_str(),
                OsStr::new("."),
            ];
            run(folder.path(), "cp", args).ok();
        }
        let ran = tool(folder.path(), args);
        (folder, ran)
    })
}

/// Asserts that both tools have the same output.
fn assert_same_words(ours: &Ran, theirs: &Ran, what: &str) {
    let words = |ran: &Ran| {
        let complaint = ran.stderr.replace("qemu-img", "cowhide");
        let lines = complaint.lines();
        // Only qemu-img reports the repair of a dirty image.
        let lines = lines.filter(|line| !is_finding(line));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(words(ours), words(theirs), "{what}");
    assert_eq!(ours.status, theirs.status, "{what}: {ours:?}");
    assert_eq!(ours.stdout, theirs.stdout, "{what}");
}

/// Asserts that an image is the same disk in both folders, with nothing wrong in either.
fn assert_same_image(ours: &Path, theirs: &Path, name: &str, what: &str) {
    assert_same_but_map(ours, theirs, name, what);
    assert_eq!(map(ours, name), map(theirs, name), "{what}: map");
}

/// Asserts that an image is the same disk in both folders, whatever its allocation, with nothing wrong in either.
fn assert_same_but_map(ours: &Path, theirs: &Path, name: &str, what: &str) {
    for folder in [ours, theirs] {
        let args = [
            "convert", "-U", "-f", "qcow2", "-O", "raw", name, "contents",
        ];
        qemu_img(folder, &args).ok();
    }
    let [our, their] = [ours, theirs].map(|folder| folder.join("contents"));
    assert!(same_contents(&our, &their), "{what}: contents");
    let info = |folder: &Path| {
        let told = qemu_img(folder, &["info", "--output=json", name]).ok();
        let mut told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let fields = told.as_object_mut().unwrap();
        fields.remove("actual-size");
        fields.remove("children");
        told
    };
    assert_eq!(info(ours), info(theirs), "{what}: info");
    let check = |folder: &Path| {
        let told = qemu_img(folder, &["check", "--output=json", name]).stdout;
        let mut told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let fields = told.as_object_mut().unwrap();
        fields.remove("image-end-offset");
        fields.remove("fragmented-clusters");
        fields.remove("allocated-clusters");
        told
    };
    assert_eq!(check(ours), check(theirs), "{what}: check");
    let [our, their] = [ours, theirs].map(|folder| folder.join(name));
    assert_eq!(header(&our), header(&their), "{what}: header");
    let (our, their) = (bitmaps(&our), bitmaps(&their));
    assert_eq!(our.len(), their.len(), "{what}");
    for (our, their) in our.iter().zip(&their) {
        assert_eq!(our.bitmap.name, their.bitmap.name, "{what}");
        assert_eq!(our.bitmap.in_use, their.bitmap.in_use, "{what}");
        assert!(our.bits == their.bits, "{what}: {:?}", our.bitmap);
    }
}

/// Asserts that all files but one are the same to the byte.
fn assert_same_others(ours: &Path, theirs: &Path, but: &str) {
    for entry in fs::read_dir(ours).unwrap() {
        let name = entry.unwrap().file_name();
        if name != but && name != "contents" {
            assert_same_data_file(&ours.join(&name), &theirs.join(&name));
        }
    }
}

/// Asserts that files are the same except for zeroes at the end of one: qemu-img makes a data file longer than the
/// disk if it allocates whole clusters.
fn assert_same_data_file(ours: &Path, theirs: &Path) {
    let [mut our, mut their] = [ours, theirs].map(|path| fs::read(path).unwrap());
    let length = our.len().max(their.len());
    our.resize(length, 0);
    their.resize(length, 0);
    assert!(our == their, "{}", ours.display());
}

fn at_random(seed: u64) {
    let known = tempfile::tempdir().unwrap();
    let chain = make_chain(known.path(), &mut noise(2000 + seed));
    let top = chain.last().unwrap();
    for change in 0..CHANGES {
        // This is the same image with another resize.
        let mut noise = noise(seed * CHANGES + change + 5000);
        let size = match noise.below(3) {
            0 => 512 * (1 + noise.below(top.size / 512)),
            1 => top.size + 512 * noise.below(4000),
            _ => top.size + (512 << noise.below(17)),
        };
        let size = size.to_string();
        let modes = ["off", "metadata", "falloc", "full"];
        let mode = match noise.below(3) {
            0 => modes[noise.pick(4)],
            _ => "off",
        };
        let mode = format!("--preallocation={mode}");
        let mut args = vec!["resize", "-f", top.format, &top.name, &size];
        if noise.below(4) > 0 {
            args.push("--shrink");
        }
        if mode != "--preallocation=off" {
            args.push(&mode);
        }
        let [(our, our_run), (their, their_run)] = both_in(known.path(), &args);
        let what = format!("{args:?} of {top:?}");
        assert_same_words(&our_run, &their_run, &what);
        if our_run.status == Some(0) && top.format == "qcow2" {
            // With a backing file, a last partial cluster with zeroes beyond the disk's end becomes data in qemu-img.
            match top.is_backed {
                true => assert_same_but_map(our.path(), their.path(), &top.name, &what),
                false => assert_same_image(our.path(), their.path(), &top.name, &what),
            }
            assert_same_others(our.path(), their.path(), &top.name);
        }
        if our_run.status != Some(0) {
            let before = known.path();
            assert_same_others(our.path(), before, "");
        }
    }
}

fn one_kind(options: &str, writes: &str, size: &[&str]) {
    let prepare = |folder: &Path| {
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend(["x", "3M"]);
        qemu_img(folder, &args).ok();
        let writes: Vec<&str> = writes.split(',').collect();
        qemu_io(folder, "qcow2", "x", &writes);
    };
    let args = [&["resize", "-f", "qcow2", "x"][..], size].concat();
    let [(our, our_run), (their, their_run)] = both(&prepare, &args);
    let what = format!("{args:?} with {options}");
    assert_same_words(&our_run, &their_run, &what);
    assert_eq!(our_run.status, Some(0), "{our_run:?}");
    assert_same_image(our.path(), their.path(), "x", &what);
    if options.contains("data_file") {
        let [our, their] = [&our, &their].map(|folder| folder.path().join("x.data"));
        assert_same_data_file(&our, &their);
    }
    if size.contains(&"--shrink") {
        return;
    }
    // This resizes the result of each tool again, without showing data beyond an old end.
    for args in [
        &["resize", "-q", "x", "+100M"][..],
        &["resize", "-q", "--shrink", "x", "2M"],
    ] {
        ours(our.path(), args).ok();
        qemu_img(their.path(), args).ok();
    }
    assert_same_image(
        our.path(),
        their.path(),
        "x",
        &format!("{what}, twice more"),
    );
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x", "10M"]).ok();
    qemu_img(
        folder,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "compat=0.10",
            "old",
            "10M",
        ],
    )
    .ok();
    qemu_img(folder, &["snapshot", "-c", "s", "old"]).ok();
    qemu_img(
        folder,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=512",
            "small",
            "1M",
        ],
    )
    .ok();
    qemu_img(folder, &["create", "-q", "r", "1M"]).ok();
    let before = ["x", "old", "small", "r"].map(|name| fs::read(folder.join(name)).unwrap());
    for line in [
        "resize",
        "resize x",
        "resize x 20M 30M",
        "resize x a",
        "resize x +a",
        "resize x -a",
        "resize x -5a",
        "resize x 0",
        "resize x -1M",
        "resize x 1M",
        "resize x -- -1M",
        "resize -- x -1M",
        "resize -q x -1M",
        "resize x -1M -5",
        "resize -1M x",
        "resize --shrink x -10M",
        "resize --shrink x -20M",
        "resize x +1",
        "resize x 20000001",
        "resize x +",
        "resize x +-5",
        "resize --preallocation=foo x",
        "resize --preallocation=foo x 20M",
        "resize --preallocation=full --shrink x 5M",
        "resize --preallocation=full x 5M",
        "resize --preallocation=metadata x 10M",
        "resize -f foo x 20M",
        "resize -f qcow2 --image-opts driver=qcow2,file.filename=x 20M",
        "resize --image-opts driver=qcow2,file.filename=x,read-only=on 20M",
        "resize nope 20M",
        "resize -f qcow2 nope 20M",
        "resize nope a",
        "resize . 20M",
        "resize x 7E",
        "resize x 8E",
        "resize x 19E",
        "resize x +8E",
        "resize x -9E",
        "resize small 128G+",
        "resize small 129G",
        "resize -f raw r 9223372036854775807",
        "resize -f raw r 18446744073709551615",
        "resize -f raw --preallocation=metadata r 2M",
        "resize -f raw r 512k",
        "resize -f qcow2 r 2M",
        "resize --image-opts driver=raw,file.filename=r,size=512k 2M",
        "resize --image-opts driver=null-co,size=1M 2M",
        "resize old 20M",
        "resize --foo x 5M",
        "resize -U x 20M",
        "resize -p x 20M",
        "resize --image-opts x 5M",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        same_answer(folder, &args);
    }
    same_answer(folder, &["resize", "x", ""]);
    let after = ["x", "old", "small", "r"].map(|name| fs::read(folder.join(name)).unwrap());
    assert!(before == after, "a refused command changed something");
}

fn raw_files() {
    for line in [
        "resize -f raw r 2M",
        "resize r 2M",
        "resize -f raw r +1",
        "resize -f raw --shrink r 5",
        "resize -f raw --shrink r -- -100k",
        "resize -f raw r 1000000",
        "resize -f raw --shrink r 1000000",
        "resize -f raw --preallocation=falloc r 2M",
        "resize -f raw --preallocation=full r 2000001",
        "resize --image-opts driver=raw,file.filename=r 3M",
        "resize --image-opts driver=file,filename=r 3M",
        "resize --image-opts driver=raw,offset=4k,file.filename=r 3M",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let prepare = |folder: &Path| fs::write(folder.join("r"), vec![7; 1_000_000]).unwrap();
        let [(our, our_run), (their, their_run)] = both(&prepare, &args);
        assert_same_words(&our_run, &their_run, line);
        let [our, their] = [our, their].map(|folder| fs::read(folder.path().join("r")).unwrap());
        assert!(our == their, "{line}");
    }
}

fn other_formats() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "vdi", "x", "10M"]).ok();
    for args in [
        &["resize", "x", "20M"][..],
        &["resize", "-f", "vdi", "x", "20M"],
        &["resize", "--shrink", "x", "5M"],
        &["resize", "x", "5M"],
        &["resize", "--preallocation=full", "x", "20M"],
    ] {
        same_answer(folder, args);
    }
}

fn backing_files() {
    for options in [
        "",
        "compat=0.10",
        "extended_l2=on,cluster_size=64k",
        "data_file=x.data",
    ] {
        for below in ["1M", "3M", "9M"] {
            for size in [
                &["3073k"][..],
                &["6M"],
                &["--preallocation=metadata", "5M"],
                &["--preallocation=falloc", "5M"],
                &["--preallocation=full", "5M"],
                &["--shrink", "1000k"],
            ] {
                // Every kind of image is only tested where the backing file would show through.
                if !options.is_empty() && (below != "9M" || size[0] == "--shrink") {
                    continue;
                }
                let prepare = |folder: &Path| {
                    qemu_img(folder, &["create", "-q", "-f", "raw", "base", below]).ok();
                    qemu_io(folder, "raw", "base", &[format!("write -P 9 0 {below}")]);
                    let mut args = vec!["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw"];
                    if !options.is_empty() {
                        args.extend(["-o", options]);
                    }
                    qemu_img(folder, &[&args[..], &["x", "3M"]].concat()).ok();
                    qemu_io(
                        folder,
                        "qcow2",
                        "x",
                        &["write -P 3 700k 100k", "write -P 4 2M 64k"],
                    );
                };
                let args = [&["resize", "-f", "qcow2", "x"][..], size].concat();
                let [(our, our_run), (their, their_run)] = both(&prepare, &args);
                let what = format!("{args:?} with {options} over {below}");
                assert_same_words(&our_run, &their_run, &what);
                if our_run.status == Some(0) {
                    assert_same_image(our.path(), their.path(), "x", &what);
                }
                let [our, their] = [&our, &their].map(|folder| folder.path().join("base"));
                assert!(same_contents(&our, &their), "{what}: the backing file");
            }
        }
    }
}

fn encrypted() {
    let image = spec("x", "qcow2", true);
    for compat in ["compat=1.1", "compat=0.10"] {
        for mode in ["off", "metadata", "falloc", "full"] {
            let options = format!("{compat},encrypt.format=aes,encrypt.key-secret=s");
            let prepare = |folder: &Path| {
                let create = [
                    "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", &options,
                ];
                qemu_img(folder, &[&create[..], &["x", "3000k"]].concat()).ok();
                let args = [
                    "--object",
                    SECRET,
                    "--image-opts",
                    &image,
                    "-c",
                    "write -P 6 1M 1000k",
                ];
                assert_eq!(run(folder, "qemu-io", args).status, Some(0));
            };
            let mode = format!("--preallocation={mode}");
            let args = [
                "resize",
                "--object",
                SECRET,
                &mode,
                "--image-opts",
                &image,
                "5M",
            ];
            let [(our, our_run), (_their, their_run)] = both(&prepare, &args);
            assert_same_words(&our_run, &their_run, &mode);
            assert_eq!(our_run.status, Some(0), "{our_run:?}");
            let read = ["-P 0 0 1M", "-P 6 1M 1000k", "-P 0 2024k 3096k"];
            for part in read {
                let command = format!("read {part}");
                let args = ["--object", SECRET, "--image-opts", &image, "-c", &command];
                let read = run(our.path(), "qemu-io", args);
                assert!(!read.stdout.contains("failed"), "{args:?}: {read:?}");
                assert_eq!(read.status, Some(0), "{read:?}");
            }
            let check = ["check", "--object", SECRET, "--image-opts", &image];
            assert_eq!(qemu_img(our.path(), &check).status, Some(0));
            let without = ["resize", "-f", "qcow2", "x", "6M"];
            let refused = "Parameter 'encrypt.key-secret' is required for cipher";
            for tool in [ours as Tool, qemu_img] {
                let ran = tool(our.path(), &without);
                assert_eq!(ran.status, Some(1), "{ran:?}");
                assert!(ran.stderr.contains(refused), "{ran:?}");
            }
        }
    }
}

fn devices() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("file"), vec![7; 4 << 20]).unwrap();
    let device = Device::new(&folder.join("file")).unwrap();
    let name = device.name();
    for args in [
        &["resize", "-f", "raw", name, "5M"][..],
        &["resize", "-f", "raw", name, "4M"],
        &["resize", "-f", "raw", "--shrink", name, "2M"],
    ] {
        same_answer(folder, args);
    }
    qemu_img(folder, &["create", "-q", "-f", "qcow2", name, "1M"]).ok();
    for args in [
        &["resize", name, "20M"][..],
        &["resize", "-f", "qcow2", "--shrink", name, "2M"],
        &[
            "resize",
            "-f",
            "qcow2",
            "--preallocation=metadata",
            name,
            "30M",
        ],
    ] {
        same_answer(folder, args);
    }
    // Old data of the device isn't visible in preallocated space.
    ours(
        folder,
        &[
            "resize",
            "-q",
            "-f",
            "qcow2",
            "--preallocation=falloc",
            name,
            "3M",
        ],
    )
    .ok();
    qemu_img(folder, &["check", "-q", "-f", "qcow2", name]).ok();
    qemu_io(folder, "qcow2", name, &["read -P 0 0 3M"]);
}
