//! Tests of new images from conversions of random images with random options: the real tools find them consistent,
//! and like their own.
//!
//! Both tools refuse with the same error. Deliberate differences are omitted (see docs/from-qemu-img.md):
//! `data_file_raw`, `-c` or preallocation with encryption. `-c` with an external data file is refused with another
//! error.
//!
//! The stored parts needn't be the same: qemu-img finds zeroes in units of 4 KiB, and cowhide in clusters. But no
//! sector may be stored that qemu-img skips. The exceptions are preallocation, of which qemu-img frees zeroes, and a
//! backing file, from which it copies more or less.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::common::Noise;
use crate::features::{bitmaps, noise};
use crate::random_images::{Made, header, make_chain};
use crate::tools::{SECRET, Tool, ours, qemu_img, spec, without_help};
use crate::trial;

/// The number of chains, and the number of images from each.
const CHAINS: u64 = 12;
const IMAGES: u64 = 3;

pub fn trials() -> Vec<Trial> {
    (0..CHAINS)
        .map(|seed| {
            trial(format!("created::seed_{seed}"), move || {
                let folder = tempfile::tempdir().unwrap();
                let mut noise = noise(1000 + seed);
                let chain = make_chain(folder.path(), &mut noise);
                for number in 0..IMAGES {
                    convert(folder.path(), &mut noise, &chain, number);
                }
            })
        })
        .collect()
}

/// The wanted image.
struct Wanted {
    options: String,
    args: Vec<String>,
    encrypted: bool,
    /// True if the tools allocate different clusters.
    allocates: bool,
}

fn choose(noise: &mut Noise, chain: &[Made]) -> Wanted {
    let mut options = Vec::new();
    let mut args = Vec::new();
    let mut one_in = |odds| noise.below(odds) == 0;
    let source = chain.last().unwrap();
    let below = chain.len().checked_sub(2).map(|below| &chain[below]);
    let old = one_in(5);
    let extended = !old && one_in(3);
    let encrypted = one_in(4);
    let backed = source.is_backed && one_in(3);
    let data_file = !old && one_in(5);
    let compressed = !encrypted && !data_file && one_in(3);
    if old {
        options.push("compat=0.10".to_owned());
    } else if one_in(6) {
        options.push("compat=1.1".to_owned());
    }
    if !old && one_in(3) {
        options.push("lazy_refcounts=on".to_owned());
    }
    if !old && one_in(3) {
        options.push("compression_type=zstd".to_owned());
    }
    if encrypted {
        options.push("encrypt.format=aes,encrypt.key-secret=s".to_owned());
    }
    if data_file {
        options.push("data_file=new.data".to_owned());
        if !encrypted && one_in(2) {
            options.push("data_file_raw=on".to_owned());
        }
    }
    if extended {
        options.push("extended_l2=on".to_owned());
    }
    if compressed {
        args.push("-c".to_owned());
    }
    if source.version_3 && one_in(3) {
        args.extend(["--bitmaps", "--skip-broken-bitmaps"].map(str::to_owned));
    }
    if let (true, Some(below)) = (backed, below) {
        args.extend(["-B", &below.name, "-F", below.format].map(str::to_owned));
    }
    // With two reasons to refuse, the tools may report different ones.
    let refused = backed && options.iter().any(|option| option == "data_file_raw=on");
    let preallocated = !encrypted && !refused && one_in(3);
    let bits = if extended {
        14 + noise.below(4)
    } else {
        9 + noise.below(9)
    };
    if noise.below(5) > 0 {
        options.push(format!("cluster_size={}", 1 << bits));
    }
    if !old && noise.below(2) == 0 {
        options.push(format!("refcount_bits={}", 1 << noise.below(7)));
    }
    if preallocated {
        let modes = ["metadata", "falloc", "full", "off"];
        options.push(format!("preallocation={}", modes[noise.pick(4)]));
    }
    Wanted {
        options: options.join(","),
        args,
        encrypted,
        allocates: preallocated || backed,
    }
}

fn convert(folder: &Path, noise: &mut Noise, chain: &[Made], number: u64) {
    let wanted = choose(noise, chain);
    let source = chain.last().unwrap();
    let mut args = vec!["convert", "-O", "qcow2", "--object", SECRET];
    args.extend(wanted.args.iter().map(String::as_str));
    if !wanted.options.is_empty() {
        args.extend(["-o", &wanted.options]);
    }
    args.extend([&source.name, "new"]);
    let made = [("ours", ours as Tool), ("theirs", qemu_img)].map(|(name, tool)| {
        let name = format!("{name}{number}");
        // Backing files and data files are named relative to the image.
        let into = folder.join(&name);
        fs::create_dir(&into).unwrap();
        for layer in fs::read_dir(folder).unwrap() {
            let layer = layer.unwrap();
            if layer.file_type().unwrap().is_file() {
                std::os::unix::fs::symlink(layer.path(), into.join(layer.file_name())).unwrap();
            }
        }
        let ran = tool(&into, &args);
        (into, ran)
    });
    let [(our, our_run), (their, their_run)] = made;
    assert_eq!(
        our_run.status, their_run.status,
        "{args:?}: {our_run:?} {their_run:?}"
    );
    if their_run.status != Some(0) {
        let said = our_run.stderr.replace("cowhide", "qemu-img");
        let said = without_help(&said, &their_run.stderr);
        let unreadable = their_run.stderr.contains("error while reading");
        assert!(
            unreadable || said == their_run.stderr,
            "{args:?}: {our_run:?} {their_run:?}"
        );
        return;
    }
    let what = format!("{args:?}");
    let image = spec("new", "qcow2", wanted.encrypted);
    let report = checked(&our, &image, "check");
    for name in ["leaks", "corruptions"] {
        assert!(report.get(name).is_none(), "{what}: {report}");
    }
    let source = format!("driver={},file.filename={}", source.format, source.name);
    let compare = [
        "compare",
        "--object",
        SECRET,
        "--image-opts",
        &image,
        &source,
    ];
    assert_eq!(
        qemu_img(&our, &compare).ok(),
        "Images are identical.\n",
        "{what}"
    );
    assert_eq!(
        header(&our.join("new")),
        header(&their.join("new")),
        "{what}"
    );
    let [our_info, their_info] = [&our, &their].map(|folder| {
        let mut info = checked(folder, &image, "info");
        let fields = info.as_object_mut().unwrap();
        for name in ["actual-size", "children"] {
            fields.remove(name);
        }
        info
    });
    assert_eq!(our_info, their_info, "{what}");
    if !wanted.allocates {
        let [ours, theirs] = [&our, &their].map(|folder| data(&checked(folder, &image, "map")));
        let more = ours
            .iter()
            .zip(&theirs)
            .position(|(our, their)| *our && !their);
        assert_eq!(more, None, "{what}: the first sector that only ours stores");
    }
    same_bits(&our.join("new"), &their.join("new"), &what);
}

/// Returns a report of qemu-img on a consistent image.
fn checked(folder: &Path, image: &str, command: &str) -> Value {
    let args = [
        command,
        "--output=json",
        "--object",
        SECRET,
        "--image-opts",
        image,
    ];
    serde_json::from_str(&qemu_img(folder, &args).ok()).unwrap()
}

/// Returns true for each sector that is stored as data, or that is in a hole that is too short to count.
fn data(map: &Value) -> Vec<bool> {
    let mut sectors = Vec::new();
    for extent in map.as_array().unwrap() {
        let length = extent["length"].as_u64().unwrap();
        let end = usize::try_from((extent["start"].as_u64().unwrap() + length) / 512).unwrap();
        sectors.resize(end, extent["data"].as_bool().unwrap() || length < 4096);
    }
    sectors
}

/// Asserts that both images have the same bitmaps with the same bits.
fn same_bits(ours: &Path, theirs: &Path, what: &str) {
    let (ours, theirs) = (bitmaps(ours), bitmaps(theirs));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!(our.bitmap.name, their.bitmap.name, "{what}");
        assert!(our.bits == their.bits, "{what}: {:?}", our.bitmap);
    }
}
