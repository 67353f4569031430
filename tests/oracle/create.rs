//! Tests of all options of new qcow2 images: both tools make them, empty and from a disk, and all reports on the
//! results are the same.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use cowhide::convert::{self, Settings};
use cowhide::formats::qcow2::{Backing, NewFiles, NewQcow2, NewQcow2Options, Version};
use cowhide::formats::raw::RawImage;
use cowhide::formats::{Image as _, Preallocation};
use cowhide::storage::{Access, CacheMode, FileStorage, Storage as _};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::common::Noise;
use crate::tools::{SECRET, Tool, ours, qemu_img, spec, without_help};
use crate::trial;

/// The options for `-o`.
const OPTIONS: &[&str] = &[
    "refcount_bits=1",
    "refcount_bits=2,cluster_size=512",
    "refcount_bits=4,cluster_size=2M",
    "refcount_bits=8,compat=v3,lazy_refcounts=on",
    "refcount_bits=16,compat=0.10",
    "refcount_bits=32,cluster_size=4k",
    "refcount_bits=64,cluster_size=8k",
    "refcount_bits=64,preallocation=metadata,cluster_size=512",
    "refcount_bits=1,preallocation=falloc",
    "refcount_bits=2,preallocation=full,cluster_size=1k",
    "extended_l2=off,data_file_raw=off",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=2M,refcount_bits=1",
    "extended_l2=on,encrypt.format=aes,encrypt.key-secret=s",
    "extended_l2=on,cluster_size=16k,preallocation=metadata",
    "extended_l2=on,preallocation=full,lazy_refcounts=on",
    "data_file=data",
    "data_file=./data,cluster_size=512",
    "data_file=data,extended_l2=on,compression_type=zstd",
    "data_file=data,encrypt.format=aes,encrypt.key-secret=s",
    "data_file=data,preallocation=metadata,cluster_size=2M",
    "data_file=data,preallocation=falloc",
    "data_file=data,preallocation=full,extended_l2=on",
    "data_file=data file,data_file_raw=on",
    "data_file=data,,with a comma",
    "data_file=data,data_file_raw=on,cluster_size=4k",
    "data_file=data,data_file_raw=on,extended_l2=on",
    "data_file=data,data_file_raw=on,preallocation=full",
];

/// Options with which only cowhide keeps the preallocation: the oracle frees clusters without data.
const DIFFERENT: &[&str] =
    &["extended_l2=on,preallocation=falloc,encryption=on,encrypt.key-secret=s"];

/// A change of the default options.
type Change = fn(&mut NewQcow2Options);

/// Options with a backing file: those of the oracle, and those of the library.
const BACKED: &[(&str, Change, Preallocation)] = &[
    ("compat=1.1", |_| (), Preallocation::Off),
    (
        "cluster_size=512",
        |options| options.cluster_size = 512,
        Preallocation::Off,
    ),
    (
        "cluster_size=2M,compat=0.10",
        |options| {
            options.cluster_size = 2 << 20;
            options.version = Version::V2;
        },
        Preallocation::Off,
    ),
    (
        "extended_l2=on,cluster_size=16k",
        |options| {
            options.cluster_size = 16384;
            options.extended_l2 = true;
        },
        Preallocation::Off,
    ),
    (
        "extended_l2=on,preallocation=metadata",
        |options| options.extended_l2 = true,
        Preallocation::Metadata,
    ),
    (
        "data_file=data,lazy_refcounts=on",
        |options| {
            options.data_file = Some(b"data".to_vec());
            options.lazy_refcounts = true;
        },
        Preallocation::Off,
    ),
];

/// Invalid options and combinations.
const REFUSED: &[&str] = &[
    "refcount_bits=0",
    "refcount_bits=3",
    "refcount_bits=128",
    "refcount_bits=99999999999999999999",
    "refcount_bits=many",
    "refcount_bits=8,compat=0.10",
    "refcount_bits=3,compat=v2",
    "refcount_bits=8,compat=v2,lazy_refcounts=on",
    "refcount_bits=8,compat=v2,compression_type=zstd",
    "refcount_bits=3,cluster_size=3",
    "extended_l2=on,cluster_size=8k",
    "extended_l2=on,compat=0.10,cluster_size=8k",
    "extended_l2=on,cluster_size=3",
    "extended_l2=maybe",
    "data_file_raw=on",
    "data_file_raw=on,refcount_bits=3",
    "nocow=maybe",
    "extent_size_hint=4G",
    "data_file=data,compat=v2",
    "data_file=data,compat=v2,compression_type=zstd",
    "data_file=data,data_file_raw=on,compat=v2,extended_l2=on",
    "data_file=",
    "data_file=.",
    "data_file=/nonexistent/data",
    "preallocation=metadata,extended_l2=on,cluster_size=512",
    "backing_fmt=raw",
];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for options in OPTIONS {
        trials.push(trial(format!("create::[{options}]"), || made(options)));
    }
    for options in DIFFERENT {
        let test = move || {
            let folder = tempfile::tempdir().unwrap();
            let printed = converted(folder.path(), ours, options);
            assert!(
                printed.contains(&"allocated-clusters: 48".to_owned()),
                "{printed:?}"
            );
        };
        trials.push(trial(format!("create::[{options}]"), test));
    }
    for (options, change, preallocation) in BACKED {
        let name = format!("create::[backing_file=below,backing_fmt=raw,{options}]");
        let test = || backed(options, *change, *preallocation);
        trials.push(trial(name, test));
    }
    trials.push(trial("create::refused", refused));
    trials.push(trial("create::help", help));
    trials
}

/// Checks `-o help`, except for some options of LUKS that cowhide doesn't have.
fn help() {
    const MISSING: [&str; 6] = [
        "encrypt.cipher-alg",
        "encrypt.cipher-mode",
        "encrypt.hash-alg",
        "encrypt.iter-time",
        "encrypt.ivgen-alg",
        "encrypt.ivgen-hash-alg",
    ];
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for call in [
        "create -f qcow2 -o help",
        "create -f qcow2 -o help x",
        "create -f qcow2 -o cluster_size=4k,help x 1M",
        "create -f raw -o help",
        "create -f raw -o ? x",
        "convert -O qcow2 -o help",
        "convert -O raw -o help x y",
    ] {
        let args: Vec<&str> = call.split_whitespace().collect();
        let theirs = qemu_img(folder, &args).ok();
        let known = |line: &&str| {
            let name = line.trim_start().split('=').next();
            name.is_none_or(|name| !MISSING.contains(&name))
        };
        let theirs: Vec<&str> = theirs.lines().filter(known).collect();
        let ours = ours(folder, &args).ok();
        let ours: Vec<&str> = ours.lines().filter(known).collect();
        assert_eq!(ours, theirs, "{call}");
    }
}

/// Makes a disk of 3 MiB with data in multiples of 4 KiB, the unit in which the oracle finds zeroes. It has whole and
/// partial clusters of data, zeroes as data, and holes.
fn disk(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(3 << 20).unwrap();
    for (start, length) in [(0, 1), (20, 1), (256, 18), (384, 1), (480, 96), (700, 68)] {
        let bytes = Noise(start).bytes(length * 4096);
        file.write_all_at(&bytes, start * 4096).unwrap();
    }
    file.write_all_at(&[0; 9 * 4096], 274 * 4096).unwrap();
}

fn made(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let both = [("ours", ours as Tool), ("theirs", qemu_img)].map(|(name, tool)| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        (folder, tool)
    });
    let [ours, theirs] = both
        .each_ref()
        .map(|(folder, tool)| created(folder, *tool, options));
    assert_same("created", &ours, &theirs);
    let [ours, theirs] = both
        .each_ref()
        .map(|(folder, tool)| converted(folder, *tool, options));
    assert_same("converted", &ours, &theirs);
}

/// Makes an empty image. Returns the output, and the description of the image.
fn created(folder: &Path, tool: Tool, options: &str) -> Vec<String> {
    let args = ["create", "-f", "qcow2", "--object", SECRET, "-o", options];
    let printed = tool(folder, &[&args[..], &["x", "5M"]].concat()).ok();
    [vec![printed], description(folder, "x", options)].concat()
}

/// Makes an image of a disk, and asserts its contents. Returns the output, and the description of the image.
fn converted(folder: &Path, tool: Tool, options: &str) -> Vec<String> {
    disk(&folder.join("disk.raw"));
    let args = ["convert", "-f", "raw", "-O", "qcow2", "--object", SECRET];
    let printed = tool(
        folder,
        &[&args[..], &["-o", options, "disk.raw", "y"]].concat(),
    )
    .ok();
    let raw = spec("disk.raw", "raw", false);
    let image = spec("y", "qcow2", options.contains("encrypt"));
    let args = ["compare", "--object", SECRET, "--image-opts", &image, &raw];
    assert_eq!(qemu_img(folder, &args).ok(), "Images are identical.\n");
    if options.contains("data_file_raw=on") {
        // The oracle's data file has whole clusters, and may be longer than the disk.
        let name = options.split(',').next().unwrap();
        let data = spec(name.trim_start_matches("data_file="), "raw", false);
        let args = ["compare", "--image-opts", &data, &raw];
        assert_eq!(qemu_img(folder, &args).ok(), "Images are identical.\n");
    }
    [vec![printed], description(folder, "y", options)].concat()
}

fn backed(options: &str, change: Change, preallocation: Preallocation) {
    for size in [0, 1 << 20, 5 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let both = ["ours", "theirs"].map(|name| folder.path().join(name));
        for folder in &both {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("below"), Noise(9).bytes(size)).unwrap();
        }
        let [ours, theirs] = &both;
        convert_over_backing(ours, change, preallocation);
        disk(&theirs.join("disk.raw"));
        let args = [
            "convert", "-f", "raw", "-O", "qcow2", "-B", "below", "-F", "raw",
        ];
        let args = [&args[..], &["-o", options, "disk.raw", "y"]].concat();
        qemu_img(theirs, &args).ok();
        let [ours, theirs] = both.each_ref().map(|folder| {
            let compared = qemu_img(folder, &["compare", "disk.raw", "y"]).ok();
            assert_eq!(compared, "Images are identical.\n");
            let mut described = description(folder, "y", options);
            if preallocation != Preallocation::Off {
                // cowhide keeps the clusters of zeroes.
                described.retain(|line| !line.starts_with("allocated-clusters"));
            }
            described
        });
        assert_same(&format!("over {size} bytes"), &ours, &theirs);
    }
}

/// Converts through the library.
fn convert_over_backing(folder: &Path, change: Change, preallocation: Preallocation) {
    disk(&folder.join("disk.raw"));
    let open = |name: &str| {
        let path = folder.join(name);
        drop(
            fs::File::options()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap(),
        );
        Arc::new(FileStorage::open(&path, Access::ReadWrite, CacheMode::Unsafe).unwrap())
    };
    let source = RawImage::open(open("disk.raw")).unwrap();
    let mut options = NewQcow2Options::new(source.size());
    change(&mut options);
    options.backing = Some(Backing {
        name: b"below".to_vec(),
        format: Some("raw".to_owned()),
        size: open("below").len().unwrap(),
    });
    let files = NewFiles {
        image: open("y"),
        data: options.data_file.is_some().then(|| open("data") as _),
        encryption_header: Vec::new(),
    };
    let target = match preallocation {
        Preallocation::Off => NewQcow2::create(files, options, None, false),
        mode => NewQcow2::create_preallocated(files, options, None, mode, false),
    };
    let target = target.unwrap();
    convert::copy(&source, &target, Settings::default(), &()).unwrap();
}

/// Returns the oracle's reports on a consistent image, without those that depend on host offsets.
fn description(folder: &Path, image: &str, options: &str) -> Vec<String> {
    let ask = |command: &str| -> Value {
        let args = [
            command,
            "--output=json",
            "--object",
            SECRET,
            "--image-opts",
            &spec(image, "qcow2", options.contains("encrypt")),
        ];
        serde_json::from_str(&qemu_img(folder, &args).ok()).unwrap()
    };
    let mut lines = Vec::new();
    for command in ["check", "info"] {
        let mut report = ask(command);
        let report = report.as_object_mut().unwrap();
        for name in [
            "image-end-offset",
            "fragmented-clusters",
            "actual-size",
            "children",
        ] {
            report.remove(name);
        }
        lines.extend(
            report
                .iter()
                .map(|(name, value)| format!("{name}: {value}")),
        );
    }
    lines.extend(map(&ask("map")));
    lines
}

/// Returns a line for each run of clusters of one kind. It omits holes of the file within a cluster, which depend on
/// the blocks of the file system.
fn map(extents: &Value) -> Vec<String> {
    let mut runs: Vec<(String, u64, u64)> = Vec::new();
    for extent in extents.as_array().unwrap() {
        let number = |name: &str| extent[name].as_u64().unwrap();
        let is = |name: &str| extent[name].as_bool().unwrap();
        let kind = format!(
            "depth {}, present {}, data {}, zero {}, compressed {}",
            number("depth"),
            is("present"),
            is("data"),
            is("zero") && !is("data"),
            is("compressed")
        );
        let (start, end) = (number("start"), number("start") + number("length"));
        match runs.last_mut() {
            Some((last, _, last_end)) if *last == kind => *last_end = end,
            _ => runs.push((kind, start, end)),
        }
    }
    let line = |(kind, start, end)| format!("{start} to {end}: {kind}");
    runs.into_iter().map(line).collect()
}

/// Asserts that two descriptions are the same, with a message that has their differences.
fn assert_same(what: &str, ours: &[String], theirs: &[String]) {
    let only = |these: &[String], those: &[String]| -> String {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.fold(String::new(), |text, line| text + "\n  " + line)
    };
    assert!(
        ours == theirs,
        "{what}: only ours:{}\nonly theirs:{}",
        only(ours, theirs),
        only(theirs, ours)
    );
}

fn refused() {
    for options in REFUSED {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let args = ["create", "-f", "qcow2", "-o", options, "x", "5M"];
        let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        assert_eq!(theirs.status, Some(1), "{options}: {theirs:?}");
        assert_eq!(ours.status, theirs.status, "{options}");
        assert_eq!(ours.stdout, theirs.stdout, "{options}");
        let said = ours.stderr.replace("cowhide", "qemu-img");
        assert_eq!(
            without_help(&said, &theirs.stderr),
            theirs.stderr,
            "{options}"
        );
    }
}
