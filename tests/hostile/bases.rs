//! The images to damage: one that is built here byte by byte, and the seeds of fuzzing, one of each kind. Each has
//! the other files that it needs, and its options.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::{COWHIDE, run};

pub const CLUSTER: usize = 512;

/// The kinds of images to damage, by the names of their files.
pub const KINDS: [&str; 10] = [
    "",
    "v2",
    "narrow",
    "wide",
    "zlib",
    "zstd",
    "extended",
    "aes",
    "data-file",
    "all",
];

/// Returns a version 3 image with clusters of 512 bytes and a disk of 32 KiB. It has a header, a refcount table, a
/// refcount block, an L1 table, an L2 table, and two data clusters.
fn plain() -> Vec<u8> {
    let mut bytes = vec![0; 7 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, b"\0\0\0\x09\0\0\0\0\0\0\x80\0");
    put(
        36,
        b"\0\0\0\x01\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x02\0\0\0\0\x01",
    );
    put(96, b"\0\0\0\x04\0\0\0\x68");
    put(0x200, b"\0\0\0\0\0\0\x04\0");
    put(0x400, b"\0\x01\0\x01\0\x01\0\x01\0\x01\0\x01\0\x01");
    put(0x600, b"\x80\0\0\0\0\0\x08\0");
    put(0x800, b"\x80\0\0\0\0\0\x0a\0\x80\0\0\0\0\0\x0c\0");
    put(0xa00, &[0xda; 2 * CLUSTER]);
    bytes
}

/// An image before it is damaged.
#[derive(Debug, Clone)]
pub struct Base {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    /// The contents of its disk.
    pub contents: Vec<u8>,
}

impl Base {
    fn new(kind: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut base = Self {
            kind,
            bytes: plain(),
            contents: Vec::new(),
        };
        if !kind.is_empty() {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/image");
            base.bytes = fs::read(seeds.join(kind)).unwrap();
        }
        base.write(folder.path(), &base.bytes);
        let convert = base.command("convert -O raw", "disk.raw");
        assert_eq!(run(folder.path(), COWHIDE, &convert).status, 0, "{kind}");
        base.contents = fs::read(folder.path().join("disk.raw")).unwrap();
        assert!(base.contents.iter().any(|byte| *byte != 0), "{kind}");
        base
    }

    /// Returns all images, by their kinds.
    pub fn all() -> BTreeMap<&'static str, Self> {
        let bases = KINDS.into_iter().map(|kind| (kind, Self::new(kind)));
        bases.collect()
    }

    /// Writes an image of this kind, and the files that it needs, into a folder.
    pub fn write(&self, folder: &Path, image: &[u8]) {
        fs::write(folder.join("x.qcow2"), image).unwrap();
        if self.kind == "data-file" {
            let mut data = vec![0; 64 * CLUSTER];
            data[CLUSTER..3 * CLUSTER].fill(0xda);
            fs::write(folder.join("data"), data).unwrap();
        }
        fs::write(folder.join("right.raw"), &self.contents).unwrap();
    }

    /// Returns the arguments of a command on the image, with more operands after it.
    pub fn command(&self, command: &str, operands: &str) -> Vec<String> {
        let image = if self.kind == "aes" {
            "--object secret,id=s,data=cowhide --image-opts \
             driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s"
        } else {
            "-f qcow2 x.qcow2"
        };
        let compare = match (command.starts_with("compare"), self.kind) {
            (true, "aes") => "driver=raw,file.filename=right.raw",
            (true, _) => "-F raw right.raw",
            _ => "",
        };
        let line = format!("{command} {image} {compare} {operands}");
        line.split_whitespace().map(str::to_owned).collect()
    }
}
