//! Tests of writes to images of the real tools: random work, and power cuts in it. Afterwards the tools find no
//! damage, the written data, and unchanged snapshots.

use std::path::Path;
use std::sync::Arc;

use cowhide::formats::raw::RawImage;
use cowhide::storage::MemoryStorage;
use libtest_mimic::Trial;

use crate::common::{run, same_contents, write_disk};
use crate::power_cut::Subject;
use crate::tools::{SECRET, qemu_img, spec, to_raw};
use crate::trial;

/// A kind of image: its name, its options, and its properties.
struct Kind {
    name: &'static str,
    options: &'static str,
    size: u64,
    snapshot: bool,
    compressed: bool,
    encrypted: bool,
    backed: bool,
    bitmaps: bool,
}

const PLAIN: Kind = Kind {
    name: "",
    options: "",
    size: 1 << 20,
    snapshot: false,
    compressed: false,
    encrypted: false,
    backed: false,
    bitmaps: false,
};

const KINDS: [Kind; 18] = [
    Kind {
        name: "snapshot_512",
        options: "cluster_size=512",
        size: 300 << 10,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "snapshot_4k_version_2",
        options: "cluster_size=4k,compat=0.10",
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "snapshot_64k",
        options: "cluster_size=64k",
        size: 4 << 20,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "snapshot_2_bits",
        options: "cluster_size=4k,refcount_bits=2",
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "compressed_4k",
        options: "cluster_size=4k",
        compressed: true,
        ..PLAIN
    },
    Kind {
        name: "compressed_64k_zstd_snapshot",
        options: "cluster_size=64k,compression_type=zstd",
        size: 3 << 20,
        compressed: true,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "encrypted_snapshot",
        options: "cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s",
        encrypted: true,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "encrypted_version_2",
        options: "cluster_size=512,compat=0.10,encrypt.format=aes,encrypt.key-secret=s",
        size: 300 << 10,
        encrypted: true,
        ..PLAIN
    },
    Kind {
        name: "backed",
        options: "cluster_size=4k",
        backed: true,
        ..PLAIN
    },
    Kind {
        name: "backed_version_2",
        options: "cluster_size=4k,compat=0.10",
        backed: true,
        ..PLAIN
    },
    Kind {
        name: "subclusters_snapshot",
        options: "cluster_size=16k,extended_l2=on",
        size: 2 << 20,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "subclusters_backed",
        options: "cluster_size=64k,extended_l2=on",
        size: 3 << 20,
        backed: true,
        ..PLAIN
    },
    Kind {
        name: "subclusters_compressed",
        options: "cluster_size=16k,extended_l2=on",
        size: 2 << 20,
        compressed: true,
        ..PLAIN
    },
    Kind {
        name: "lazy_refcounts_snapshot",
        options: "cluster_size=512,lazy_refcounts=on",
        size: 200 << 10,
        snapshot: true,
        ..PLAIN
    },
    Kind {
        name: "lazy_refcounts_bitmaps",
        options: "cluster_size=4k,lazy_refcounts=on",
        bitmaps: true,
        ..PLAIN
    },
    Kind {
        name: "subclusters_snapshot_bitmaps",
        options: "cluster_size=16k,extended_l2=on",
        snapshot: true,
        bitmaps: true,
        ..PLAIN
    },
    Kind {
        name: "lazy_subclusters_compressed_snapshot_bitmaps",
        options: "cluster_size=16k,extended_l2=on,lazy_refcounts=on,compression_type=zstd",
        size: 2 << 20,
        compressed: true,
        snapshot: true,
        bitmaps: true,
        ..PLAIN
    },
    Kind {
        name: "encrypted_backed_bitmaps",
        options: "cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s",
        encrypted: true,
        backed: true,
        bitmaps: true,
        ..PLAIN
    },
];

pub fn trials() -> Vec<Trial> {
    KINDS
        .into_iter()
        .map(|kind| trial(format!("write::{}", kind.name), move || work(&kind)))
        .collect()
}

/// Makes `x.qcow2` with data.
fn make(folder: &Path, kind: &Kind) {
    let size = kind.size.to_string();
    let mut args = vec!["create", "-q", "-f", "qcow2", "--object", SECRET];
    if !kind.options.is_empty() {
        args.extend(["-o", kind.options]);
    }
    if kind.backed {
        // The backing file is shorter than the image, and not a whole number of clusters.
        write_disk(&folder.join("base.raw"), kind.size * 3 / 4 + 512, 7);
        args.extend(["-b", "base.raw", "-F", "raw"]);
    }
    args.extend(["x.qcow2", &size]);
    qemu_img(folder, &args).ok();
    let image = spec("x.qcow2", "qcow2", kind.encrypted);
    let write = |commands: &[String]| {
        let mut args = vec!["--object", SECRET, "--image-opts", &image];
        for command in commands {
            args.extend(["-c", command]);
        }
        let wrote = run(folder, "qemu-io", &args);
        assert_eq!(wrote.status, Some(0), "{wrote:?}");
    };
    let quarter = kind.size / 4 / 512 * 512;
    let some = quarter / 3 / 512 * 512;
    write(&[
        format!("write -q -P 1 0 {quarter}"),
        format!("write -q -z {} {some}", quarter / 2 / 512 * 512),
        format!("write -q -P 2 {} {some}", 3 * quarter),
    ]);
    if kind.compressed {
        let cluster = if kind.options.contains("64k") {
            65536
        } else {
            16384
        };
        let at = quarter.next_multiple_of(cluster);
        let commands = (0..8).map(|number| {
            let at = at + number * cluster;
            format!("write -q -c -P {} {at} {cluster}", 10 + number)
        });
        write(&commands.collect::<Vec<_>>());
    }
    if kind.bitmaps {
        for args in [
            &["-g", "512", &image, "fine"][..],
            &["-g", "1M", &image, "coarse"],
            &["--disable", &image, "disabled"],
        ] {
            let add = ["bitmap", "--add", "--object", SECRET, "--image-opts"];
            qemu_img(folder, &[&add[..], args].concat()).ok();
        }
        write(&[format!("write -q -P 5 {some} {some}")]);
    }
    if kind.snapshot {
        let commands: [(&str, &[String]); 2] = [
            ("first", &[format!("write -q -P 3 512 {some}")]),
            ("second", &[format!("write -q -P 4 {} 1024", 2 * quarter)]),
        ];
        for (name, after) in commands {
            let args = [
                "snapshot",
                "--object",
                SECRET,
                "--image-opts",
                "-c",
                name,
                &image,
            ];
            qemu_img(folder, &args).ok();
            write(after);
        }
    }
}

/// Returns the contents of the snapshots, read by qemu-img.
fn snapshots(folder: &Path, kind: &Kind) -> Vec<Vec<u8>> {
    if !kind.snapshot {
        return Vec::new();
    }
    let image = spec("x.qcow2", "qcow2", kind.encrypted);
    let read = |name: &&str| {
        let args = [
            "convert",
            "--object",
            SECRET,
            "--image-opts",
            "-l",
            name,
            &image,
        ];
        qemu_img(
            folder,
            &[&args[..], &["-O", "raw", "snapshot.raw"]].concat(),
        )
        .ok();
        std::fs::read(folder.join("snapshot.raw")).unwrap()
    };
    ["first", "second"].iter().map(read).collect()
}

fn subject(folder: &Path, kind: &Kind) -> Subject {
    let backing = kind.backed.then(|| {
        let bytes = std::fs::read(folder.join("base.raw")).unwrap();
        let image = RawImage::open(Arc::new(MemoryStorage::new(bytes))).unwrap();
        Arc::new(image) as Arc<dyn cowhide::formats::Image>
    });
    let to = folder.to_owned();
    let encrypted = kind.encrypted;
    let inspect = move |bytes: &[u8]| {
        std::fs::write(to.join("cut.qcow2"), bytes).unwrap();
        // The refcounts of a dirty image may have any values: it is repaired first.
        let is_dirty = bytes[7] == 3 && bytes[79] & 1 != 0;
        let image = spec("cut.qcow2", "qcow2", encrypted);
        let mut args = vec!["check", "--object", SECRET, "--image-opts"];
        if is_dirty {
            args.extend(["-r", "all"]);
        }
        args.push(&image);
        let checked = qemu_img(&to, &args);
        // A status of 3 means leaks only.
        assert!(matches!(checked.status, Some(0 | 3)), "{checked:?}");
    };
    Subject {
        bytes: std::fs::read(folder.join("x.qcow2")).unwrap(),
        data: None,
        raw: false,
        encrypted: kind.encrypted,
        backing,
        inspect: Some((17, Box::new(inspect))),
    }
}

fn work(kind: &Kind) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, kind);
    let before = snapshots(folder, kind);
    for seed in 0..2 {
        let last = subject(folder, kind).work_and_cut(seed, 30, 40);
        std::fs::write(folder.join("x.qcow2"), &last).unwrap();
        let image = spec("x.qcow2", "qcow2", kind.encrypted);
        let args = ["check", "--object", SECRET, "--image-opts", &image];
        let report = qemu_img(folder, &args).ok();
        assert!(report.starts_with("No errors"), "{report}");
        assert!(snapshots(folder, kind) == before, "snapshots have changed");
        // Both tools read the same.
        std::fs::write(folder.join("ours.raw"), subject(folder, kind).read(last)).unwrap();
        to_raw(qemu_img, folder, &image, "theirs.raw");
        assert!(same_contents(
            &folder.join("ours.raw"),
            &folder.join("theirs.raw")
        ));
    }
}
