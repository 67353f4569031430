//! Tests of the line of `create` and the reports of `info`, which are the same to the byte.

use libtest_mimic::Trial;

use crate::tools::{SECRET, Tool, ours, qemu_img, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("reports::create_prints_and_makes_the_same", creations),
        trial("reports::sizes_are_read_alike", sizes),
        trial("reports::info_of_named_options", info_of_options),
        trial(
            "reports::info_of_features_that_are_only_shown",
            shown_features,
        ),
    ]
}

fn creations() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for args in [
        &["-f", "qcow2", "x.img", "10M"][..],
        &["-f", "qcow2", "-o", "compat=v2", "x.img", "0"],
        &[
            "-fqcow2",
            "x.img",
            "-o",
            "compat=0.10,cluster_size=2M",
            "1.5G",
        ],
        &["-f", "qcow2", "-o", "size=3M", "x.img"],
        &[
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts,cluster_size=4k",
            "-o",
            "compat=1.1",
            "x.img",
            "1000",
        ],
        &["-f", "qcow2", "-o", "cluster_size=512", "x.img", "128G"],
        &["-f", "qcow2", "-o", "compression_type=zstd", "x.img", "1G"],
        &[
            "-f",
            "qcow2",
            "--object",
            SECRET,
            "-o",
            "encryption=on,encrypt.key-secret=s",
            "x.img",
            "1M",
        ],
        &[
            "-f",
            "qcow2",
            "--object",
            SECRET,
            "-o",
            "encrypt.format=aes,encrypt.key-secret=s",
            "x.img",
            "1M",
        ],
        &["-f", "raw", "x.img", "1000"],
        &["x.img", "1k"],
        &["-q", "x.img", "1k"],
        &["-f", "qcow2", "-f", "raw", "x.img", "1k"],
    ] {
        let mut made = Vec::new();
        for tool in [ours as Tool, qemu_img] {
            let _ = std::fs::remove_file(folder.join("x.img"));
            let printed = tool(folder, &[&["create"], args].concat()).ok();
            let info = qemu_img(folder, &["info", "--output=json", "x.img"]).ok();
            // The length of the file and its space on the disk may differ.
            let info: Vec<String> = info
                .lines()
                .filter(|line| !line.contains("actual-size") && !line.starts_with("       "))
                .map(str::to_owned)
                .collect();
            made.push((printed, info));
        }
        assert_eq!(made[0], made[1], "{args:?}");
    }
}

fn sizes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for size in [
        "1.3k",
        "1.7k",
        "1.0",
        "1.5",
        "1.5b",
        "1.k",
        ".5k",
        "0x10",
        "0x10k",
        " 5",
        "5 ",
        "5B",
        "5b",
        "10KB",
        "1e6",
        "+5",
        "010",
        "0x",
        "1t",
        "1.99999999999999999k",
        "9223372036854775808",
        "8E",
        "",
        "k",
        "5kk",
        "18446744073709551616",
    ] {
        let args = [
            "create",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=2M",
            "x.img",
            "--",
            size,
        ];
        let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        assert_eq!(ours.status, theirs.status, "{size:?}");
        assert_eq!(ours.stdout, theirs.stdout, "{size:?}");
        let said = ours.stderr.replace("cowhide", "qemu-img");
        let said = without_help(&said, &theirs.stderr);
        assert_eq!(said, theirs.stderr, "{size:?}");
    }
}

fn info_of_options() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = ["create", "-q", "-f", "qcow2", "--object", SECRET];
    let encrypted = [
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
        "e \"x\".qcow2",
        "1M",
    ];
    qemu_img(folder, &[&args[..], &encrypted].concat()).ok();
    for options in [
        "driver=qcow2,file.filename=e \"x\".qcow2",
        "file.filename=e \"x\".qcow2",
        "driver=qcow2,file.driver=file,file.filename=e \"x\".qcow2,encrypt.key-secret=s",
        "driver=raw,file.filename=e \"x\".qcow2",
        "driver=qcow2,encrypt.format=aes,file.filename=e \"x\".qcow2",
    ] {
        for output in ["human", "json"] {
            let output = format!("--output={output}");
            let args = ["info", &output, "--object", SECRET, "--image-opts", options];
            assert_eq!(
                ours(folder, &args).ok(),
                qemu_img(folder, &args).ok(),
                "{options}"
            );
        }
    }
}

fn shown_features() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = |args: &[&str]| {
        qemu_img(folder, &[&["create", "-q", "-f", "qcow2"], args].concat()).ok();
    };
    create(&["base.qcow2", "1M"]);
    create(&[
        "-o",
        "data_file=data.raw,data_file_raw=on",
        "data.qcow2",
        "1M",
    ]);
    create(&[
        "-o",
        "extended_l2=on,compression_type=zstd",
        "extended.qcow2",
        "1M",
    ]);
    create(&["-o", "refcount_bits=64", "wide.qcow2", "1M"]);
    create(&["-b", "base.qcow2", "-F", "qcow2", "overlay.qcow2"]);
    std::fs::create_dir(folder.join("sub")).unwrap();
    create(&[
        "-u",
        "-b",
        "../base.qcow2",
        "-F",
        "qcow2",
        "sub/overlay.qcow2",
        "1M",
    ]);
    for image in [
        "data.qcow2",
        "extended.qcow2",
        "wide.qcow2",
        "overlay.qcow2",
        "sub/overlay.qcow2",
    ] {
        for output in ["--output=human", "--output=json"] {
            let args = ["info", output, image];
            assert_eq!(
                ours(folder, &args).ok(),
                qemu_img(folder, &args).ok(),
                "{image}"
            );
        }
    }
}
