//! Images with features combined at random, made by the real tools and read here.
//!
//! The seed is the test's name, so that a failure can be had again.

use std::fmt::Write as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, run, same_contents, write_disk};
use crate::matrix::{ours, qemu_img, same_answer};
use crate::trial;

/// How many images are made.
const IMAGES: u64 = 40;

pub fn trials() -> Vec<Trial> {
    (0..IMAGES)
        .map(|seed| trial(format!("features::seed_{seed}"), move || read(seed)))
        .collect()
}

fn read(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut noise = Noise(seed);
    for _ in 0..10 {
        noise.next();
    }
    let top = make_chain(folder, &mut noise);
    // What it holds, what it held when its snapshot was taken, and two disks as one.
    for args in [&[][..], &["-l", "early"], &["layer0"]] {
        let args = [&["convert", "-O", "raw"], args, &[&top]].concat();
        let theirs = qemu_img(folder, &[&args[..], &["theirs.raw"]].concat());
        if theirs.status == Some(0) {
            ours(folder, &[&args[..], &["ours.raw"]].concat()).ok();
            let same = same_contents(&folder.join("ours.raw"), &folder.join("theirs.raw"));
            assert!(same, "{args:?}: {}", description(folder, &top));
        } else {
            // No such snapshot; or the tools have damaged their own image (a compressed cluster
            // overwritten after a snapshot), and then it is as unreadable to us, at the same place.
            let message = theirs.stderr.trim_start_matches("qemu-img: ").trim_end();
            let message = message.trim_end_matches(": Input/output error");
            ours(folder, &[&args[..], &["ours.raw"]].concat()).fails(1, message);
        }
    }
    for options in [&["compare"][..], &["compare", "-s"]] {
        for names in [[&top[..], "theirs.raw"], ["layer0", &top]] {
            let args = [options, &names].concat();
            let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
            // Of an image that can't be read, the reason is told in other words.
            assert_eq!(ours.status, theirs.status, "{args:?}: {ours:?}");
            assert_eq!(ours.stdout, theirs.stdout, "{args:?}: {ours:?}");
        }
    }
    for output in ["--output=human", "--output=json"] {
        let args = ["info", "--backing-chain", output, &top];
        assert_eq!(ours(folder, &args).ok(), qemu_img(folder, &args).ok());
        same_answer(folder, &["map", output, &top]);
        same_answer(folder, &["measure", "-O", "qcow2", output, &top]);
    }
}

/// What the tools say of an image, for messages.
fn description(folder: &Path, top: &str) -> String {
    let info = qemu_img(folder, &["info", "--backing-chain", top]);
    let map = qemu_img(folder, &["map", "--output=json", top]);
    format!("{}\n{}", info.stdout, map.stdout)
}

/// Makes an image with up to two backing files and returns its name.
fn make_chain(folder: &Path, noise: &mut Noise) -> String {
    let layers = 1 + noise.below(3);
    let mut below: Option<(String, &str)> = None;
    for number in 0..layers {
        let size = 512 * (1 + noise.below(6000));
        let name = format!("layer{number}");
        if number == 0 && layers > 1 && noise.below(3) == 0 {
            write_disk(&folder.join(&name), size, noise.next());
            below = Some((name, "raw"));
            continue;
        }
        make_layer(folder, noise, &name, size, below.as_ref());
        below = Some((name, "qcow2"));
    }
    below.unwrap().0
}

/// Makes one qcow2 image and writes into it.
fn make_layer(
    folder: &Path,
    noise: &mut Noise,
    name: &str,
    size: u64,
    below: Option<&(String, &str)>,
) {
    let version_2 = noise.below(4) == 0;
    let extended = !version_2 && noise.below(2) == 0;
    let bits = if extended {
        14 + noise.below(4)
    } else {
        9 + noise.below(9)
    };
    let mut options = format!("cluster_size={}", 1u64 << bits);
    if version_2 {
        options.push_str(",compat=0.10");
    } else {
        let width = 1 << noise.below(7);
        write!(options, ",refcount_bits={width}").unwrap();
        for (option, odds) in [("lazy_refcounts=on", 3), ("compression_type=zstd", 2)] {
            if noise.below(odds) == 0 {
                write!(options, ",{option}").unwrap();
            }
        }
    }
    if extended {
        options.push_str(",extended_l2=on");
    }
    let data_file = !version_2 && noise.below(5) == 0;
    if data_file {
        write!(options, ",data_file={name}.data").unwrap();
    }
    let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
    if let Some((backing, format)) = below {
        args.extend(["-b", backing, "-F", format]);
    }
    let size_text = size.to_string();
    args.extend([name, &size_text]);
    qemu_img(folder, &args).ok();

    write_at_random(folder, noise, name, size, bits, data_file);
    if noise.below(3) == 0 {
        // A snapshot needs refcounts of 2, which the narrowest can't hold.
        qemu_img(folder, &["snapshot", "-c", "early", name]);
        write_at_random(folder, noise, name, size, bits, data_file);
    }
}

/// Writes data, zeroes and compressed clusters into an image, and discards some of it.
fn write_at_random(
    folder: &Path,
    noise: &mut Noise,
    name: &str,
    size: u64,
    bits: u64,
    data_file: bool,
) {
    let mut commands = Vec::new();
    for _ in 0..2 + noise.below(12) {
        let start = 512 * noise.below(size / 512);
        let length = 512 * (1 + noise.below(300));
        let length = length.min(size - start);
        let pattern = 1 + noise.below(255);
        let command = match noise.below(7) {
            0 => format!("write -z {start} {length}"),
            1 => format!("write -z -u {start} {length}"),
            2 => format!("discard {start} {length}"),
            // Compressed clusters are written whole, or at the disk's end.
            3 if !data_file => {
                let cluster = 1 << bits;
                let start = start / cluster * cluster;
                let length = cluster.min(size - start);
                format!("write -c -P {pattern} {start} {length}")
            }
            _ => format!("write -P {pattern} {start} {length}"),
        };
        commands.extend(["-c".to_owned(), command]);
    }
    commands.push(name.to_owned());
    let args = ["-f".to_owned(), "qcow2".to_owned()];
    let wrote = run(folder, "qemu-io", args.iter().chain(&commands));
    // What a version can't do (such as discarding into a hole) fails on its own and harms nothing.
    assert!(wrote.status.is_some(), "{wrote:?}");
}
