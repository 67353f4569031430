//! Tests of images inside of images: any format in any other, for reading.

use std::fs;

use libtest_mimic::Trial;

use crate::common::{same_contents, write_disk};
use crate::tools::{ours, qemu_img, same_answer, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("nested::answers", answers),
        trial("nested::secrets_and_chains", secrets_and_chains),
        trial("nested::is_only_read", is_only_read),
    ]
}

const INNER: &str = "file.file.driver=file,file.file.filename";

/// Checks that reports and contents are the same for all combinations.
fn answers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 3_000_320, 11);
    let convert = |from: &str, format: &str, to: &str| {
        let args = ["convert", "-f", "raw", "-O", format, from, to];
        qemu_img(folder, &args).ok();
    };
    convert("disk", "qcow2", "in.qcow2");
    convert("in.qcow2", "qcow2", "q.qcow2");
    convert("in.qcow2", "vdi", "q.vdi");
    convert("disk", "vdi", "in.vdi");
    let images = [
        format!("driver=qcow2,file.driver=qcow2,{INNER}=q.qcow2"),
        format!("driver=qcow2,file.driver=vdi,{INNER}=q.vdi"),
        format!("file.driver=qcow2,{INNER}=q.qcow2"),
        format!("driver=raw,file.driver=qcow2,{INNER}=in.qcow2"),
        format!("driver=raw,offset=64k,size=1M,file.driver=vdi,{INNER}=in.vdi"),
        "driver=qcow2,file.driver=raw,file.file.driver=qcow2,file.file.file.filename=q.qcow2"
            .to_owned(),
    ];
    for image in &images {
        for report in [&["info"][..], &["info", "--output=json"], &["check"]] {
            same_answer(folder, &[report, &["--image-opts", image]].concat());
        }
        let convert = |to| ["convert", "--image-opts", image, "-O", "raw", to];
        qemu_img(folder, &convert("theirs")).ok();
        ours(folder, &convert("ours")).ok();
        assert!(
            same_contents(&folder.join("ours"), &folder.join("theirs")),
            "{image}"
        );
    }
    for mistake in [
        format!("driver=raw,file.driver=qcow2,file.zoo=1,{INNER}=in.qcow2"),
        format!("driver=raw,file.driver=qcow2,{INNER}=disk"),
        format!("driver=qcow2,file.driver=qcow2,{INNER}=in.qcow2"),
        format!("driver=raw,file.driver=qcow2,{INNER}=missing"),
    ] {
        for command in ["info", "map", "check"] {
            let args = [command, "--image-opts", mistake.as_str()];
            let [ours, theirs] = [ours(folder, &args), qemu_img(folder, &args)];
            assert_eq!(ours.status, theirs.status, "{args:?}: {ours:?}");
            let theirs = theirs.stderr.replace("qemu-img: ", "cowhide: ");
            assert_eq!(without_help(&ours.stderr, &theirs), theirs, "{args:?}");
        }
    }
}

/// Checks outer images that are encrypted or have a backing file.
fn secrets_and_chains() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 12);
    fs::write(folder.join("pw"), "cowhide").unwrap();
    let secret = ["--object", "secret,id=s,file=pw"];
    let aes = "encrypt.format=aes,encrypt.key-secret=s";
    let make = [
        "convert",
        secret[0],
        secret[1],
        "-O",
        "qcow2",
        "-o",
        aes,
        "disk",
        "aes.qcow2",
    ];
    qemu_img(folder, &make).ok();
    qemu_img(folder, &["convert", "-O", "qcow2", "disk", "base.qcow2"]).ok();
    let over = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "over.qcow2",
    ];
    qemu_img(folder, &over).ok();
    let encrypted =
        format!("driver=raw,file.driver=qcow2,file.encrypt.key-secret=s,{INNER}=aes.qcow2");
    let chain = format!("driver=raw,file.driver=qcow2,{INNER}=over.qcow2");
    for image in [&encrypted, &chain] {
        let args = [
            "convert",
            secret[0],
            secret[1],
            "--image-opts",
            image,
            "-O",
            "raw",
            "out",
        ];
        ours(folder, &args).ok();
        assert!(
            same_contents(&folder.join("out"), &folder.join("disk")),
            "{image}"
        );
    }
    let untrusted = ["map", "--untrusted", "--image-opts", &chain];
    let refused = ours(folder, &untrusted);
    assert!(refused.stderr.contains("no file is opened"), "{refused:?}");
}

/// Checks that writing is refused, and that nothing changes.
fn is_only_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 13);
    qemu_img(folder, &["convert", "-O", "qcow2", "disk", "in.qcow2"]).ok();
    let before = fs::read(folder.join("in.qcow2")).unwrap();
    let image = format!("driver=raw,file.driver=qcow2,{INNER}=in.qcow2");
    let args = ["convert", "-n", "--target-image-opts", "disk", &image];
    let refused = ours(folder, &args);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("only read"), "{refused:?}");
    assert_eq!(fs::read(folder.join("in.qcow2")).unwrap(), before);
}
