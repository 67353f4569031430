//! `check`'s verdicts on damaged images: the same exit status and the same counts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use libtest_mimic::Trial;

use crate::common::{qemu_io, write_disk};
use crate::tools::{Tool, ours, qemu_img};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("check::leak_is_3", || {
            damaged(3, &|image| {
                // Nothing refers to the first data cluster any more.
                put64(image, get64(image, get64(image, 40)) & OFFSET, 0);
            })
        }),
        trial("check::refcount_too_high_is_3", || {
            damaged(3, &|image| {
                // Of the L2 table; the flag that says that it is exactly 1 goes too.
                let l1 = get64(image, 40);
                let l2 = get64(image, l1) & OFFSET;
                put16(image, refcount_offset(image, l2 / 4096), 2);
                put64(image, l1, l2);
            })
        }),
        trial("check::refcount_zero_is_2", || {
            damaged(2, &|image| {
                put16(image, refcount_offset(image, 6), 0);
            })
        }),
        trial("check::missing_copied_flag_is_2", || {
            damaged(2, &|image| {
                let l2 = get64(image, get64(image, 40)) & OFFSET;
                put64(image, l2, get64(image, l2) & !(1 << 63));
            })
        }),
        trial("check::cluster_used_twice_is_2", || {
            damaged(2, &|image| {
                let l2 = get64(image, get64(image, 40)) & OFFSET;
                put64(image, l2 + 8, get64(image, l2));
            })
        }),
        trial("check::unaligned_cluster_is_2", || {
            damaged(2, &|image| {
                let l2 = get64(image, get64(image, 40)) & OFFSET;
                put64(image, l2, get64(image, l2) + 512);
            })
        }),
        trial("check::statuses_without_a_report", statuses),
        trial("check::reports_of_all_kinds_of_images", kinds),
        trial("check::repairs_as_qemu_img_does", repairs),
        trial("check::words_for_what_is_cut_off", cut_off),
    ]
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn get64(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_be_bytes(bytes)
}

fn put64(file: &File, offset: u64, value: u64) {
    file.write_all_at(&value.to_be_bytes(), offset).unwrap();
}

fn put16(file: &File, offset: u64, value: u16) {
    file.write_all_at(&value.to_be_bytes(), offset).unwrap();
}

/// Where the refcount of a cluster stands, in the first refcount block.
fn refcount_offset(file: &File, cluster: u64) -> u64 {
    get64(file, get64(file, 48)) + cluster * 2
}

/// Damages an image that qemu-img made and one of ours, and compares what both tools say of each.
fn damaged(status: i32, damage: &dyn Fn(&File)) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_000, 1);
    for maker in [ours as Tool, qemu_img] {
        let args = [
            "convert",
            "-O",
            "qcow2",
            "-o",
            "cluster_size=4k",
            "disk.raw",
            "x.qcow2",
        ];
        maker(folder, &args).ok();
        let image = File::options()
            .read(true)
            .write(true)
            .open(folder.join("x.qcow2"))
            .unwrap();
        damage(&image);
        for output in ["--output=human", "--output=json"] {
            let args = ["check", output, "x.qcow2"];
            let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
            assert_eq!(theirs.status, Some(status), "the oracle: {theirs:?}");
            assert_eq!(ours.status, Some(status), "{ours:?}");
            assert_eq!(ours.stdout, theirs.stdout);
            assert_eq!(
                ours.stderr.lines().count(),
                theirs
                    .stderr
                    .lines()
                    .filter(|line| !line.is_empty())
                    .count(),
                "{ours:?} {theirs:?}"
            );
        }
    }
}

fn statuses() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_000, 1);
    std::fs::write(folder.join("bad.qcow2"), b"QFI\xfb\0\0\0\x09").unwrap();
    for (name, status) in [("disk.raw", 63), ("missing", 1), ("bad.qcow2", 1), (".", 1)] {
        let (ours, theirs) = (
            ours(folder, &["check", name]),
            qemu_img(folder, &["check", name]),
        );
        assert_eq!(theirs.status, Some(status), "the oracle: {theirs:?}");
        assert_eq!(ours.status, Some(status), "{ours:?}");
        assert_eq!(ours.stdout, theirs.stdout);
    }
}

/// Images with everything that a check has to count.
fn make_kinds(folder: &std::path::Path) -> Vec<&'static str> {
    let kinds = [
        ("plain", "cluster_size=64k"),
        ("one-bit", "cluster_size=512,refcount_bits=1"),
        ("wide", "cluster_size=4k,refcount_bits=64"),
        ("old", "cluster_size=4k,compat=0.10"),
        ("extended", "cluster_size=16k,extended_l2=on"),
        ("preallocated", "cluster_size=4k,preallocation=metadata"),
        ("external", "cluster_size=4k,data_file=data.raw"),
        ("snapshots", "cluster_size=4k"),
    ];
    let io = |image, commands: &[&str]| qemu_io(folder, "qcow2", image, commands);
    for (name, options) in kinds {
        qemu_img(
            folder,
            &["create", "-q", "-f", "qcow2", "-o", options, name, "4M"],
        )
        .ok();
        io(
            name,
            &["write -P 1 0 70k", "write -P 2 1M 200k", "write -z 2M 128k"],
        );
    }
    let qemu = |args: &str| qemu_img(folder, &args.split(' ').collect::<Vec<_>>()).ok();
    qemu("snapshot -c s1 snapshots");
    io("snapshots", &["write -P 7 32k 100k"]);
    qemu("snapshot -c s2 snapshots");
    qemu("bitmap --add -g 512 snapshots b");
    io("snapshots", &["write -P 7 900k 10k"]);
    qemu("convert -c -O qcow2 -o cluster_size=4k snapshots compressed");
    kinds
        .iter()
        .map(|(name, _)| *name)
        .chain(["compressed"])
        .collect()
}

fn kinds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in make_kinds(folder) {
        for output in ["--output=human", "--output=json"] {
            let args = ["check", output, name];
            assert_eq!(
                ours(folder, &args).ok(),
                qemu_img(folder, &args).ok(),
                "{name}"
            );
        }
    }
}

/// Its name, what `-r` is to repair, and how it is done.
type RepairableDamage = (&'static str, &'static str, fn(&File));

/// The same damage is repaired by both tools: they report the same, each calls the result clean, and
/// the data is what it was.
fn repairs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let damages: [RepairableDamage; 5] = [
        ("leak", "leaks", |image| {
            put64(image, get64(image, 48) + 8 * 7, 0);
            put16(image, refcount_offset(image, 300), 1);
        }),
        ("too low", "all", |image| {
            put16(image, refcount_offset(image, 1), 2)
        }),
        ("copied", "all", |image| {
            let l1 = get64(image, 40);
            put64(image, l1, get64(image, l1) & !(1 << 63));
        }),
        ("refcount 0", "all", |image| {
            put16(image, refcount_offset(image, 6), 0)
        }),
        ("no block", "all", |image| put64(image, get64(image, 48), 0)),
    ];
    write_disk(&folder.join("disk.raw"), 3_000_000, 1);
    for (name, what, damage) in damages {
        for format in ["human", "json"] {
            let create = "convert -O qcow2 -o cluster_size=4k disk.raw x.qcow2";
            qemu_img(folder, &create.split(' ').collect::<Vec<_>>()).ok();
            let mut options = File::options();
            let image = options.read(true).write(true);
            damage(&image.open(folder.join("x.qcow2")).unwrap());
            std::fs::copy(folder.join("x.qcow2"), folder.join("y.qcow2")).unwrap();
            let output = format!("--output={format}");
            let ours = ours(folder, &["check", "-r", what, &output, "x.qcow2"]);
            let theirs = qemu_img(folder, &["check", "-r", what, &output, "y.qcow2"]);
            assert_eq!(theirs.status, Some(0), "{name}: {theirs:?}");
            let end = |line: &&str| !line.contains("nd offset") && !line.contains("nd-offset");
            let lines = |text: &str| {
                let text = text.replace("y.qcow2", "x.qcow2");
                text.lines()
                    .filter(end)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(ours.status, Some(0), "{name}: {ours:?}");
            // New refcount structures needn't be in the same place.
            assert_eq!(
                lines(&ours.stdout),
                lines(&theirs.stdout),
                "{name}: {ours:?}"
            );
            let clean = qemu_img(folder, &["check", "x.qcow2"]).ok();
            assert!(clean.contains("No errors"), "{clean}");
            qemu_img(folder, &["compare", "-q", "x.qcow2", "disk.raw"]).ok();
        }
    }
}

/// Scripts look for these words in what is said of a file that isn't all there.
fn cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let convert = "convert -O qcow2 -o cluster_size=4k disk.raw whole";
    write_disk(&folder.join("disk.raw"), 3 << 20, 8);
    ours(folder, &convert.split(' ').collect::<Vec<_>>()).ok();
    let whole = std::fs::read(folder.join("whole")).unwrap();
    let words = |tool: Tool| {
        let ran = tool(folder, &["check", "x"]);
        let lines = ran.stderr.lines();
        let lines =
            lines.filter(|line| line.contains("counting reference") || line.contains("outside"));
        // Ours go on to say what it is that leads there.
        let mut lines: Vec<String> = lines
            .map(|line| line.split(" (").next().unwrap_or_default().to_owned())
            .collect();
        lines.sort();
        lines
    };
    let mut said = 0;
    for clusters in [2, 3, 4, 5, 6, 8, 12, 20] {
        for more in [0, 100, 512, 4000] {
            let length = (clusters * 4096 + more).min(whole.len());
            std::fs::write(folder.join("x"), &whole[..length]).unwrap();
            let theirs = words(qemu_img);
            assert_eq!(words(ours), theirs, "cut off after {length} bytes");
            said += theirs.len();
        }
    }
    assert!(said > 50, "{said}");
}
