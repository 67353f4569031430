//! Tests of images that programs unrelated to QEMU read: the libyal libraries, with their Python modules, and 7-Zip.
//! Something that QEMU and cowhide agree on may still be wrong.
//!
//! If one of them is missing, its trial is listed as ignored.

use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::common::others;
use crate::common::{run, write_disk};
use crate::tools::{ours, words};
use crate::trial;

/// The size of the disks, in bytes.
const SIZE: u64 = (9 << 20) + 512;
/// The script that prints the size of the disk with a module of libyal, and writes the disk to `back.raw`.
const READ: &str = "
import importlib, sys
module, name = sys.argv[1:]
image = importlib.import_module(module)
image = image.handle() if module == 'pyvmdk' else image.file()
image.open(name)
if module == 'pyvmdk':
    image.open_extent_data_files()
size = image.get_media_size()
print(size)
with open('back.raw', 'wb') as back:
    while back.tell() < size:
        piece = image.read_buffer(min(size - back.tell(), 1 << 20))
        if not piece:
            sys.exit('the disk ends at %d' % back.tell())
        back.write(piece)
";
/// The interpreters that may have the modules: the one in PATH, and that of Debian's packages.
pub const PYTHONS: [&str; 2] = ["python3", "/usr/bin/python3"];

pub fn trials() -> Vec<Trial> {
    let required = others::are_required();
    let module = |module: &'static str, images: &'static [&'static str]| {
        let python = PYTHONS.into_iter().find(|python| {
            let import = format!("import {module}");
            let ran = Command::new(python).args(["-c", &import]).output();
            ran.is_ok_and(|ran| ran.status.success())
        });
        let name = format!("other_readers::{module}");
        let missing = python.is_none();
        let test = move || by_module(python.expect("no Python has the module"), module, images);
        trial(name, test).with_ignored_flag(missing && !required)
    };
    let has_seven_zip = Command::new("7zz").output().is_ok();
    let seven_zip = trial("other_readers::seven_zip", by_seven_zip);
    vec![
        module(
            "pyvmdk",
            &[
                "vmdk -o subformat=monolithicSparse",
                "vmdk -o subformat=monolithicFlat",
                "vmdk -o subformat=twoGbMaxExtentSparse",
                "vmdk -o subformat=twoGbMaxExtentFlat",
                "vmdk -o subformat=streamOptimized",
            ],
        ),
        module(
            "pyvhdi",
            &[
                "vpc -o subformat=dynamic,force_size=on",
                "vpc -o subformat=fixed,force_size=on",
                // This image has a size by its geometry.
                "vpc",
                "vhdx -o subformat=dynamic",
                "vhdx -o subformat=fixed,block_size=1M",
            ],
        ),
        module(
            "pyqcow",
            &["qcow", "qcow -c", "qcow2 -c", "qcow2 -o compat=0.10"],
        ),
        seven_zip.with_ignored_flag(!has_seven_zip && !required),
    ]
}

/// Makes `disk.raw` and an image of it for each list of options. Asserts that `read` returns the disk for each.
fn compare(images: &[&str], read: &dyn Fn(&Path, &str) -> Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), SIZE, 51);
    let disk = fs::read(folder.join("disk.raw")).unwrap();
    for image in images {
        let format = image.split(' ').next().unwrap();
        let line = format!("convert -q -f raw -O {image} disk.raw x.{format}");
        ours(folder, &words(&line)).ok();
        let back = read(folder, &format!("x.{format}"));
        let (start, rest) = back.split_at(disk.len());
        assert!(start == disk, "{image}");
        let is_rounded = *image == "vpc";
        assert!(rest.is_empty() != is_rounded, "{image}: {}", rest.len());
        assert!(rest.iter().all(|byte| *byte == 0), "{image}");
    }
}

fn by_module(python: &str, module: &str, images: &[&str]) {
    compare(images, &|folder, image| {
        let stated = run(folder, python, ["-c", READ, module, image]).ok();
        let back = fs::read(folder.join("back.raw")).unwrap();
        assert_eq!(stated.trim(), back.len().to_string(), "{image}");
        back
    });
}

fn by_seven_zip() {
    let images = [
        "vdi",
        "vdi -o static=on",
        "vmdk -o subformat=streamOptimized",
        "vpc -o force_size=on",
        "qcow2",
    ];
    compare(&images, &|folder, image| {
        let ran = run(folder, "7zz", ["e", "-bd", "-obak", image]);
        assert_eq!(ran.status, Some(0), "{image}: {ran:?}");
        let entries = fs::read_dir(folder.join("bak")).unwrap();
        let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        let [file] = files.as_slice() else {
            panic!("{image}: {files:?}");
        };
        let back = fs::read(file).unwrap();
        fs::remove_dir_all(folder.join("bak")).unwrap();
        back
    });
}
