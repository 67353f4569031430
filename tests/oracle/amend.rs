//! Tests of `amend`: both tools set the same options of copies of one image.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Ran, qemu_io, same_contents, write_disk};
use crate::tools::{Tool, ours, qemu_img, same_answer, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("amend::key_slots", key_slots),
        trial("amend::refusals", refusals),
        trial("amend::lazy_refcounts", lazy_refcounts),
        trial("amend::newer_and_larger", newer_and_larger),
        trial("amend::older", older),
        trial("amend::too_new", too_new),
        trial("amend::data_files", data_files),
        trial("amend::refcounts", refcounts),
    ]
}

const SECRETS: [&str; 6] = [
    "--object",
    "secret,id=s,data=correct horse",
    "--object",
    "secret,id=n,data=battery staple",
    "--object",
    "secret,id=b,data=wrong",
];

fn call(tool: Tool, folder: &Path, line: &str) -> Ran {
    let words: Vec<&str> = line.split_whitespace().chain(SECRETS).collect();
    tool(folder, &words)
}

/// Returns the options that name an image, with its secret if it has one.
fn node(image: &str, secret: &str) -> String {
    match image {
        "luks" => format!("driver=luks,file.filename=luks,key-secret={secret}"),
        "qcow2" => format!("driver=qcow2,file.filename=qcow2,encrypt.key-secret={secret}"),
        _ => format!("driver=qcow2,file.filename={image}"),
    }
}

/// Asserts that both tools give the same answer for copies of an image, and that a refusal changes nothing.
fn same_change(folder: &Path, image: &str, change: &str) {
    let before = fs::read(folder.join(image)).unwrap();
    let line = format!("amend {change} --image-opts {}", node(image, "s"));
    let theirs = call(qemu_img, folder, &line);
    fs::write(folder.join(image), &before).unwrap();
    let ours = call(ours, folder, &line);
    assert_eq!(ours.stdout, theirs.stdout, "{change}");
    assert_eq!(ours.status, theirs.status, "{change}: {ours:?}");
    let complaint = theirs.stderr.replace("qemu-img", "cowhide");
    let complaint = complaint.replace("'cowhide rebase'", "'qemu-img rebase'");
    assert_eq!(
        without_help(&ours.stderr, &complaint),
        complaint,
        "{change}"
    );
    if ours.status != Some(0) {
        assert!(fs::read(folder.join(image)).unwrap() == before, "{change}");
    }
}

/// Checks that passwords are added and removed, and that both tools open the image with the remaining ones.
fn key_slots() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 44);
    for image in ["luks", "qcow2"] {
        // The format has the same options, without a prefix.
        let prefix = if image == "luks" { "encrypt." } else { "" };
        let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
        let luks = match image {
            "luks" => "key-secret=s,iter-time=10",
            _ => luks,
        };
        let convert = format!("convert -f raw -O {image} -o {luks} disk {image}");
        call(ours, folder, &convert).ok();
        key_slots_of(folder, image, prefix);
    }
}

fn key_slots_of(folder: &Path, image: &str, without: &str) {
    let opens = |secret: &str, expected: i32| {
        let node = node(image, secret);
        for tool in [ours as Tool, qemu_img as Tool] {
            let line = format!("convert --image-opts {node} -O raw back");
            let ran = call(tool, folder, &line);
            assert_eq!(ran.status, Some(expected), "{secret}: {ran:?}");
            if expected == 0 {
                assert!(same_contents(&folder.join("disk"), &folder.join("back")));
            }
        }
    };
    let same_change = |change: &str| {
        let change = match without {
            "" => change.to_owned(),
            prefix => change.replace(prefix, ""),
        };
        same_change(folder, image, &change);
    };
    let changes = [
        (
            "-o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10",
            0,
        ),
        ("-o encrypt.state=inactive,encrypt.old-secret=n", 1),
        (
            "-o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10,encrypt.keyslot=6",
            0,
        ),
        (
            "-o encrypt.state=active,encrypt.new-secret=b,encrypt.keyslot=6",
            0,
        ),
        (
            "-o encrypt.state=active,encrypt.new-secret=b,encrypt.keyslot=8",
            0,
        ),
        ("-o encrypt.state=inactive,encrypt.old-secret=b", 0),
        (
            "-o encrypt.state=inactive,encrypt.old-secret=n,encrypt.keyslot=0",
            0,
        ),
        ("-o encrypt.state=inactive,encrypt.keyslot=5", 0),
        ("-p -o encrypt.state=inactive,encrypt.keyslot=6", 1),
        ("-o encrypt.state=inactive,encrypt.keyslot=0", 1),
        ("-o encrypt.state=inactive,encrypt.old-secret=s", 1),
        ("-o encrypt.state=active", 1),
        ("-o encrypt.state=inactive", 1),
        ("-o encrypt.new-secret=n", 1),
        ("-o encrypt.state=foo", 1),
        (
            "-o encrypt.state=active,encrypt.new-secret=n,encrypt.old-secret=s",
            1,
        ),
        ("-o encrypt.state=inactive,encrypt.new-secret=n", 1),
        (
            "-o encrypt.state=inactive,encrypt.keyslot=0,encrypt.iter-time=10",
            1,
        ),
        ("-o encrypt.state=active,encrypt.new-secret=nobody", 1),
    ];
    // The same code handles the rest for both formats, and qemu-img takes seconds for a new password.
    let count = if without.is_empty() { changes.len() } else { 2 };
    for (change, second) in changes.into_iter().take(count) {
        let before = fs::read(folder.join(image)).unwrap();
        same_change(change);
        if fs::read(folder.join(image)).unwrap() != before {
            opens("s", 0);
            opens("n", second);
        }
    }
    same_change("--force -o encrypt.state=inactive,encrypt.keyslot=0");
    opens("s", 1);
}

fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x", "1M"]).ok();
    for change in [
        "-o encrypt.state=active,encrypt.new-secret=n",
        "-o encrypt.state=active",
        "-o encrypt.keyslot=1,compat=9",
        "-o cluster_size=4k",
        "-o encrypt.format=luks",
        "-o preallocation=full",
        "-o foo=1",
        "-o backing_file=y",
        "-o backing_fmt=raw",
        "-o compat=9",
        "-o refcount_bits=7",
        "-o data_file=y",
        "-o data_file_raw=on",
        "-o backing_file=",
        "-o size=1M",
        "-o size=0",
        "-o size=0,lazy_refcounts=on",
        "-o compat=1.1,refcount_bits=16",
        "-o lazy_refcounts=maybe",
        "-t foo -o size=1M",
        "",
    ] {
        same_change(folder, "x", change);
    }
    let aes = "encrypt.format=aes,encrypt.key-secret=s";
    call(
        qemu_img,
        folder,
        &format!("create -q -f qcow2 -o {aes} y 1M"),
    )
    .ok();
    let node = "driver=qcow2,file.filename=y,encrypt.key-secret=s";
    let changes = [
        "encrypt.state=active,encrypt.new-secret=n",
        "encrypt.state=active",
    ];
    for (tool, change) in [ours as Tool, qemu_img as Tool]
        .into_iter()
        .flat_map(|tool| changes.map(|change| (tool, change)))
    {
        let ran = call(
            tool,
            folder,
            &format!("amend -o {change} --image-opts {node}"),
        );
        assert_eq!(ran.status, Some(1));
        let words = "Only LUKS encryption options can be amended";
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
    // The backing file that the image has may be named, as long as its format is too.
    call(qemu_img, folder, "create -q -f qcow2 -b x -F qcow2 z").ok();
    for change in [
        "-o backing_file=x,backing_fmt=qcow2",
        "-o backing_file=x,backing_fmt=raw",
        "-o backing_file=x",
        "-o backing_fmt=qcow2",
    ] {
        same_change(folder, "z", change);
    }
    for line in [
        "amend -f qcow2 -o help x",
        "amend -f raw -o help x",
        "amend -f luks -o help x",
        "amend -f raw -o size=2M x",
        "amend -o size=1M",
        "amend -o size=1M x y",
    ] {
        same_answer(folder, &line.split(' ').collect::<Vec<_>>());
    }
}

fn lazy_refcounts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for compat in ["1.1", "0.10"] {
        let compat = format!("compat={compat}");
        let create = ["create", "-q", "-f", "qcow2", "-o", &compat, "x", "1M"];
        qemu_img(folder, &create).ok();
        for change in [
            "-o lazy_refcounts=on",
            "-o lazy_refcounts=on,size=1M",
            "-q -o lazy_refcounts=off",
            "-p -o lazy_refcounts=off",
        ] {
            same_change(folder, "x", change);
            same_answer(folder, &["info", "x"]);
            same_answer(folder, &["check", "x"]);
        }
    }
}

/// Checks that an image of version 2 becomes one of version 3, or gets another size, with all of its data.
fn newer_and_larger() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 45);
    let convert = |options: &str| {
        let line = format!("convert -f raw -O qcow2 -o compat=0.10{options} disk x");
        call(qemu_img, folder, &line).ok();
    };
    let rebased = "-u -f qcow2 -b disk -F raw x";
    for options in ["", ",cluster_size=512", ",cluster_size=4k"] {
        for (prepare, change) in [
            ("", "-o compat=1.1"),
            ("snapshot -c before x", "-o compat=v3,lazy_refcounts=on"),
            ("rebase", "-o compat=1.1,size=2M"),
            ("", "-o size=2M"),
            ("", "-o size=512K"),
            ("snapshot -c before x", "-o size=512K"),
        ] {
            convert(options);
            match prepare {
                "" => {}
                "rebase" => drop(call(qemu_img, folder, &format!("rebase {rebased}"))),
                line => drop(call(qemu_img, folder, line)),
            }
            // The feature name table doesn't fit into the smallest clusters then.
            if !(options.contains("512") && prepare == "rebase") {
                same_change(folder, "x", change);
            }
            same_answer(folder, &["info", "x"]);
            same_answer(folder, &["check", "x"]);
            same_answer(folder, &["map", "--output=json", "x"]);
            same_answer(
                folder,
                &["compare", "-f", "qcow2", "-F", "raw", "x", "disk"],
            );
        }
    }
}

/// Checks that an image of version 3 becomes one of version 2, which has no zero flags, with the same disk and
/// snapshots.
fn older() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 48);
    let cluster_sizes = ["512", "4k", "64k"];
    let backings = ["", " -b disk -F raw"];
    for (cluster_size, backing) in cluster_sizes.iter().flat_map(|c| backings.map(|b| (c, b))) {
        for (snapshot, change) in [
            (false, "-o compat=0.10"),
            (true, "-o compat=v2"),
            (false, "-o compat=0.10,size=2M,lazy_refcounts=off"),
        ] {
            let options = format!("cluster_size={cluster_size},lazy_refcounts=on");
            let create = format!("create -q -f qcow2 -o {options}{backing} x 1M");
            call(qemu_img, folder, &create).ok();
            // These are unallocated zero clusters, preallocated ones, and ones that the snapshot shares.
            qemu_io(
                folder,
                "qcow2",
                "x",
                &["write -P 3 0 300k", "write -z 64k 64k", "write -z 512k 64k"],
            );
            if snapshot {
                call(qemu_img, folder, "snapshot -c before x").ok();
                qemu_io(
                    folder,
                    "qcow2",
                    "x",
                    &["write -z 128k 64k", "write -P 4 64k 32k"],
                );
            }
            let read = |what: &str| {
                let line = format!("convert -f qcow2 -O raw {what} x back");
                call(qemu_img, folder, &line).ok();
                fs::read(folder.join("back")).unwrap()
            };
            let layers = ["", "-l before"];
            let layers = &layers[..1 + usize::from(snapshot)];
            let before: Vec<Vec<u8>> = layers.iter().map(|layer| read(layer)).collect();
            let what = format!("{options}{backing} {change}");
            same_change(folder, "x", change);
            for (layer, before) in layers.iter().zip(before) {
                let mut now = read(layer);
                now.truncate(before.len());
                assert!(now == before, "{what} {layer}");
            }
            for line in ["info x", "check x", "map --output=json x"] {
                // Zero clusters needn't have the same host offsets.
                if line.starts_with("map") && !backing.is_empty() {
                    continue;
                }
                same_answer(folder, &line.split(' ').collect::<Vec<_>>());
            }
            let check = call(qemu_img, folder, "check x").ok();
            assert!(check.starts_with("No errors were found"), "{what}: {check}");
        }
    }
}

/// Checks that an image that version 2 can't represent isn't changed.
fn too_new() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for options in [
        "refcount_bits=32",
        "data_file=data",
        "extended_l2=on",
        "compression_type=zstd",
    ] {
        let create = format!("create -q -f qcow2 -o {options} x 1M");
        call(qemu_img, folder, &create).ok();
        match options {
            // QEMU makes an unreadable image of one with compressed data.
            "compression_type=zstd" => {
                let before = fs::read(folder.join("x")).unwrap();
                let ran = call(ours, folder, "amend -o compat=0.10 x");
                assert_eq!(ran.status, Some(1), "{ran:?}");
                let words = "Cannot downgrade an image with zstd compression";
                assert!(ran.stderr.contains(words), "{ran:?}");
                assert!(fs::read(folder.join("x")).unwrap() == before);
            }
            _ => same_change(folder, "x", "-o compat=0.10"),
        }
    }
    call(qemu_img, folder, "create -q -f qcow2 x 1M").ok();
    same_change(folder, "x", "-o compat=0.10,lazy_refcounts=on");
    same_change(folder, "x", "-o compat=0.10,refcount_bits=32");
    call(qemu_img, folder, "snapshot -c before x").ok();
    call(qemu_img, folder, "resize -q x 2M").ok();
    same_change(folder, "x", "-o compat=0.10");
    same_answer(folder, &["info", "x"]);
}

/// Checks another external data file, and the option `data_file_raw`.
fn data_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 46);
    let convert = "convert -f raw -O qcow2 -o data_file=data,data_file_raw=on disk x";
    call(qemu_img, folder, convert).ok();
    fs::copy(folder.join("data"), folder.join("other")).unwrap();
    for change in [
        "-o data_file_raw=on",
        "-o data_file=other",
        "-o data_file_raw=off",
        "-o data_file_raw=on",
        "-o data_file=a-name-that-is-quite-a-bit-longer-than-the-others",
    ] {
        same_change(folder, "x", change);
        same_answer(folder, &["info", "x"]);
    }
    fs::rename(
        folder.join("other"),
        folder.join("a-name-that-is-quite-a-bit-longer-than-the-others"),
    )
    .unwrap();
    same_answer(
        folder,
        &["compare", "-f", "qcow2", "-F", "raw", "x", "disk"],
    );
}

/// Checks changes of the refcount width from every width to every width, with clusters that a snapshot shares.
fn refcounts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 1 << 20, 47);
    for (options, with_snapshot) in [
        ("compat=1.1,cluster_size=4k", &[false, true][..]),
        ("compat=0.10", &[true]),
    ] {
        for &snapshot in with_snapshot {
            let convert = format!("convert -f raw -O qcow2 -o {options} disk x");
            call(qemu_img, folder, &convert).ok();
            if snapshot {
                call(qemu_img, folder, "snapshot -c before x").ok();
            }
            for change in [
                "-o refcount_bits=64",
                "-o compat=1.1,refcount_bits=64",
                "-p -o refcount_bits=2",
                "-o refcount_bits=1",
                "-o refcount_bits=32,lazy_refcounts=on",
                "-o refcount_bits=8",
            ] {
                // After the first change an image of the old version has the new one.
                if options == "compat=0.10" && (change.contains("=8") || change.contains("=32")) {
                    continue;
                }
                // Host offsets differ, and so does the message about a refcount that is too high.
                let is_refused = snapshot && change == "-o refcount_bits=1";
                match is_refused {
                    false if !change.contains("-p") => same_change(folder, "x", change),
                    _ => {
                        let ran = call(ours, folder, &format!("amend {change} -f qcow2 x"));
                        assert_eq!(ran.status, Some(i32::from(is_refused)), "{change}: {ran:?}");
                    }
                }
                let check = qemu_img(folder, &["check", "-f", "qcow2", "x"]);
                assert!(
                    check.ok().contains("No errors were found"),
                    "{options} {change}"
                );
                call(qemu_img, folder, "compare -f qcow2 -F raw x disk").ok();
            }
        }
    }
}
