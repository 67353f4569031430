//! Tests of qcow2 images with LUKS encryption: each tool reads, reports and checks the images of the other, and
//! damaged headers give the same errors.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{run, same_contents, write_disk};
use crate::tools::{Tool, ours, qemu_img, same_answer};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let layouts = LAYOUTS.into_iter().map(|options| {
        trial(format!("qcow2_luks::layout[{options}]"), move || {
            layout(options);
        })
    });
    let others = vec![
        trial("qcow2_luks::ciphers", ciphers),
        trial("qcow2_luks::what_the_real_tool_makes", theirs),
        trial("qcow2_luks::in_use", in_use),
        trial("qcow2_luks::damaged_headers", damaged_headers),
        trial("qcow2_luks::nothing_in_the_clear", nothing_in_the_clear),
        trial("qcow2_luks::options", options),
        trial("qcow2_luks::measure", measure),
    ];
    layouts.chain(others).collect()
}

const SECRETS: [&str; 4] = [
    "--object",
    "secret,id=s,data=correct horse",
    "--object",
    "secret,id=wrong,data=battery",
];

/// Returns the words of a call, with the secrets.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().chain(SECRETS).collect()
}

fn convert(tool: Tool, folder: &Path, options: &str, from: &str, to: &str) {
    let options =
        format!("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,{options}");
    let options = options.trim_end_matches(',');
    let line = format!("convert -f raw -O qcow2 -o {options} {from} {to}");
    tool(folder, &words(&line)).ok();
}

fn image(name: &str) -> String {
    format!("driver=qcow2,file.filename={name},encrypt.key-secret=s")
}

fn to_raw(tool: Tool, folder: &Path, name: &str, to: &str) {
    let line = format!("convert --image-opts {} -O raw {to}", image(name));
    tool(folder, &words(&line)).ok();
}

/// The layouts of images. The host offsets of clusters affect their encryption.
const LAYOUTS: [&str; 7] = [
    "cluster_size=512",
    "cluster_size=2M",
    "extended_l2=on",
    "compat=0.10",
    "preallocation=metadata",
    "preallocation=full",
    "data_file=data",
];

fn folder_with_disk() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk"), 600_064, 41);
    folder
}

/// Asserts that an image of one tool is read by the other.
fn goes_over(make: Tool, read: Tool, folder: &Path, options: &str) {
    convert(make, folder, options, "disk", "image");
    to_raw(read, folder, "image", "back");
    let (disk, back) = (folder.join("disk"), folder.join("back"));
    assert!(same_contents(&disk, &back), "{options}");
}

fn reported_alike(folder: &Path) {
    same_answer(folder, &["info", "image"]);
    same_answer(folder, &["info", "--output=json", "image"]);
    let image = image("image");
    for report in ["check", "map"] {
        let line = format!("{report} --output=json --image-opts {image}");
        same_answer(folder, &words(&line));
    }
}

fn layout(options: &str) {
    let folder = folder_with_disk();
    goes_over(ours, qemu_img, folder.path(), options);
    to_raw(ours, folder.path(), "image", "back");
    let (disk, back) = (folder.path().join("disk"), folder.path().join("back"));
    assert!(same_contents(&disk, &back));
    reported_alike(folder.path());
}

/// Checks one cipher of each kind. `luks.rs` tests all of them.
fn ciphers() {
    let folder = folder_with_disk();
    for options in [
        "",
        "encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv",
        "encrypt.cipher-mode=ctr,encrypt.hash-alg=sha512",
        "encrypt.cipher-alg=serpent-256",
        "encrypt.cipher-alg=cast5-128,encrypt.cipher-mode=cbc,encrypt.hash-alg=ripemd160",
    ] {
        goes_over(ours, qemu_img, folder.path(), options);
        same_answer(folder.path(), &["info", "image"]);
    }
    reported_alike(folder.path());
}

/// Checks an image of qemu-img. There is only one, since it takes seconds to make.
fn theirs() {
    let folder = folder_with_disk();
    let options = "data_file=data,extended_l2=on";
    goes_over(qemu_img, ours, folder.path(), options);
    reported_alike(folder.path());
}

/// Checks images in use: writes, snapshots, and wrong or missing passwords.
fn in_use() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk"), 2 << 20, 42);
    write_disk(&folder.join("other"), 2 << 20, 43);
    for make in [ours as Tool, qemu_img as Tool] {
        convert(make, folder, "", "disk", "image");
        let image = image("image");
        // A cluster that a snapshot shares is copied to another host offset, and encrypted again.
        let snapshot = format!("snapshot -c one --image-opts {image}");
        qemu_img(folder, &words(&snapshot)).ok();
        let io = ["-c", "write -P 7 100k 3k", "--image-opts", &image];
        let io = io.into_iter().chain(SECRETS);
        assert_eq!(run(folder, "qemu-io", io).status, Some(0));
        to_raw(ours, folder, "image", "ours");
        to_raw(qemu_img, folder, "image", "theirs");
        assert!(same_contents(&folder.join("ours"), &folder.join("theirs")));
        let over = format!("convert -n -f raw --target-image-opts other {image}");
        ours(folder, &words(&over)).ok();
        to_raw(qemu_img, folder, "image", "theirs");
        assert!(same_contents(&folder.join("other"), &folder.join("theirs")));
        same_answer(folder, &words(&format!("check --image-opts {image}")));
        for key in [",encrypt.key-secret=wrong", ",encrypt.format=aes"] {
            let image = format!("driver=qcow2,file.filename=image{key}");
            same_answer(folder, &words(&format!("map --image-opts {image}")));
            let compare = format!("compare --image-opts {image} {image}");
            same_answer(folder, &words(&compare));
        }
        let ran = ours(folder, &["map", "image"]);
        ran.fails(1, "Parameter 'encrypt.key-secret' is required for cipher");
        // Compressed clusters are never encrypted, so none is written.
        let compressed = format!("convert -n -c -f raw --target-image-opts other {image}");
        let ran = ours(folder, &words(&compressed));
        ran.fails(
            1,
            "Compression and encryption not supported at the same time",
        );
    }
}

/// Checks every field of the header, and of the extension that points to it.
fn damaged_headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk"), vec![3; 1 << 16]).unwrap();
    convert(qemu_img, folder, "", "disk", "image");
    let bytes = fs::read(folder.join("image")).unwrap();
    let mark = b"LUKS\xba\xbe\0\x01";
    let start = bytes.windows(8).position(|window| window == mark).unwrap();
    let poke = |at: usize, new: &[u8]| {
        fs::write(folder.join("image"), &bytes).unwrap();
        let file = fs::File::options().write(true).open(folder.join("image"));
        file.unwrap().write_all_at(new, at as u64).unwrap();
        same_answer(folder, &["info", "image"]);
        // A header is refused for every purpose.
        if ours(folder, &["info", "image"]).status == Some(0) {
            let map = format!("map --image-opts {}", image("image"));
            same_answer(folder, &words(&map));
        }
    };
    for (field, new) in [
        (0, &b"KULS"[..]),
        (6, b"\0\x02"),
        (6, b"\0\0"),
        (8, b"aesx\0"),
        (8, b"aes-xts-plain64-and-32-bytes-long"),
        (40, b"xts\0"),
        (40, b"xts-plain128\0"),
        (40, b"foo-plain64\0"),
        (40, b"cbc-essiv\0"),
        (40, b"xts-essiv:sha1\0"),
        (40, b"cbc-essiv:foo\0"),
        (40, b"this-mode-has-thirty-two-letters"),
        (72, b"sha257\0"),
        (72, b"a-hash-whose-name-doesn't-end-ever"),
        (104, b"\0\0\0\x07"),
        (104, b"\0\0\x01\0"),
        (108, b"\0\0\0\x41"),
        (108, b"\0\0\0\0"),
        (108, b"\xff\xff\xff\xff"),
        (112, b"digest"),
        (132, b"salt"),
        (164, b"\0\0\0\0"),
        (164, b"\0\0\0\x05"),
        (208, b"\0\0\xde\xad"),
        (208, b"\0\0\0\0"),
        (212, b"\0\0\0\0"),
        (216, b"salt"),
        (248, b"\0\0\0\x07"),
        (248, b"\0\0\x02\0"),
        (252, b"\0\0\0\x01"),
        (256, b"zoom"),
        (304 + 44, b"\0\0\0\0"),
        (544 + 40, b"\0\0\x02\0"),
    ] {
        poke(start + field, new);
    }
    let extension = [0x05, 0x37, 0xbe, 0x77];
    let at = bytes
        .windows(4)
        .position(|window| window == extension)
        .unwrap();
    for (field, new) in [
        (8, &b"\0\0\0\0\0\0\x02\0"[..]),
        (8, b"\0\0\0\0\0\x01\0\0"),
        (8, b"\0\0\0\0\x01\0\0\0"),
        (16, b"\0\0\0\0\0\0\x02\0"),
    ] {
        poke(at + field, new);
    }
}

/// Checks that no plaintext block is in the file.
fn nothing_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let block = *b"a block of known";
    fs::write(folder.join("disk"), block.repeat(1 << 17)).unwrap();
    let is_clear = |name: &str| {
        let bytes = fs::read(folder.join(name)).unwrap();
        bytes
            .windows(block.len())
            .step_by(16)
            .any(|part| part == block)
            || bytes.chunks(512).any(|sector| sector.starts_with(&block))
    };
    assert!(is_clear("disk"));
    for options in [
        "",
        "preallocation=full",
        "cluster_size=512",
        "data_file=data",
    ] {
        convert(ours, folder, options, "disk", "image");
        assert!(!is_clear("image"), "{options}");
        if options.contains("data") {
            assert!(!is_clear("data"));
        }
        let image = image("image");
        let over = format!("convert -n -f raw --target-image-opts disk {image}");
        ours(folder, &words(&over)).ok();
        assert!(!is_clear("image"), "{options}, written over");
        to_raw(qemu_img, folder, "image", "back");
        assert!(same_contents(&folder.join("disk"), &folder.join("back")));
    }
}

/// Checks mistakes in options, and the line `Formatting`.
fn options() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = [
        "create",
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=luks",
        "x",
        "1M",
    ];
    ours(folder, &create).fails(1, "Parameter 'encrypt.key-secret' is required for cipher");
    for options in [
        "encrypt.cipher-alg=aes-128",
        "encrypt.format=aes,encrypt.key-secret=s,encrypt.cipher-alg=aes-128",
        "encrypt.format=luks,encrypt.key-secret=nobody",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=des",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-mode=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.hash-alg=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.ivgen-alg=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.ivgen-hash-alg=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=foo",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=cast5-128",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,\
         encrypt.ivgen-hash-alg=sha1",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=0,encrypt.hash-alg=sha224",
    ] {
        let line = format!("create -f qcow2 -o {options} image 1M");
        same_answer(folder, &words(&line));
    }
    same_answer(folder, &["create", "-f", "qcow2", "-o", "help", "x"]);
}

/// Checks that `measure` counts the clusters of the header. qemu-img derives a key for that, so only one size is
/// compared.
fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        "encrypt.format=luks,encrypt.key-secret=s,cluster_size=512,encrypt.cipher-alg=aes-128";
    let line = format!("measure -O qcow2 -o {options} --size 100M");
    same_answer(folder.path(), &words(&line));
}
