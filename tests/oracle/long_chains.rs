//! Tests of backing chains of hundreds of images: they are read with little cost, and have short errors.
//!
//! The images are copies of one header with different backing file names, so that they are made quickly.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::write_disk;
use crate::tools::{ours, qemu_img, same_answer};
use crate::trial;

/// The number of images above the raw disk.
const IMAGES: usize = 400;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("long_chains::are_read", are_read),
        trial("long_chains::are_told_of_in_few_words", few_words),
        trial("long_chains::of_big_tables_are_refused", big_tables),
    ]
}

/// Makes `image0000` to `image0399`, each over the one of the number before, and the first over `below`.
fn chain(folder: &Path, below: &str) {
    let create = "create -q -u -f qcow2 -b image9999 -F qcow2 template 2M";
    qemu_img(folder, &create.split(' ').collect::<Vec<_>>()).ok();
    let template = fs::read(folder.join("template")).unwrap();
    let name = b"image9999";
    let place = template.windows(name.len()).position(|part| part == name);
    let place = place.unwrap();
    for number in 1..IMAGES {
        let mut bytes = template.clone();
        let below = format!("image{:04}", number - 1);
        bytes[place..place + name.len()].copy_from_slice(below.as_bytes());
        fs::write(folder.join(format!("image{number:04}")), bytes).unwrap();
    }
    let create = format!("create -q -u -f qcow2 -b {below} -F raw image0000 2M");
    qemu_img(folder, &create.split(' ').collect::<Vec<_>>()).ok();
}

fn are_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("raw"), 2 << 20, 1);
    chain(folder, "raw");
    let top = format!("image{:04}", IMAGES - 1);
    let top = top.as_str();
    same_answer(folder, &["map", top]);
    same_answer(folder, &["measure", "-O", "qcow2", top]);
    same_answer(folder, &["compare", top, "raw"]);
    same_answer(folder, &["compare", "-s", top, "image0000"]);
    ours(folder, &["convert", "-O", "qcow2", top, "x.qcow2"]).ok();
    qemu_img(folder, &["compare", "-q", "x.qcow2", "raw"]).ok();
}

fn few_words() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain(folder, "missing");
    let top = format!("image{:04}", IMAGES - 1);
    for command in ["map", "measure -O qcow2", "convert -O qcow2"] {
        let mut args: Vec<&str> = command.split(' ').chain([top.as_str()]).collect();
        if command.starts_with("convert") {
            args.push("x.qcow2");
        }
        let ran = ours(folder, &args);
        assert!(ran.stderr.len() < 1000, "{ran:?}");
        assert!(ran.stderr.contains("(392 more backing files)"), "{ran:?}");
        assert!(ran.stderr.contains(&top));
        ran.fails(1, "Could not open 'missing': No such file or directory");
        assert!(!folder.join("x.qcow2").exists());
    }
}

/// Checks that tables of a gigabyte are too large for a chain of any length.
fn big_tables() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The image has the largest L1 table, of 32 MiB, in a hole of the file.
    let create = "create -q -f qcow2 -o cluster_size=512 template 128G";
    qemu_img(folder, &create.split(' ').collect::<Vec<_>>()).ok();
    let count = 34;
    for number in 0..count {
        let name = format!("image{number}");
        fs::copy(folder.join("template"), folder.join(&name)).unwrap();
        if number > 0 {
            let below = format!("image{}", number - 1);
            let args = ["rebase", "-u", "-b", &below, "-F", "qcow2", &name];
            qemu_img(folder, &args).ok();
        }
    }
    let is_refused = |number: usize| {
        let name = format!("image{number}");
        let ran = ours(folder, &["measure", "-O", "qcow2", &name]);
        if ran.status == Some(0) {
            return false;
        }
        ran.fails(
            1,
            "L1 tables of the chain of backing files are larger than 1024 MiB",
        );
        true
    };
    assert!(!is_refused(30));
    assert!(is_refused(count - 1));
}
