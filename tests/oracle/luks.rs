//! Tests of the format LUKS: qemu-img and cryptsetup open containers of cowhide, and the reverse.
//!
//! Headers are random, so images are compared by their disks, and reports by the output of both tools for one file.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{run, same_contents, write_disk};
use crate::tools::{SECRET, Tool, ours, qemu_img, same_answer, to_raw, without_help, words};
use crate::trial;

/// The size of disks in bytes, which isn't a whole number of chunks of a conversion.
const SIZE: u64 = (1 << 20) + 512;

/// The options that open the image.
const IMAGE: &str = "driver=luks,file.filename=x.luks,key-secret=s";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("luks::modes_that_ours_makes", || ours_to_theirs(&modes())),
        trial("luks::ciphers_that_ours_makes", || {
            ours_to_theirs(&ciphers())
        }),
        trial("luks::hashes_that_ours_makes", || ours_to_theirs(&hashes())),
        trial("luks::what_the_real_tool_makes", || theirs_to_ours("")),
        trial("luks::what_else_the_real_tool_makes", || {
            theirs_to_ours("cipher-alg=cast5-128,cipher-mode=cbc,hash-alg=md5");
        }),
        trial("luks::wrong_passwords", wrong_passwords),
        trial("luks::options_that_make_no_image", wrong_options),
        trial("luks::written_over", written_over),
        trial("luks::damaged_headers", damaged_headers),
        trial("luks::cut_files", cut_files),
        trial("luks::sizes_and_measures", sizes),
        trial("luks::no_plaintext_is_left", no_plaintext),
        trial("luks::detached_headers", detached_headers),
        trial("luks::resized", resized),
        trial("luks::below_and_inside_of_others", inside_of_others),
    ]
}

/// Returns options of a new image with the fewest iterations.
fn options(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!("key-secret=s,iter-time=0{comma}{more}")
}

/// Converts `disk.raw` to `x.luks`.
fn make(tool: Tool, folder: &Path, more: &str) {
    let options = options(more);
    let args = [
        "convert", "--object", SECRET, "-f", "raw", "-O", "luks", "-o", &options,
    ];
    tool(folder, &[&args[..], &["disk.raw", "x.luks"]].concat()).ok();
}

/// Converts `x.luks` to `back.raw`, which must have the contents of `disk.raw`.
fn reads_back(tool: Tool, folder: &Path, what: &str) {
    let args = [
        "convert",
        "--object",
        SECRET,
        "--image-opts",
        IMAGE,
        "-O",
        "raw",
        "back.raw",
    ];
    tool(folder, &args).ok();
    assert!(
        same_contents(&folder.join("disk.raw"), &folder.join("back.raw")),
        "{what}"
    );
}

/// Asserts that both tools give the same report on `x.luks`.
fn reported_alike(folder: &Path) {
    for output in ["--output=human", "--output=json"] {
        same_answer(folder, &["info", output, "x.luks"]);
        same_answer(
            folder,
            &["map", output, "--object", SECRET, "--image-opts", IMAGE],
        );
    }
    same_answer(
        folder,
        &["check", "--object", SECRET, "--image-opts", IMAGE],
    );
}

fn folder_with_disk() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.raw"), SIZE, 5);
    folder
}

/// Returns modes and generators of vectors.
fn modes() -> Vec<String> {
    let mut all = vec![String::new()];
    for mode in ["xts", "cbc", "ctr", "ecb"] {
        for vectors in ["plain", "plain64", "essiv"] {
            all.push(format!("cipher-mode={mode},ivgen-alg={vectors}"));
        }
    }
    all
}

/// Returns ciphers. Those with a key of 24 bytes are missing, since its stripes aren't a whole number of sectors, at
/// which qemu-img fails.
fn ciphers() -> Vec<String> {
    let mut all = vec!["cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv".to_owned()];
    for cipher in [
        "aes-128",
        "aes-192",
        "serpent-128",
        "serpent-192",
        "serpent-256",
        "twofish-192",
    ] {
        all.push(format!("cipher-alg={cipher}"));
    }
    for cipher in ["serpent-256", "twofish-128", "twofish-256"] {
        all.push(format!(
            "cipher-alg={cipher},cipher-mode=cbc,ivgen-alg=essiv"
        ));
    }
    for mode in ["cbc", "ctr", "ecb"] {
        all.push(format!("cipher-alg=cast5-128,cipher-mode={mode}"));
    }
    all
}

fn hashes() -> Vec<String> {
    let mut all = vec!["cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=md5".to_owned()];
    for hash in [
        "md5",
        "sha1",
        "sha224",
        "sha384",
        "sha512",
        "ripemd160",
        "sm3",
    ] {
        all.push(format!("hash-alg={hash}"));
    }
    all
}

fn ours_to_theirs(all: &[String]) {
    let folder = folder_with_disk();
    let folder = folder.path();
    for options in all {
        make(ours, folder, options);
        reads_back(qemu_img, folder, options);
    }
    reads_back(ours, folder, "the last");
    reported_alike(folder);
}

/// Checks containers of qemu-img. It needs seconds to make one, with any options.
fn theirs_to_ours(options: &str) {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(qemu_img, folder, options);
    reads_back(ours, folder, options);
    reported_alike(folder);
}

fn wrong_passwords() {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(ours, folder, "");
    let args = [
        "convert",
        "--object",
        "secret,id=s,data=wrong",
        "--image-opts",
        IMAGE,
    ];
    same_answer(folder, &[&args[..], &["-O", "raw", "back.raw"]].concat());
    assert!(!folder.join("back.raw").exists());
    let args = [
        "map",
        "--object",
        "secret,id=t,data=x",
        "--image-opts",
        IMAGE,
    ];
    same_answer(folder, &args);
    let ran = ours(folder, &["map", "-f", "luks", "x.luks"]);
    ran.fails(
        1,
        "Could not open 'x.luks': Parameter 'key-secret' is required for cipher",
    );
}

fn wrong_options() {
    for more in [
        "cipher-alg=foo",
        "cipher-alg=3des",
        "cipher-mode=foo",
        "ivgen-alg=foo",
        "hash-alg=foo",
        "ivgen-hash-alg=foo",
        "iter-time=foo",
        "cipher-alg=cast5-128",
        "cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=essiv",
        "ivgen-alg=essiv,ivgen-hash-alg=sha1",
        "cipher-alg=serpent-128,ivgen-alg=essiv,ivgen-hash-alg=sha512",
        "bogus=1",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let options = format!("key-secret=s,{more}");
        let args = [
            "create", "--object", SECRET, "-f", "luks", "-o", &options, "x.luks", "1M",
        ];
        let theirs = qemu_img(folder, &args);
        let _ = fs::remove_file(folder.join("x.luks"));
        let ours = ours(folder, &args);
        assert_eq!(ours.status, theirs.status, "{more}: {ours:?}");
        let complaint = theirs.stderr.replace("qemu-img", "cowhide");
        assert_eq!(without_help(&ours.stderr, &complaint), complaint, "{more}");
        assert!(!folder.join("x.luks").exists(), "{more}");
    }
}

/// Checks writes to parts of an existing image, by cowhide and by qemu-io.
fn written_over() {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(ours, folder, "");
    write_disk(&folder.join("disk.raw"), SIZE, 6);
    let args = [
        "convert",
        "-n",
        "--object",
        SECRET,
        "--target-image-opts",
        "-f",
        "raw",
    ];
    ours(folder, &[&args[..], &["disk.raw", IMAGE]].concat()).ok();
    reads_back(qemu_img, folder, "written over");
    // An encrypted image can't read as zeroes, so `--target-is-zero` is ignored.
    fs::write(
        folder.join("disk.raw"),
        vec![0; usize::try_from(SIZE).unwrap()],
    )
    .unwrap();
    let args = ["convert", "-n", "--target-is-zero", "--object", SECRET];
    let more = ["--target-image-opts", "-f", "raw", "disk.raw", IMAGE];
    ours(folder, &[&args[..], &more].concat()).ok();
    reads_back(qemu_img, folder, "zeroes");
}

/// Checks damage to every field of the header: both tools refuse it with the same error.
fn damaged_headers() {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(ours, folder, "");
    let good = fs::read(folder.join("x.luks")).unwrap();
    let long = [b'x'; 40];
    let cases: &[(usize, &[u8])] = &[
        (0, b"X"),
        (7, &[3]),
        (8, b"des\0"),
        (8, &long),
        (40, b"xts\0"),
        (40, b"xts-\0"),
        (40, b"foo-plain\0"),
        (40, b"xts-foo\0"),
        (40, b"cbc-essiv:\0"),
        (40, b"cbc-essiv:foo\0"),
        (40, b"cbc-essiv\0"),
        (40, &long),
        (72, b"foo\0"),
        (72, &long),
        (104, &[0; 4]),
        (104, &[0, 0, 0, 1]),
        (104, &[0x7f, 0, 0, 0]),
        (108, &[0, 0, 0, 16]),
        (108, &[0; 4]),
        (108, &[0xff, 0, 0, 0]),
        (164, &[0; 4]),
        (208, &[1]),
        (212, &[0; 4]),
        (248, &[0; 4]),
        (248, &[0, 0, 0, 4]),
        (248, &[0, 0, 15, 0]),
        (248, &[0xff, 0, 0, 0]),
        (252, &[0, 0, 0, 1]),
        (252, &[0, 0, 15, 161]),
        (256, &[0; 4]),
        (296, &[0, 0, 0, 8]),
        (300, &[0, 0, 0, 1]),
    ];
    for (at, bytes) in cases {
        let mut damaged = good.clone();
        damaged[*at..*at + bytes.len()].copy_from_slice(bytes);
        fs::write(folder.join("x.luks"), damaged).unwrap();
        same_answer(folder, &["info", "-f", "luks", "x.luks"]);
    }
}

/// Checks that a truncated file is refused.
fn cut_files() {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(ours, folder, "");
    let good = fs::read(folder.join("x.luks")).unwrap();
    for length in [0, 5, 300, 591, 592, 4096, 100_000, 2_067_968] {
        fs::write(folder.join("x.luks"), &good[..length]).unwrap();
        let args = ["convert", "--object", SECRET, "--image-opts", IMAGE];
        let ran = ours(folder, &[&args[..], &["-O", "raw", "back.raw"]].concat());
        ran.fails(1, "Could not open");
        assert!(!folder.join("back.raw").exists(), "{length}");
    }
}

/// Checks `measure`. qemu-img derives a key for that, so only one size is compared.
fn sizes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = options("");
    let args = ["--object", SECRET, "-o", &options];
    let measure = ["measure", "-O", "luks", "--size", "1"];
    same_answer(folder, &[&measure[..], &args].concat());
    for (size, length) in [("1", 1), ("1000", 1000), ("5G", 5 << 30)] {
        let create = ["create", "-q", "-f", "luks", "x.luks", size];
        ours(folder, &[&create[..], &args].concat()).ok();
        let made = fs::metadata(folder.join("x.luks")).unwrap().len();
        assert_eq!(made, 2_068_480 + length);
    }
}

/// Checks that no plaintext block of the disk is in the file.
fn no_plaintext() {
    let folder = folder_with_disk();
    let folder = folder.path();
    let disk: Vec<u8> = b"sixteen bytes in".repeat(usize::try_from(SIZE / 16).unwrap());
    fs::write(folder.join("disk.raw"), disk).unwrap();
    for options in ["", "preallocation=full", "preallocation=falloc"] {
        make(ours, folder, options);
        let file = fs::read(folder.join("x.luks")).unwrap();
        let mut places = file.windows(16);
        assert!(
            !places.any(|place| place == b"sixteen bytes in"),
            "{options}"
        );
        reads_back(qemu_img, folder, options);
    }
}

/// Checks detached headers, which only cowhide makes: `qemu-img` 10.0 has the option and refuses it.
fn detached_headers() {
    let folder = folder_with_disk();
    let folder = folder.path();
    let args = ["create", "-q", "--object", SECRET, "-f", "luks", "-o"];
    let options = options("detached-header=true,preallocation=full");
    ours(folder, &[&args[..], &[&options, "header", "1G"]].concat()).ok();
    let length = fs::metadata(folder.join("header")).unwrap().len();
    assert_eq!(length, 2_068_480);
    let image = "driver=luks,file.filename=payload,header.filename=header,key-secret=s";
    let file = fs::File::create(folder.join("payload")).unwrap();
    for (make, seed) in [(ours as Tool, 5), (qemu_img, 6)] {
        write_disk(&folder.join("disk.raw"), SIZE, seed);
        file.set_len(SIZE).unwrap();
        let args = [
            "convert",
            "-n",
            "--object",
            SECRET,
            "-f",
            "raw",
            "--target-image-opts",
        ];
        make(folder, &[&args[..], &["disk.raw", image]].concat()).ok();
        for read in [ours as Tool, qemu_img] {
            to_raw(read, folder, image, "back.raw");
            assert!(same_contents(
                &folder.join("disk.raw"),
                &folder.join("back.raw")
            ));
        }
    }
    let same = |line: &str| {
        let line: Vec<&str> = words(line)
            .into_iter()
            .chain(["--object", SECRET])
            .collect();
        same_answer(folder, &line);
    };
    for file in [
        image,
        "driver=luks,file.filename=header,header.filename=payload,key-secret=s",
        "driver=luks,file.filename=payload,header.filename=nothing,key-secret=s",
        "driver=luks,file.filename=header,key-secret=s",
        "driver=luks,file.filename=header,header.filename=header,key-secret=s",
        "driver=raw,file.filename=payload,header.filename=header",
    ] {
        for report in ["info", "info --output=json", "map --output=json", "check"] {
            same(&format!("{report} --image-opts {file}"));
        }
    }
    // A detached header has no space for a disk.
    let args = [
        "convert", "--object", SECRET, "-f", "raw", "-O", "luks", "-o", &options,
    ];
    let ran = ours(folder, &[&args[..], &["disk.raw", "x.luks"]].concat());
    ran.fails(1, "A detached LUKS header holds no disk");
    assert!(!folder.join("x.luks").exists());
}

/// Checks that the length of the file is changed by a resize. The added part decrypts to noise, since it was never
/// written.
fn resized() {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(ours, folder, "");
    for line in [
        "2M",
        "--shrink 2M",
        "+1000",
        "+1M --preallocation=falloc",
        "+1M --preallocation=full",
        "+1M --preallocation=metadata",
        "-4M",
        "9E",
    ] {
        let run = |tool: Tool| {
            let line = format!("resize --image-opts {IMAGE} {line}");
            let line: Vec<&str> = words(&line)
                .into_iter()
                .chain(["--object", SECRET])
                .collect();
            let ran = tool(folder, &line);
            (ran, fs::read(folder.join("x.luks")).unwrap())
        };
        let before = fs::read(folder.join("x.luks")).unwrap();
        let (theirs, wanted) = run(qemu_img);
        fs::write(folder.join("x.luks"), before).unwrap();
        let (ours, made) = run(ours);
        assert_eq!(ours.status, theirs.status, "{line}: {ours:?}");
        assert_eq!(ours.stdout, theirs.stdout, "{line}");
        assert_eq!(
            ours.stderr,
            theirs.stderr.replace("qemu-img", "cowhide"),
            "{line}"
        );
        assert!(made == wanted, "{line}");
    }
}

/// Checks an image as a backing file, which grows by a commit, and an image that is a part of a file.
fn inside_of_others() {
    let folder = folder_with_disk();
    let folder = folder.path();
    make(ours, folder, "");
    let call = |tool: Tool, line: &str| {
        let line: Vec<&str> = words(line)
            .into_iter()
            .chain(["--object", SECRET])
            .collect();
        tool(folder, &line).ok()
    };
    call(
        qemu_img,
        "create -q -f qcow2 -u -b x.luks -F luks over.qcow2 4M",
    );
    let below = "backing.driver=luks,backing.file.filename=x.luks,backing.key-secret=s";
    let over = format!("driver=qcow2,file.filename=over.qcow2,{below}");
    let write = [
        "-c",
        "write -P 5 64k 64k",
        "-c",
        "write -P 6 3900k 1k",
        "--image-opts",
        &over,
    ];
    let write = write.into_iter().chain(["--object", SECRET]);
    assert_eq!(run(folder, "qemu-io", write).status, Some(0));
    for (tool, name) in [(ours as Tool, "ours"), (qemu_img, "theirs")] {
        call(tool, &format!("convert --image-opts {over} -O raw {name}"));
    }
    assert!(same_contents(&folder.join("ours"), &folder.join("theirs")));
    call(ours, &format!("commit --image-opts {over}"));
    for tool in [ours as Tool, qemu_img] {
        call(
            tool,
            &format!("convert --image-opts {IMAGE} -O raw back.raw"),
        );
        assert!(same_contents(
            &folder.join("theirs"),
            &folder.join("back.raw")
        ));
    }
    // This is the same file with other data at both ends.
    let image = fs::read(folder.join("x.luks")).unwrap();
    let around = [&[7; 4096][..], &image, &[7; 1024]].concat();
    fs::write(folder.join("around"), around).unwrap();
    let (offset, size) = (4096, image.len());
    let window =
        format!("driver=luks,key-secret=s,file.driver=raw,file.offset={offset},file.size={size}");
    let window = format!("{window},file.file.filename=around");
    for tool in [ours as Tool, qemu_img] {
        call(
            tool,
            &format!("convert --image-opts {window} -O raw back.raw"),
        );
        assert!(same_contents(
            &folder.join("theirs"),
            &folder.join("back.raw")
        ));
    }
}
