//! Tests of persistent bitmaps: after the same work both tools have set the same bits.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cowhide::formats::WritableImage as _;
use cowhide::storage::MemoryStorage;
use cowhide::units::GuestOffset;
use libtest_mimic::Trial;

use crate::common::{Noise, run};
use crate::power_cut::Subject;
use crate::tools::{ours, qemu_img, same_answer};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for options in [
        "cluster_size=1k",
        "cluster_size=64k",
        "cluster_size=4k,lazy_refcounts=on",
        "cluster_size=16k,extended_l2=on,refcount_bits=1",
    ] {
        let name = format!("bitmaps::same_bits_as_qemu_io_{options}");
        trials.push(trial(name, move || same_bits_as_qemu_io(options)));
    }
    trials.push(trial("bitmaps::convert_into_sets_bits", convert_into));
    trials.push(trial("bitmaps::two_of_one_name", two_of_one_name));
    for options in [
        "",
        "-c",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o refcount_bits=1,preallocation=metadata",
        "-o lazy_refcounts=on,extended_l2=on",
        "-o backing_file=base.qcow2,backing_fmt=qcow2",
        "-o data_file=t.data,data_file_raw=on",
    ] {
        let name = format!("bitmaps::copied_{options}");
        trials.push(trial(name, move || copied(options)));
    }
    trials.push(trial("bitmaps::copied_into_existing", copied_into_existing));
    trials.push(trial("bitmaps::refused", refused));
    trials.push(trial("bitmaps::power_cuts_leave_them_in_use", power_cuts));
    trials
}

/// Returns the set parts of a bitmap, as qemu-nbd shows them.
pub fn bits(folder: &Path, image: &str, bitmap: &str) -> String {
    let socket = folder.join(format!("{image}.{bitmap}.sock"));
    let mut server = Command::new("qemu-nbd")
        .args(["-r", "-f", "qcow2", "-B", bitmap, "-k"])
        .args([socket.as_os_str(), image.as_ref()])
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        let ended = server.try_wait().unwrap();
        assert!(ended.is_none(), "qemu-nbd: {ended:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let source = format!(
        "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}",
        socket.display()
    );
    let map = qemu_img(folder, &["map", "--output=json", "--image-opts", &source]);
    // It serves one client.
    server.wait().unwrap();
    map.ok()
}

/// Makes an image with data, and with bitmaps of several kinds, some of which have bits.
fn make(folder: &Path, image: &str, options: &str, size: u64) -> Vec<(&'static str, u64)> {
    let size_text = size.to_string();
    let args = [
        "create", "-q", "-f", "qcow2", "-o", options, image, &size_text,
    ];
    qemu_img(folder, &args).ok();
    let bitmaps = [("fine", 512), ("b", 4096), ("coarse", 1 << 20)];
    for (name, granularity) in bitmaps {
        let granularity = granularity.to_string();
        qemu_img(
            folder,
            &["bitmap", "--add", "-g", &granularity, image, name],
        )
        .ok();
    }
    qemu_img(folder, &["bitmap", "--add", "--disable", image, "disabled"]).ok();
    write(folder, image, &["write -q -P 1 5k 70k".to_owned()]);
    qemu_img(folder, &["bitmap", "--add", image, "late"]).ok();
    let disabled = [("disabled", 65536), ("late", 65536)];
    [&bitmaps[..], &disabled].concat()
}

fn write(folder: &Path, image: &str, commands: &[String]) {
    let mut args = Vec::new();
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image);
    let wrote = run(folder, "qemu-io", &args);
    assert_eq!(wrote.status, Some(0), "{wrote:?}");
}

fn subject(folder: &Path, image: &str) -> Subject {
    Subject {
        bytes: std::fs::read(folder.join(image)).unwrap(),
        data: None,
        raw: false,
        encrypted: false,
        backing: None,
        inspect: None,
    }
}

fn assert_clean(folder: &Path, image: &str) {
    let report = qemu_img(folder, &["check", image]).ok();
    assert!(report.starts_with("No errors"), "{report}");
}

fn same_bits_as_qemu_io(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let size: u64 = (9 << 20) + 512;
    let bitmaps = make(folder, "theirs.qcow2", options, size);
    let storage = Arc::new(MemoryStorage::new(
        std::fs::read(folder.join("theirs.qcow2")).unwrap(),
    ));
    let image = subject(folder, "theirs.qcow2").open(&storage);
    let mut noise = Noise(5);
    let mut commands = Vec::new();
    for number in 0..25 {
        let start = noise.below(size / 512) * 512;
        let length = ((1 + noise.below(200)) * 512).min(size - start);
        let offset = GuestOffset(start);
        commands.push(match noise.below(5) {
            0 => {
                image.write_zeroes(offset, length, false).unwrap();
                format!("write -q -z {start} {length}")
            }
            1 => {
                image.discard(offset, length).unwrap();
                format!("discard -q {start} {length}")
            }
            _ => {
                let data = vec![number; usize::try_from(length).unwrap()];
                image.write_at(offset, &data).unwrap();
                format!("write -q -P {number} {start} {length}")
            }
        });
    }
    image.close().unwrap();
    std::fs::write(folder.join("ours.qcow2"), storage.contents()).unwrap();
    write(folder, "theirs.qcow2", &commands);
    assert_clean(folder, "ours.qcow2");
    for (name, _) in bitmaps {
        let [ours, theirs] = ["ours.qcow2", "theirs.qcow2"].map(|image| bits(folder, image, name));
        assert!(theirs.lines().count() > 1 || name == "disabled", "{theirs}");
        assert!(ours == theirs, "{name}");
    }
}

/// Checks that `convert -n` into an image with bitmaps keeps them, and sets the bits of its writes.
fn convert_into() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bitmaps = make(folder, "ours.qcow2", "cluster_size=4k", 3 << 20);
    std::fs::copy(folder.join("ours.qcow2"), folder.join("theirs.qcow2")).unwrap();
    std::fs::write(folder.join("data.raw"), Noise(1).bytes(1_300_480)).unwrap();
    let tools = [
        ("ours.qcow2", ours as crate::tools::Tool),
        ("theirs.qcow2", qemu_img),
    ];
    for (image, tool) in tools {
        tool(folder, &["convert", "-n", "-O", "qcow2", "data.raw", image]).ok();
    }
    assert_clean(folder, "ours.qcow2");
    for (name, _) in bitmaps {
        let [ours, theirs] = ["ours.qcow2", "theirs.qcow2"].map(|image| bits(folder, image, name));
        assert!(ours == theirs, "{name}");
    }
    same_answer(folder, &["info", "ours.qcow2"]);
}

/// Checks that after a power cut the image is consistent, and that a bitmap that isn't marked as in use has the bits
/// of all writes.
fn power_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "x.qcow2", "cluster_size=1k", 1 << 20);
    let start = std::fs::read(folder.join("x.qcow2")).unwrap();
    let storage = Arc::new(MemoryStorage::new(start.clone()).recording());
    let image = subject(folder, "x.qcow2").open(&storage);
    image.write_at(GuestOffset(700 << 10), &[7; 4096]).unwrap();
    image.flush().unwrap();
    let in_use = |bytes: &[u8]| {
        std::fs::write(folder.join("cut.qcow2"), bytes).unwrap();
        let info = qemu_img(folder, &["info", "cut.qcow2"]).ok();
        info.matches("in-use").count()
    };
    assert_eq!(in_use(&storage.contents()), 4);
    image.close().unwrap();
    assert_eq!(in_use(&storage.contents()), 0);
    let mut bytes = start;
    let mut seen = Vec::new();
    for change in storage.take_record() {
        change.apply(&mut bytes);
        crate::power_cut::assert_clean(&bytes, false);
        let marked = in_use(&bytes);
        if seen.last() != Some(&marked) {
            seen.push(marked);
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 3, 2, 1, 0]);
    // Power cuts during random work leave a consistent image, too.
    subject(folder, "x.qcow2").work_and_cut(3, 25, 60);
}

/// Checks that `convert --bitmaps` copies the same bitmaps and bits as qemu-img.
fn copied(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "base.qcow2", "9M"]).ok();
    let bitmaps = make(folder, "x.qcow2", "cluster_size=4k", 9 << 20);
    write(
        folder,
        "x.qcow2",
        &["write -q 4M 100k".to_owned(), "discard -q 8M 1M".to_owned()],
    );
    let mut images = Vec::new();
    for (image, tool) in [
        ("o.qcow2", ours as crate::tools::Tool),
        ("t.qcow2", qemu_img),
    ] {
        let options = options.replace("t.data", &format!("{image}.data"));
        let mut args = vec!["convert", "--bitmaps", "-O", "qcow2"];
        args.extend(options.split_whitespace());
        args.extend(["x.qcow2", image]);
        tool(folder, &args).ok();
        assert_clean(folder, image);
        let info = qemu_img(folder, &["info", image]).ok();
        let of_format = info.split("Format specific").nth(1).unwrap();
        let of_format = of_format.split("Child node").next().unwrap();
        images.push(of_format.replace(image, ""));
    }
    assert_eq!(images[0], images[1]);
    for (name, _) in bitmaps {
        let [x, o] = ["x.qcow2", "o.qcow2"].map(|image| bits(folder, image, name));
        assert!(x == o, "{name}");
    }
    same_answer(folder, &["info", "o.qcow2"]);
    same_answer(folder, &["check", "o.qcow2"]);
    let args = ["compare", "x.qcow2", "o.qcow2"];
    assert_eq!(qemu_img(folder, &args).ok(), "Images are identical.\n");
    // The copied bitmaps record later writes.
    write(folder, "o.qcow2", &["write -q 2M 100k".to_owned()]);
    assert_clean(folder, "o.qcow2");
}

/// Checks copies into images with bitmaps, with a backing file's name in the header, and with bitmaps of the same
/// name.
fn copied_into_existing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "x.qcow2", "cluster_size=4k", 1 << 20);
    std::fs::write(folder.join("base.raw"), vec![1; 1 << 20]).unwrap();
    let args = [
        "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "y.qcow2",
    ];
    qemu_img(folder, &args).ok();
    let header = std::fs::read(folder.join("y.qcow2")).unwrap();
    let args = [
        "convert",
        "-n",
        "--bitmaps",
        "-O",
        "qcow2",
        "x.qcow2",
        "y.qcow2",
    ];
    ours(folder, &args).ok();
    assert_clean(folder, "y.qcow2");
    same_answer(folder, &["info", "y.qcow2"]);
    for name in ["fine", "late"] {
        assert!(bits(folder, "x.qcow2", name) == bits(folder, "y.qcow2", name));
    }
    // The name of the backing file was moved.
    assert!(std::fs::read(folder.join("y.qcow2")).unwrap()[8..16] != header[8..16]);
    let refused = ours(folder, &args);
    refused.fails(
        1,
        "Failed to create bitmap late: Bitmap already exists: late",
    );
    same_answer(folder, &args);
    qemu_img(folder, &["bitmap", "--remove", "x.qcow2", "late"]).ok();
    for name in ["fine", "b", "coarse"] {
        qemu_img(folder, &["bitmap", "--remove", "y.qcow2", name]).ok();
    }
    qemu_img(folder, &["bitmap", "--remove", "x.qcow2", "disabled"]).ok();
    ours(folder, &args).ok();
    assert_clean(folder, "y.qcow2");
    let info = qemu_img(folder, &["info", "y.qcow2"]).ok();
    assert_eq!(info.matches("granularity").count(), 5, "{info}");
}

fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "x.qcow2", "cluster_size=4k", 1 << 20);
    qemu_img(folder, &["create", "-q", "-f", "raw", "x.raw", "1M"]).ok();
    let create = ["create", "-q", "-f", "qcow2"];
    for (options, image, size) in [
        (&[][..], "big.qcow2", "2M"),
        (&["-o", "compat=0.10"], "old.qcow2", "1M"),
    ] {
        qemu_img(folder, &[&create[..], options, &[image, size]].concat()).ok();
    }
    let calls = [
        "--bitmaps -O raw x.qcow2 y.raw",
        "--bitmaps -O qcow2 -o compat=0.10 x.qcow2 y.qcow2",
        "--skip-broken-bitmaps -O qcow2 x.qcow2 y.qcow2",
        "--bitmaps -O qcow2 x.raw y.qcow2",
        "--bitmaps -O qcow2 old.qcow2 y.qcow2",
        "--bitmaps -O qcow2 x.qcow2 x.qcow2 y.qcow2",
        "--bitmaps -n -O qcow2 x.qcow2 big.qcow2",
        "--bitmaps -n -O qcow2 x.qcow2 old.qcow2",
    ];
    let same = |call: &str| {
        let args: Vec<&str> = ["convert"]
            .into_iter()
            .chain(call.split_whitespace())
            .collect();
        same_answer(folder, &args);
    };
    for call in calls {
        same(call);
    }
    // This marks a bitmap as in use, as by a program that ended without closing the image.
    let path = folder.join("x.qcow2");
    let mut bytes = std::fs::read(&path).unwrap();
    let kind = 0x2385_2875u32.to_be_bytes();
    let at = bytes.windows(4).position(|window| window == kind).unwrap();
    let directory = u64::from_be_bytes(bytes[at + 24..at + 32].try_into().unwrap());
    bytes[usize::try_from(directory).unwrap() + 15] |= 1;
    std::fs::write(&path, &bytes).unwrap();
    let args = ["convert", "--bitmaps", "-O", "qcow2", "x.qcow2", "y.qcow2"];
    for tool in [ours, qemu_img] {
        let ran = tool(folder, &args);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(
            ran.stderr
                .contains("Cannot copy inconsistent bitmap 'fine'\nTry --skip-broken")
        );
    }
    same("--bitmaps --skip-broken-bitmaps -O qcow2 x.qcow2 y.qcow2");
    let info = qemu_img(folder, &["info", "y.qcow2"]).ok();
    assert_eq!(info.matches("granularity").count(), 4, "{info}");
    // Without the autoclear bit bitmaps are invalid.
    bytes[95] = 0;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(ours(folder, &args).status, Some(0));
    let info = qemu_img(folder, &["info", "y.qcow2"]).ok();
    assert!(!info.contains("granularity"), "{info}");
}

/// Checks that an image with two bitmaps of one name never counts as consistent, since QEMU doesn't open it.
fn two_of_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "x", "1M"]).ok();
    for name in ["name1", "name2"] {
        qemu_img(folder, &["bitmap", "--add", "x", name]).ok();
    }
    let path = folder.join("x");
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.windows(5).position(|name| name == b"name2").unwrap();
    bytes[second + 4] = b'1';
    std::fs::write(&path, &bytes).unwrap();
    for args in [
        &["info", "x"][..],
        &["check", "x"],
        &["check", "-r", "all", "x"],
    ] {
        let theirs = qemu_img(folder, args);
        assert_eq!(theirs.status, Some(1), "{theirs:?}");
        ours(folder, args).fails(1, "Bitmap already exists: name1");
        assert!(std::fs::read(&path).unwrap() == bytes, "{args:?}");
    }
}
