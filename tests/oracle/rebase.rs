//! Tests of `rebase`: the same calls of both tools on copies of the same chain.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, Ran, qemu_io, same_contents, write_disk};
use crate::tools::{SECRET, Tool, ours, qemu_img, to_raw, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("rebase::chains", chains),
        trial("rebase::header_only", header_only),
        trial("rebase::kinds_of_images", kinds),
        trial("rebase::mistakes", mistakes),
        trial("rebase::refused_before_anything_changes", refused),
        trial("rebase::zeroes_take_no_room", zeroes),
        trial("rebase::long_names", long_names),
        trial("rebase::encrypted", encrypted),
        trial("rebase::progress", progress),
    ]
}

pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace()
        .map(|word| if word == "''" { "" } else { word })
        .collect()
}

/// Runs a line of the real tool.
pub fn theirs(folder: &Path, line: &str) {
    let ran = qemu_img(folder, &words(line));
    assert_eq!(ran.status, Some(0), "{line}: {ran:?}");
}

/// Writes runs of data and of zeroes into an image.
pub fn scribble(folder: &Path, format: &str, name: &str, size: u64, seed: u64) {
    let mut noise = Noise(seed);
    let mut commands = Vec::new();
    for _ in 0..8 {
        let start = noise.below(size / 4096) * 4096;
        let length = (1 + noise.below(40)) * 4096;
        let length = length.min(size - start);
        commands.push(match noise.below(4) {
            0 => format!("write -z {start} {length}"),
            1 => format!("write -P 0 {start} {length}"),
            _ => format!("write -P {} {start} {length}", 1 + noise.below(4)),
        });
    }
    qemu_io(folder, format, name, &commands);
}

/// Makes a chain in a folder: `top` over `mid` over `base`, and other backing files for `top`.
fn make(folder: &Path, options: &str) {
    theirs(folder, "create -q -f qcow2 base 3M");
    theirs(
        folder,
        "create -q -f qcow2 -o cluster_size=4k -b base -F qcow2 mid 2M",
    );
    make_top(folder, options);
    theirs(folder, "create -q -f qcow2 other 2500K");
    theirs(folder, "create -q -f qcow2 -o cluster_size=512 small 700K");
    theirs(
        folder,
        "create -q -f qcow2 -b base -F qcow2 -o cluster_size=2M side 5M",
    );
    write_disk(&folder.join("plain"), 1_500_160, 3);
    for (name, size) in [
        ("base", 3 << 20),
        ("mid", 2 << 20),
        ("other", 2500 << 10),
        ("small", 700 << 10),
        ("side", 5 << 20),
    ] {
        scribble(folder, "qcow2", name, size, size + name.len() as u64);
    }
}

/// Makes `top` over `mid`.
fn make_top(folder: &Path, options: &str) {
    let create = format!("create -q -f qcow2 {options} -b mid -F qcow2 top 2500K");
    theirs(folder, &create);
    scribble(folder, "qcow2", "top", 2500 << 10, 17);
}

pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Runs a call of both tools on copies of a folder, and compares the resulting `top`.
fn both(original: &Path, call: &str) -> [Ran; 2] {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ran = [(ours as Tool, &folders[0]), (qemu_img, &folders[1])].map(|(tool, folder)| {
        copy(original, folder.path());
        tool(folder.path(), &words(call))
    });
    let [mine, other] = folders.each_ref().map(|folder| folder.path());
    assert_eq!(ran[0].status, ran[1].status, "{call}: {ran:?}");
    for entry in fs::read_dir(original).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "top" {
            let same = same_contents(&original.join(&name), &mine.join(&name));
            assert!(same, "{call}: {name:?} has changed");
        }
    }
    if ran[0].status != Some(0) {
        let same = same_contents(&original.join("top"), &mine.join("top"));
        assert!(same, "{call}: top has changed");
        return ran;
    }
    let info = [mine, other].map(|folder| {
        let answer = qemu_img(folder, &["info", "-f", "qcow2", "--output=json", "top"]).ok();
        let info: serde_json::Value = serde_json::from_str(&answer).unwrap();
        [
            "backing-filename",
            "backing-filename-format",
            "virtual-size",
        ]
        .map(|key| info[key].clone())
    });
    assert_eq!(info[0], info[1], "{call}");
    // This compares the whole disk over its new backing file.
    if info[0][0]
        .as_str()
        .is_none_or(|name| name != "top" && mine.join(name).exists())
    {
        theirs(mine, "check -q -f qcow2 top");
        let path = other.join("top");
        let args = [
            "compare",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "top",
            path.to_str().unwrap(),
        ];
        let compared = qemu_img(mine, &args);
        assert_eq!(compared.status, Some(0), "{call}: {compared:?}");
    }
    ran
}

/// Asserts that both answers are the same, except for the tools' names.
fn same(call: &str, [ours, theirs]: [Ran; 2]) {
    assert_eq!(ours.stdout, theirs.stdout, "{call}");
    let expected = theirs.stderr.replace("qemu-img", "cowhide");
    assert_eq!(without_help(&ours.stderr, &expected), expected, "{call}");
}

/// Asserts that the disk of `top` is the same afterwards.
fn disk_stays(original: &Path, call: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy(original, folder);
    theirs(folder, "convert -f qcow2 -O raw top before");
    ours(folder, &words(call)).ok();
    theirs(folder, "check -q -f qcow2 top");
    theirs(folder, "convert -f qcow2 -O raw top after");
    assert!(
        same_contents(&folder.join("before"), &folder.join("after")),
        "{call}"
    );
}

fn chains() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    for call in [
        "rebase -b base -F qcow2 top",
        "rebase -b mid -F qcow2 top",
        "rebase -b other -F qcow2 top",
        "rebase -b small -F qcow2 top",
        "rebase -b side -F qcow2 top",
        "rebase -b plain -F raw top",
        "rebase -b '' top",
        "rebase -b '' -F qcow2 top",
        "rebase -F qcow2 -b ./base top",
        "rebase -c -b side -F qcow2 top",
        "rebase -c -b '' top",
        "rebase -f qcow2 -b side -F qcow2 top",
        "rebase -t none -T none -b side -F qcow2 top",
        "rebase -t unsafe -b side -F qcow2 top",
        "rebase -q -b side -F qcow2 top",
        "rebase -U -b side -F qcow2 top",
    ] {
        same(call, both(folder, call));
        disk_stays(folder, call);
    }
    // qemu-img treats the file as the one in the chain already, whatever its format.
    disk_stays(folder, "rebase -b base -F raw top");
    let call = "rebase --image-opts -b other -F qcow2 driver=qcow2,file.filename=top";
    same(call, both(folder, call));
}

fn header_only() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    for call in [
        "rebase -u -b base -F qcow2 top",
        "rebase -u -b nope -F qcow2 top",
        "rebase -u -b nope -F raw top",
        "rebase -u -b '' top",
        "rebase -u top",
        "rebase -u -F qcow2 top",
        "rebase -u -b top -F qcow2 top",
        "rebase -u -c -b base -F qcow2 top",
        "rebase -u -b /a/longer/name/than/there/was/before/of/a/file/that/is/not/there -F vdi top",
        "rebase -u -f qcow2 -t none -T unsafe -b json:{} -F raw top",
    ] {
        same(call, both(folder, call));
    }
    // The header is the same as that of qemu-img.
    for call in ["rebase -u -b nope -F qcow2 top", "rebase -u -b '' top"] {
        let both = [ours as Tool, qemu_img].map(|tool| {
            let copied = tempfile::tempdir().unwrap();
            copy(folder, copied.path());
            tool(copied.path(), &words(call)).ok();
            fs::read(copied.path().join("top")).unwrap()[..65536].to_vec()
        });
        assert!(both[0] == both[1], "{call}");
    }
}

fn kinds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    for options in [
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o extended_l2=on,cluster_size=16k",
        "-o extended_l2=on",
        "-o lazy_refcounts=on,refcount_bits=1",
        "-o compression_type=zstd",
    ] {
        make_top(folder, options);
        for call in [
            "rebase -b side -F qcow2 top",
            "rebase -c -b side -F qcow2 top",
            "rebase -b '' top",
            "rebase -u -b small -F qcow2 top",
        ] {
            // qemu-img aborts at an assertion.
            if !call.contains("-c") || !options.contains("extended_l2") {
                same(call, both(folder, call));
            }
            if !call.contains("-u") {
                disk_stays(folder, call);
            }
        }
    }
    // The name of the data file is relative to the current folder.
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), "-o data_file=data");
    disk_stays(folder.path(), "rebase -b side -F qcow2 top");
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    theirs(folder, "create -q -f vdi vdi 1M");
    theirs(folder, "create -q -f qcow2 -b top -F qcow2 over");
    for call in [
        "rebase",
        "rebase top",
        "rebase a b",
        "rebase -u a b",
        "rebase -b base",
        "rebase -b",
        "rebase -b base -F qcow2 nope",
        "rebase -b nope -F qcow2 top",
        "rebase -b base -F foo top",
        "rebase -b nope -F foo nope",
        "rebase -b nope -F foo top",
        "rebase -u -b base -F foo top",
        "rebase -b plain -F qcow2 top",
        "rebase -u -b base top",
        "rebase -t foo -b base -F qcow2 top",
        "rebase -T foo -b base -F qcow2 top",
        "rebase -t foo -T bar -b base -F qcow2 nope",
        "rebase -u -T foo -b base -F qcow2 top",
        "rebase -f foo -b base -F qcow2 top",
        "rebase -f qcow2 --image-opts -b base -F qcow2 driver=qcow2,file.filename=top",
        "rebase -u -f raw -b base -F qcow2 top",
        "rebase -f raw -b base -F qcow2 plain",
        "rebase -u -b base -F qcow2 plain",
        "rebase -u -f raw -b base plain",
        "rebase -f vdi -u -b base -F qcow2 vdi",
        "rebase -f vdi -u -b '' vdi",
        "rebase -f vdi -b '' vdi",
        "rebase -f vdi -b nope vdi",
        "rebase -p -b base -F qcow2 nope",
        "rebase -p -b nope -F qcow2 top",
        "rebase -p -t foo -b base -F qcow2 top",
        "rebase -p -b base",
        "rebase -b '' .",
        "rebase -u -b '' ''",
        "rebase -b over -F qcow2 mid",
    ] {
        same(call, both(folder, call));
    }
    // The chain is broken, but the image itself isn't.
    fs::remove_file(folder.join("mid")).unwrap();
    for call in [
        "rebase -b base -F qcow2 top",
        "rebase -b '' top",
        "rebase -u -b base -F qcow2 top",
        "rebase -b base -F qcow2 over",
        "rebase -b over -F qcow2 base",
    ] {
        same(call, both(folder, call));
    }
}

/// Checks calls that qemu-img only refuses after copying.
fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    let call = "rebase -b other top";
    let copied = tempfile::tempdir().unwrap();
    copy(folder, copied.path());
    let ran = [ours as Tool, qemu_img].map(|tool| tool(copied.path(), &words(call)));
    same(call, ran);
    ours(folder, &words(call)).fails(1, "backing format must be specified");
    copy(folder, copied.path());
    // A rebase to itself or to its own overlay is refused.
    theirs(folder, "create -q -f qcow2 -b top -F qcow2 over");
    for to in ["top", "over"] {
        let before = fs::read(folder.join("top")).unwrap();
        let ran = ours(folder, &["rebase", "-b", to, "-F", "qcow2", "top"]);
        assert_eq!(ran.status, Some(1));
        let message = format!("cowhide: Could not open new backing file '{to}': ");
        assert!(ran.stderr.starts_with(&message), "{ran:?}");
        assert!(fs::read(folder.join("top")).unwrap() == before);
    }
}

fn zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    theirs(folder, "create -q -f qcow2 old 256M");
    theirs(folder, "create -q -f qcow2 new 256M");
    qemu_io(folder, "qcow2", "new", &["write -P 7 0 64M"]);
    qemu_io(folder, "qcow2", "old", &["write -P 0 32M 64M"]);
    theirs(folder, "create -q -f qcow2 -b old -F qcow2 top");
    ours(folder, &words("rebase -b new -F qcow2 top")).ok();
    assert!(fs::metadata(folder.join("top")).unwrap().len() < 1 << 20);
    theirs(folder, "check -q top");
    qemu_io(folder, "qcow2", "top", &["read -P 0 0 256M"]);
}

fn long_names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for cluster in ["512", "1k", "2k", "4k", "64k"] {
        for length in [1, 300, 376, 377, 500, 888, 889, 1000, 1023, 1024] {
            let name = "n".repeat(length);
            let call = ["rebase", "-u", "-b", &name, "-F", "qcow2", "top"];
            let answers = [ours as Tool, qemu_img].map(|tool| {
                theirs(
                    folder,
                    &format!("create -q -f qcow2 -o cluster_size={cluster} top 1M"),
                );
                let ran = tool(folder, &call);
                (ran, fs::read(folder.join("top")).unwrap())
            });
            let [(ours, our_bytes), (theirs, their_bytes)] = answers;
            assert_eq!(ours.status, theirs.status, "{cluster} {length}: {ours:?}");
            let expected = theirs.stderr.replace("qemu-img", "cowhide");
            assert_eq!(ours.stderr, expected, "{cluster} {length}");
            assert!(our_bytes == their_bytes, "{cluster} {length}");
        }
    }
}

fn encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    let create = [
        "create",
        "-q",
        "--object",
        SECRET,
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
        "-b",
        "mid",
        "-F",
        "qcow2",
        "secret",
        "2500K",
    ];
    qemu_img(folder, &create).ok();
    let spec = "driver=qcow2,file.filename=secret,encrypt.key-secret=s";
    let raw = |name: &str| to_raw(qemu_img, folder, spec, name);
    raw("before");
    let refused = [
        "rebase",
        "-c",
        "--object",
        SECRET,
        "--image-opts",
        "-b",
        "other",
        "-F",
        "qcow2",
        spec,
    ];
    let bytes = fs::read(folder.join("secret")).unwrap();
    ours(folder, &refused).fails(
        1,
        "Compression and encryption not supported at the same time",
    );
    assert!(fs::read(folder.join("secret")).unwrap() == bytes);
    for to in ["other", "base", ""] {
        let args = [
            "rebase",
            "--object",
            SECRET,
            "--image-opts",
            "-b",
            to,
            "-F",
            "qcow2",
            spec,
        ];
        ours(folder, &args).ok();
        raw("after");
        assert!(
            same_contents(&folder.join("before"), &folder.join("after")),
            "{to}"
        );
        let args = ["check", "-q", "--object", SECRET, "--image-opts", spec];
        qemu_img(folder, &args).ok();
    }
}

/// Checks that the percentage only grows, and ends as in qemu-img.
fn progress() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "");
    for (call, exact) in [
        ("rebase -p -u -b base -F qcow2 top", true),
        ("rebase -p -b base -F qcow2 top", false),
        ("rebase -p -b other -F qcow2 top", false),
        ("rebase -p -q -b other -F qcow2 top", true),
        ("rebase -p -b nope -F qcow2 top", true),
    ] {
        let [ours, theirs] = both(folder, call);
        let expected = theirs.stderr.replace("qemu-img", "cowhide");
        assert_eq!(without_help(&ours.stderr, &expected), expected, "{call}");
        if exact {
            assert_eq!(ours.stdout, theirs.stdout, "{call}");
        } else {
            for told in [&ours.stdout, &theirs.stdout] {
                assert!(told.starts_with("    (0.00/100%)\r"), "{call}: {told:?}");
                assert!(told.ends_with("    (100.00/100%)\r\n"), "{call}: {told:?}");
            }
        }
    }
}
