//! Tests of `compare`: the same result with the same offset.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, qemu_io, run, write_disk};
use crate::tools::{SECRET, ours, qemu_img, same_answer, spec, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("compare::random_differences", random_differences),
        trial("compare::sizes", sizes),
        trial("compare::strictly", strictly),
        trial("compare::strictly_in_chains", strictly_in_chains),
        trial("compare::encryption_round_trip", round_trip),
        trial("compare::damaged_images", damaged),
        trial("compare::mistakes", mistakes),
    ]
}

/// Compares in both orders, with and without `-s`.
fn same_verdicts(folder: &Path, one: &str, other: &str) {
    for options in ["compare", "compare -s", "compare -q"] {
        for names in [[one, other], [other, one]] {
            same_answer(folder, &[&words(options)[..], &names].concat());
        }
    }
}

/// Checks a disk in several formats, one of which is changed.
fn random_differences() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut noise = Noise(3);
    let size = 5 << 20;
    write_disk(&folder.join("disk.raw"), size, 1);
    let convert = |options: &str, target: &str| {
        let line = format!("convert -O qcow2 {options} disk.raw {target}");
        qemu_img(folder, &words(&line)).ok();
    };
    convert("", "plain");
    convert("-o cluster_size=512", "small");
    convert("-c", "compressed");
    convert("-o extended_l2=on", "extended");
    qemu_img(folder, &words("create -q -f qcow2 -b plain -F qcow2 above")).ok();
    let images = [
        "disk.raw",
        "plain",
        "small",
        "compressed",
        "extended",
        "above",
    ];
    for round in 0..8 {
        for other in images {
            same_verdicts(folder, "disk.raw", other);
        }
        same_verdicts(folder, "plain", "small");
        let image = images[1 + round % 5];
        if image == "plain" {
            continue;
        }
        let start = noise.below(size / 512) * 512;
        let length = (512 * (1 + noise.below(200))).min(size - start);
        let commands = [
            format!("write -P 7 {start} {length}"),
            format!("write -z {start} {length}"),
        ];
        let command = &commands[round % 2];
        qemu_io(folder, "qcow2", image, &[command]);
    }
}

fn sizes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let files = [
        ("empty", 0, None),
        ("byte", 1, Some(0)),
        ("odd", 100_001, Some(70_000)),
        ("rounded", 100_352, Some(70_000)),
        ("long", 5 << 20, Some(70_000)),
        ("longer", 9 << 20, Some((5 << 20) + 4099)),
        ("holes", 9 << 20, None),
    ];
    for (name, size, data) in files {
        let file = File::create(folder.join(name)).unwrap();
        file.set_len(size).unwrap();
        if let Some(data) = data {
            file.write_all_at(b"x", data).unwrap();
        }
    }
    for (one, ..) in files {
        for (other, ..) in files {
            same_answer(folder, &["compare", "-f", "raw", "-F", "raw", one, other]);
            same_answer(
                folder,
                &["compare", "-s", "-f", "raw", "-F", "raw", one, other],
            );
        }
    }
}

/// Checks `-s`, with which the allocation status counts.
fn strictly() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = |name: &str, options: &str, commands: &[&str]| {
        let line = format!("create -q -f qcow2 {options} {name} 70M");
        qemu_img(folder, &words(&line)).ok();
        let mut args = vec!["-f", "qcow2"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(name);
        assert_eq!(run(folder, "qemu-io", args).status, Some(0));
    };
    let pieces = ["write 35M 35M", "write 0 35M"];
    create("empty", "", &["read 0 1"]);
    create("zero", "", &["write -z 0 70M"]);
    create("full", "", &["write 0 70M"]);
    create("pieces", "", &pieces);
    create("small", "-o cluster_size=4k", &["write 0 70M"]);
    create("start", "", &["write 0 3M"]);
    create("starts", "", &["write 0 3M", "write 69M 1M"]);
    create("preallocated", "-o preallocation=metadata", &["write 0 3M"]);
    create("above", "-b empty -F qcow2", &["write 0 3M"]);
    qemu_img(folder, &words("convert -c -O qcow2 start compressed")).ok();
    qemu_img(folder, &words("convert -S 0 start raw")).ok();
    qemu_img(folder, &words("convert start sparse")).ok();
    let images = [
        "empty",
        "zero",
        "full",
        "pieces",
        "small",
        "start",
        "starts",
        "preallocated",
        "above",
        "compressed",
        "raw",
        "sparse",
    ];
    for (number, one) in images.iter().enumerate() {
        for other in &images[number..] {
            same_answer(folder, &["compare", "-s", one, other]);
        }
    }
}

/// Checks `-s` with backing chains of different cluster sizes.
fn strictly_in_chains() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = |name: &str, options: &str, writes: &[&str]| {
        let line = format!("create -q -f qcow2 {options} {name} 5M");
        qemu_img(folder, &words(&line)).ok();
        qemu_io(folder, "qcow2", name, writes);
    };
    create("full", "", &["write 0 5M"]);
    create("half", "", &["write 0 2M"]);
    create("fine", "-o cluster_size=512", &["write 0 5M"]);
    create("fine_full", "-o cluster_size=512 -b full -F qcow2", &[]);
    create(
        "fine_half",
        "-o cluster_size=512 -b half -F qcow2",
        &["write 2M 3M"],
    );
    create("over_fine", "-b fine_full -F qcow2", &[]);
    create("full_fine", "-b fine -F qcow2", &["write 0 5M"]);
    create("part_fine", "-b fine -F qcow2", &["write 1M 1M"]);
    let images = [
        "full",
        "half",
        "fine",
        "fine_full",
        "fine_half",
        "over_fine",
        "full_fine",
        "part_fine",
    ];
    let mut same = 0;
    for (number, one) in images.iter().enumerate() {
        for other in &images[number..] {
            let args = ["compare", "-s", one, other];
            same += u32::from(qemu_img(folder, &args).status == Some(0));
            same_answer(folder, &args);
        }
    }
    assert!(same > 8, "{same}");
}

fn round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3_000_320, 9);
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let args = ["convert", "-O", "qcow2", "--object", SECRET, "-o", options];
    ours(folder, &[&args[..], &["disk.raw", "x.qcow2"]].concat()).ok();
    let raw = spec("disk.raw", "raw", false);
    let image = spec("x.qcow2", "qcow2", true);
    let compare = ["compare", "--object", SECRET, "--image-opts"];
    for names in [[&raw[..], &image], [&image, &raw], [&image, &image]] {
        same_answer(folder, &[&compare[..], &names].concat());
        same_answer(folder, &[&compare[..], &["-s"], &names].concat());
    }
    std::fs::write(folder.join("pw"), "correct horse battery").unwrap();
    let line = "compare --password-file pw disk.raw x.qcow2";
    assert_eq!(ours(folder, &words(line)).ok(), "Images are identical.\n");
    std::fs::write(folder.join("pw"), "wrong").unwrap();
    let ran = ours(folder, &words(line));
    assert_eq!(ran.stdout, "Content mismatch at offset 0!\n");
    assert_eq!(ran.status, Some(1));
}

/// Checks an invalid L2 entry, for which there is no allocation status.
fn damaged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3 << 20, 9);
    qemu_img(folder, &words("convert -S 0 -O qcow2 disk.raw x.qcow2")).ok();
    let file = File::options()
        .read(true)
        .write(true)
        .open(folder.join("x.qcow2"))
        .unwrap();
    let get = |offset| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_be_bytes(bytes)
    };
    let l2 = get(get(40)) & 0x00ff_ffff_ffff_fe00;
    let entry = get(l2 + 8 * 20);
    file.write_all_at(&(entry | 0x200).to_be_bytes(), l2 + 8 * 20)
        .unwrap();
    for names in [["disk.raw", "x.qcow2"], ["x.qcow2", "disk.raw"]] {
        // The oracle sets the corrupt bit of a damaged image.
        let theirs = qemu_img(folder, &[&["compare"][..], &names].concat());
        let ours = ours(folder, &[&["compare"][..], &names].concat());
        assert_eq!(theirs.status, Some(3), "{theirs:?}");
        ours.fails(3, "Sector allocation test failed for x.qcow2");
    }
    // A difference before the damage is found first.
    let raw = File::options().write(true).open(folder.join("disk.raw"));
    raw.unwrap().write_all_at(b"\xff\0", 1_200_000).unwrap();
    same_answer(folder, &words("compare disk.raw x.qcow2"));
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a"), "x").unwrap();
    std::fs::write(folder.join("b"), "x").unwrap();
    for line in [
        "",
        "a",
        "a b c",
        "a nope",
        "nope a",
        "a /",
        "-f qcow2 a b",
        "-F qcow2 a b",
        "-f nope a b",
        "-F nope a b",
        "-T nope a b",
        "-T none a b",
        "-f raw --image-opts a b",
        "-F raw --image-opts a b",
        "-z a b",
        "--object nope a b",
    ] {
        let line = format!("compare {line}");
        let ran = qemu_img(folder, &words(&line));
        if line.ends_with("a b") && ran.status == Some(0) {
            assert_eq!(ours(folder, &words(&line)).status, Some(0), "{line}");
        } else {
            same_answer(folder, &words(&line));
        }
    }
}
