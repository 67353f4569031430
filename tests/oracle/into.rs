//! Tests of `convert -n` into images of the real tools: the data is written, all else is unchanged, and damaged or
//! protected images aren't written.

use libtest_mimic::Trial;

use crate::common::{real_disk, run, write_disk};
use crate::tools::{SECRET, ours, qemu_img, spec, to_raw};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("into::what_nobody_knows_stays", unknown_extension),
        trial("into::a_corrupt_image_is_left_alone", corrupt),
        trial("into::damage_is_found_in_time", damaged),
        trial("into::what_was_not_closed_is_repaired", not_closed),
        trial("into::never_compressed", never_compressed),
    ];
    for raw in ["on", "off"] {
        let name = format!("into::external_data_file_raw_{raw}");
        trials.push(trial(name, move || external_data_file(raw)));
    }
    for options in [
        "cluster_size=512",
        "cluster_size=64k,compression_type=zstd",
        "cluster_size=2M",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=4k,compat=0.10",
        "cluster_size=16k,extended_l2=on,lazy_refcounts=on",
    ] {
        let name = format!("into::compressing_{options}");
        trials.push(trial(name, move || compress_into(options)));
    }
    for encrypted in [false, true] {
        for cluster_size in ["512", "64k", "2M"] {
            let kind = if encrypted { "aes" } else { "plain" };
            let name = format!("into::copying_{cluster_size}_{kind}");
            trials.push(trial(name, move || convert_into(cluster_size, encrypted)));
        }
    }
    trials
}

/// Checks that an unknown header extension and the feature name table are kept byte for byte.
fn unknown_extension() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x.qcow2", "1M"]).ok();
    let path = folder.join("x.qcow2");
    let mut bytes = std::fs::read(&path).unwrap();
    // The extension is inserted before the feature name table, which starts after the header.
    let length = u32::from_be_bytes(bytes[100..104].try_into().unwrap()) as usize;
    let rest = bytes[length..length + 1024].to_vec();
    let extension = [&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5][..], b"mooo!\0\0\0"].concat();
    bytes.splice(length..length + 1024 + 16, [extension, rest].concat());
    std::fs::write(&path, &bytes).unwrap();
    let header = bytes[..65536].to_vec();
    std::fs::write(folder.join("data.raw"), vec![7; 1 << 20]).unwrap();
    let args = ["convert", "-n", "-O", "qcow2", "data.raw", "x.qcow2"];
    ours(folder, &args).ok();
    assert!(std::fs::read(&path).unwrap()[..65536] == header);
    let args = ["compare", "data.raw", "x.qcow2"];
    assert_eq!(qemu_img(folder, &args).ok(), "Images are identical.\n");
}

/// Checks that the corrupt bit prevents writing with both tools.
fn corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x.qcow2", "1M"]).ok();
    std::fs::write(folder.join("data.raw"), vec![7; 1 << 20]).unwrap();
    let path = folder.join("x.qcow2");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[79] |= 2;
    std::fs::write(&path, &bytes).unwrap();
    let args = ["convert", "-n", "-O", "qcow2", "data.raw", "x.qcow2"];
    let message = "Could not open 'x.qcow2': qcow2: Image is corrupt; cannot be opened read/write";
    for tool in [ours, qemu_img] {
        let refused = tool(folder, &args);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// A damage to an image.
type Damage = fn(&mut Vec<u8>);

/// Checks that each kind of damage is found before anything is written.
fn damaged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("x.qcow2");
    std::fs::write(folder.join("data.raw"), vec![7; 1 << 20]).unwrap();
    let damages: [(&str, Damage); 4] = [
        ("an L2 entry leads to the header", |bytes| {
            let l2 = entry(bytes, 3 * 65536);
            bytes[l2..l2 + 8].copy_from_slice(&(1u64 << 63).to_be_bytes());
            bytes[l2 + 6] = 0;
            bytes[l2 + 5] = 1;
        }),
        ("the L1 entry leads to the refcount table", |bytes| {
            bytes[3 * 65536..3 * 65536 + 8].copy_from_slice(&(1u64 << 63 | 65536).to_be_bytes());
        }),
        ("a refcount is too low", |bytes| {
            let block = entry(bytes, 65536);
            bytes[block + 8..block + 10].fill(0);
        }),
        ("an L2 entry has reserved bits", |bytes| {
            let l2 = entry(bytes, 3 * 65536);
            bytes[l2] |= 0x20;
        }),
    ];
    for (what, damage) in damages {
        qemu_img(folder, &["create", "-q", "-f", "qcow2", "x.qcow2", "1M"]).ok();
        let wrote = run(folder, "qemu-io", ["-c", "write -q 0 128k", "x.qcow2"]);
        assert_eq!(wrote.status, Some(0), "{wrote:?}");
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let args = ["convert", "-n", "-O", "qcow2", "data.raw", "x.qcow2"];
        let refused = ours(folder, &args);
        assert_eq!(refused.status, Some(1), "{what}: {refused:?}");
        assert!(
            refused.stderr.contains("Could not open 'x.qcow2'"),
            "{what}: {refused:?}"
        );
        assert!(std::fs::read(&path).unwrap() == bytes, "{what}: written to");
    }
}

/// Returns the offset in the table entry at `at`.
fn entry(bytes: &[u8], at: usize) -> usize {
    let entry = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap()
}

/// Checks `convert -n -c` twice: into an empty image, and over the result (which qemu-img can't).
fn compress_into(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = [
        "create", "-q", "-f", "qcow2", "-o", options, "x.qcow2", "6M",
    ];
    qemu_img(folder, &args).ok();
    let mut snapshot = Vec::new();
    for round in 0..2u8 {
        let text = format!("A line of text, {round}, that is there many times. ");
        let mut disk: Vec<u8> = text.bytes().cycle().take(5 << 20).collect();
        disk.extend(vec![0; 1 << 20]);
        disk[1 << 20..][..300_000].copy_from_slice(&crate::common::Noise(3).bytes(300_000));
        disk[3 << 20..][..300_000].fill(0);
        // The second disk ends within a cluster, and data beyond it stays.
        let end = if round == 0 {
            disk.len()
        } else {
            (4 << 20) + 512
        };
        std::fs::write(folder.join("disk.raw"), &disk[..end]).unwrap();
        let args = ["convert", "-n", "-c", "-f", "raw", "-O", "qcow2"];
        ours(folder, &[&args[..], &["disk.raw", "x.qcow2"]].concat()).ok();
        let report = qemu_img(folder, &["check", "x.qcow2"]).ok();
        assert!(report.starts_with("No errors"), "{report}");
        assert!(!report.contains(" 0.00% compressed"), "{report}");
        to_raw(
            qemu_img,
            folder,
            "driver=qcow2,file.filename=x.qcow2",
            "theirs.raw",
        );
        let theirs = std::fs::read(folder.join("theirs.raw")).unwrap();
        assert!(theirs[..end] == disk[..end], "round {round}");
        if round == 0 {
            snapshot = disk;
            if !options.contains("refcount_bits=1") {
                qemu_img(folder, &["snapshot", "-c", "first", "x.qcow2"]).ok();
            }
        } else {
            assert!(theirs[end..] == snapshot[end..]);
        }
    }
    if !options.contains("refcount_bits=1") {
        let args = ["convert", "-l", "first", "x.qcow2", "snapshot.raw"];
        qemu_img(folder, &args).ok();
        assert!(std::fs::read(folder.join("snapshot.raw")).unwrap() == snapshot);
    }
}

/// Checks that no compressed clusters are written into an encrypted image (where qemu-img writes plaintext), into an
/// external data file, or into a raw image.
fn never_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("disk.raw"), vec![7; 1 << 20]).unwrap();
    let encryption = "encrypt.format=aes,encrypt.key-secret=s";
    for options in [encryption, "data_file=x.data"] {
        let create = ["create", "-q", "-f", "qcow2", "--object", SECRET, "-o"];
        qemu_img(folder, &[&create[..], &[options, "x.qcow2", "1M"]].concat()).ok();
        let before = std::fs::read(folder.join("x.qcow2")).unwrap();
        let image = spec("x.qcow2", "qcow2", options == encryption);
        let args = [
            "convert",
            "-n",
            "-c",
            "--object",
            SECRET,
            "--target-image-opts",
        ];
        let refused = ours(folder, &[&args[..], &["disk.raw", &image]].concat());
        refused.fails(1, "not supported at the same time");
        let args = ["convert", "-n", "-c", "-O", "qcow2", "disk.raw", "x.qcow2"];
        ours(folder, &args).fails(1, "not supported at the same time");
        assert!(std::fs::read(folder.join("x.qcow2")).unwrap() == before);
    }
    std::fs::write(folder.join("x.raw"), vec![0; 1 << 20]).unwrap();
    crate::tools::same_answer(
        folder,
        &["convert", "-n", "-c", "-O", "raw", "disk.raw", "x.raw"],
    );
}

/// Checks that `convert -n` writes the source's contents, and doesn't change data beyond them.
fn convert_into(cluster_size: &str, encrypted: bool) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut options = format!("cluster_size={cluster_size}");
    if encrypted {
        options.push_str(",encrypt.format=aes,encrypt.key-secret=s");
    }
    let disk = real_disk();
    let length = std::fs::metadata(&disk).unwrap().len();
    let size = (length + 300_000) / 512 * 512;
    let args = [
        "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", &options,
    ];
    let size_text = size.to_string();
    qemu_img(folder, &[&args[..], &["x.qcow2", &size_text]].concat()).ok();
    let image = spec("x.qcow2", "qcow2", encrypted);
    let fill = format!("write -q -P 5 0 {size}");
    let args = ["--object", SECRET, "--image-opts", &image, "-c", &fill];
    let wrote = run(folder, "qemu-io", args);
    assert_eq!(wrote.status, Some(0), "{wrote:?}");
    std::fs::write(folder.join("password"), "correct horse battery").unwrap();
    let mut args = vec!["convert", "-n", "-O", "qcow2"];
    if encrypted {
        args.extend(["-q", "--password-file", "password"]);
    }
    args.extend([disk.to_str().unwrap(), "x.qcow2"]);
    ours(folder, &args).ok();
    let args = ["check", "--object", SECRET, "--image-opts", &image];
    let report = qemu_img(folder, &args).ok();
    assert!(report.starts_with("No errors"), "{report}");
    to_raw(qemu_img, folder, &image, "back.raw");
    let back = std::fs::read(folder.join("back.raw")).unwrap();
    let (written, beyond) = back.split_at(usize::try_from(length).unwrap());
    assert!(written == std::fs::read(&disk).unwrap());
    let rounded = usize::try_from(length.next_multiple_of(512) - length).unwrap();
    assert!(beyond[rounded..].iter().all(|byte| *byte == 5));
}

/// Checks that data in an external data file is at its guest offset, and that with `data_file_raw` the file is a
/// complete raw image.
fn external_data_file(raw: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("data_file=data,data_file_raw={raw}");
    let args = [
        "create", "-q", "-f", "qcow2", "-o", &options, "x.qcow2", "6M",
    ];
    qemu_img(folder, &args).ok();
    let fill = [
        "-c",
        "write -q -P 5 1M 2M",
        "-c",
        "write -q -P 6 5M 1M",
        "x.qcow2",
    ];
    let wrote = run(folder, "qemu-io", fill);
    assert_eq!(wrote.status, Some(0), "{wrote:?}");
    write_disk(&folder.join("disk.raw"), 4 << 20, 3);
    ours(
        folder,
        &["convert", "-n", "-O", "qcow2", "disk.raw", "x.qcow2"],
    )
    .ok();
    let report = qemu_img(folder, &["check", "x.qcow2"]).ok();
    assert!(report.starts_with("No errors"), "{report}");
    to_raw(
        qemu_img,
        folder,
        &spec("x.qcow2", "qcow2", false),
        "back.raw",
    );
    let back = std::fs::read(folder.join("back.raw")).unwrap();
    let (written, beyond) = back.split_at(4 << 20);
    assert!(written == std::fs::read(folder.join("disk.raw")).unwrap());
    let (zero, six) = beyond.split_at(1 << 20);
    assert!(zero.iter().all(|byte| *byte == 0) && six.iter().all(|byte| *byte == 6));
    if raw == "on" {
        assert!(std::fs::read(folder.join("data")).unwrap() == back);
        assert_eq!(std::fs::read(folder.join("x.qcow2")).unwrap()[95], 2);
    }
}

/// Checks that the refcounts of a dirty image with lazy refcounts are repaired first.
fn not_closed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "lazy_refcounts=on",
        "x.qcow2",
        "4M",
    ];
    qemu_img(folder, &args).ok();
    run(
        folder,
        "qemu-io",
        [
            "-c",
            "write -q -P 5 1M 2M",
            "-c",
            "flush",
            "-c",
            "abort",
            "x.qcow2",
        ],
    );
    assert_eq!(
        std::fs::read(folder.join("x.qcow2")).unwrap()[79],
        1,
        "not dirty"
    );
    write_disk(&folder.join("disk.raw"), 2 << 20, 3);
    ours(
        folder,
        &["convert", "-n", "-O", "qcow2", "disk.raw", "x.qcow2"],
    )
    .ok();
    assert_eq!(std::fs::read(folder.join("x.qcow2")).unwrap()[79], 0);
    let report = qemu_img(folder, &["check", "x.qcow2"]).ok();
    assert!(report.starts_with("No errors"), "{report}");
    to_raw(
        qemu_img,
        folder,
        &spec("x.qcow2", "qcow2", false),
        "back.raw",
    );
    let back = std::fs::read(folder.join("back.raw")).unwrap();
    assert!(back[..2 << 20] == std::fs::read(folder.join("disk.raw")).unwrap());
    assert!(back[2 << 20..3 << 20].iter().all(|byte| *byte == 5));
    assert!(back[3 << 20..].iter().all(|byte| *byte == 0));
}
