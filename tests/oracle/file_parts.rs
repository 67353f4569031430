//! Tests of the parts of its file that an image reports: of images that `qemu-img` made, and of those that nothing
//! here makes, built by hand.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cowhide::crypto::Secret;
use cowhide::formats::Format;
use cowhide::formats::driver::{Load, Parts};
use cowhide::storage::{MemoryStorage, Storage};
use libtest_mimic::Trial;

use crate::common::Noise;
use crate::covered::{Covered, covered};
use crate::tools::{qemu_img, words};
use crate::{bochs, cloop, differencing, dmg, trial, vhdx, vmdk, vpc};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("file_parts::of_full_images", full_images),
        trial("file_parts::of_images_that_are_only_read", only_read),
        trial("file_parts::of_extents_of_esx", extents_of_esx),
        trial("file_parts::of_differencing_images", differencing_images),
    ]
}

/// Returns the parts of an image in these files.
fn of(format: &str, files: &[Vec<u8>]) -> Covered {
    let storage = |bytes: &Vec<u8>| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>;
    let mut files: Vec<_> = files.iter().map(storage).collect();
    let length = files.last().unwrap().len().unwrap();
    let others = files.split_off(1);
    let mut image = Format::from_name(format)
        .unwrap()
        .load(files.remove(0), Load::Use)
        .unwrap();
    image.attach(&others).unwrap();
    let secret = Secret::new(b"horse".to_vec());
    let disk = image.open(Parts {
        files: others,
        secret: Some(&secret),
        ..Parts::default()
    });
    covered(image.as_ref(), disk.unwrap().as_ref(), length)
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

/// A disk without zeroes leaves hardly any space of the file unused.
fn full_images() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let size = 8 << 20;
    fs::write(folder.join("disk.raw"), Noise(51).bytes(size)).unwrap();
    for (format, options, most) in [
        ("raw", "", 0),
        ("qcow", "", 4096),
        ("qcow2", "", 0),
        ("qed", "", 0),
        ("vdi", "", 512),
        ("vdi", "-o static=on", 512),
        ("vpc", "-o force_size=on", 0),
        ("vpc", "-o force_size=on,subformat=fixed", 0),
        ("vhdx", "", 4 << 20),
        ("parallels", "", 1 << 20),
        ("vmdk", "", 64 << 10),
        ("vmdk", "-o subformat=streamOptimized", 128 << 10),
        (
            "luks",
            "--object secret,id=s,data=horse -o key-secret=s,iter-time=10",
            0,
        ),
    ] {
        let mut line = words("convert -f raw -O");
        line.push(format);
        line.extend(words(options));
        line.extend(["disk.raw", "x"]);
        qemu_img(folder, &line).ok();
        let found = of(format, &[read(folder, "x")]);
        assert!(found.rest <= most, "{line:?}: {found:?}");
        match options.ends_with("Optimized") {
            true => assert!(found.data == 0 && found.compressed > size as u64),
            false => assert_eq!((found.data, found.compressed), (size as u64, 0), "{line:?}"),
        }
        let first = match (format, options.ends_with("fixed")) {
            ("raw", _) => None,
            (_, true) => Some(size as u64),
            (_, false) => Some(0),
        };
        assert_eq!(found.first, first, "{line:?}");
    }
}

fn only_read() {
    // The header with four entries and two bitmaps, and the ten stored sectors of two extents of eight.
    let (image, _) = bochs::image(0x0002_0000, 16384);
    let found = of("bochs", &[image]);
    assert_eq!(
        (found.metadata, found.data, found.rest),
        (512 + 16 + 2 * 512, 10 * 512, 6 * 512)
    );
    let streams = [vec![1; 100], vec![2; 50]];
    let found = of("cloop", &[cloop::image(512, &streams)]);
    assert_eq!(
        (found.metadata, found.compressed, found.rest),
        (136 + 3 * 8, 150, 0)
    );
    let (_, image) = dmg::simple();
    let found = of("dmg", std::slice::from_ref(&image));
    assert_eq!((found.data, found.rest), (8 * 512, 0));
    assert!(found.compressed > 4 * 512 && found.metadata > 512);
}

/// The files have an image's descriptor and the extent after it.
fn extents_of_esx() {
    for (kind, bytes, metadata, data) in [
        ("VMFSSPARSE", vmdk::cowd(), 2048 + 512 + 16384, 1024),
        ("SESPARSE", vmdk::se_sparse_bytes(), 80 * 512, 8192),
    ] {
        let text = format!("{}RW 2048 {kind} \"x-delta.vmdk\"\n", vmdk::HEAD);
        let found = of("vmdk", &[text.into_bytes(), bytes]);
        assert_eq!(
            (found.metadata, found.data, found.rest),
            (metadata, data, 0),
            "{kind}"
        );
    }
}

fn differencing_images() {
    let (folder, image) = vpc::folder_with_image();
    let name = differencing::utf16("parent.vhd");
    let child = differencing::child_of(&image, &image, &name);
    let found = of("vpc", &[child]);
    // Two footers, the header, the BAT and two bitmaps. Half of the sectors of one block are in the parent, and the
    // parent's name has a sector.
    let block = 2 << 20;
    assert_eq!(
        (found.metadata, found.data, found.rest),
        (
            2 * 512 + 1024 + 512 + 2 * 512,
            block + block / 2,
            512 + block / 2
        )
    );
    drop(folder);
    let (_folder, image) = vhdx::folder_with_image();
    let linkage = "{00000000-0000-0000-0000-000000000000}";
    let child = differencing::vhdx_child(&image, linkage, "parent.vhdx");
    let before = of("vhdx", &[image]);
    let found = of("vhdx", &[child]);
    // The sector bitmap is added.
    assert_eq!(found.metadata, before.metadata + (1 << 20));
}
