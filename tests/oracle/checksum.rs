//! Tests of checksums, which are compared with `sha256sum` of the raw image that qemu-img makes of the same source,
//! and of `--verify`, which is compared with its `compare`.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{run, write_disk};
use crate::tools::{SECRET, ours, qemu_img, spec, to_raw};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("checksum::of_every_kind_of_image", every_kind)]
}

/// Returns the checksums of a file by other programs.
fn checksums_of(folder: &Path, file: &str) -> [String; 2] {
    let line = run(folder, "sha256sum", [file]).ok();
    let sha256 = line.split(' ').next().unwrap().to_owned();
    let blake3 = blake3::hash(&fs::read(folder.join(file)).unwrap());
    [sha256, blake3.to_hex().to_string()]
}

fn every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), (5 << 20) + 1536, 3);
    fs::write(folder.join("odd.raw"), [7; 1000]).unwrap();
    let theirs = |args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        qemu_img(folder, &args).ok();
    };
    theirs("convert -O qcow2 -o cluster_size=512 disk.raw small.qcow2");
    theirs("convert -c -O qcow2 -o compression_type=zstd disk.raw zstd.qcow2");
    theirs("convert -c -O qcow2 -o compat=0.10 disk.raw zlib.qcow2");
    theirs("create -q -f qcow2 -b disk.raw -F raw chain.qcow2 8M");
    let wrote = [
        "-f",
        "qcow2",
        "-c",
        "write -q -P 7 3000000 100000",
        "chain.qcow2",
    ];
    assert_eq!(run(folder, "qemu-io", wrote).status, Some(0));
    theirs("create -q -f qcow2 empty.qcow2 3M");
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let mut args = vec!["convert", "--object", SECRET, "-O", "qcow2", "-o", options];
    args.extend(["disk.raw", "aes.qcow2"]);
    qemu_img(folder, &args).ok();

    for (image, format, encrypted) in [
        ("disk.raw", "raw", false),
        ("odd.raw", "raw", false),
        ("small.qcow2", "qcow2", false),
        ("zstd.qcow2", "qcow2", false),
        ("zlib.qcow2", "qcow2", false),
        ("chain.qcow2", "qcow2", false),
        ("empty.qcow2", "qcow2", false),
        ("aes.qcow2", "qcow2", true),
    ] {
        let image = spec(image, format, encrypted);
        to_raw(qemu_img, folder, &image, "theirs.raw");
        let expected = checksums_of(folder, "theirs.raw");
        for (algorithm, expected) in ["sha256", "blake3"].into_iter().zip(expected) {
            let mut args = vec!["checksum", "--object", SECRET, "--algorithm", algorithm];
            args.extend(["--image-opts", &image]);
            let line = ours(folder, &args).ok();
            assert_eq!(line, format!("{expected}  {image}\n"));
            for target in ["raw", "qcow2"] {
                let mut args = vec!["convert", "--object", SECRET, "--checksum", algorithm];
                args.extend([
                    "--verify",
                    "-q",
                    "--image-opts",
                    &image,
                    "-O",
                    target,
                    "ours",
                ]);
                let line = ours(folder, &args).ok();
                assert_eq!(line, format!("{expected}  ours\n"));
                qemu_img(folder, &["compare", "-f", target, "ours", "theirs.raw"]).ok();
            }
        }
    }
}
