//! Tests of block devices, full of old data, as targets and sources. They are loop devices, which need root and a
//! kernel that has them. Without these the tests are listed as ignored.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::common::{Noise, Ran, run, write_disk};
use crate::tools::{ours, qemu_img, same_answer};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let possible = Device::are_possible();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), [0; 4096]).unwrap();
    // Some systems have only loop devices with blocks of 512 bytes.
    let has_blocks = possible && Device::with_blocks(&folder.path().join("file"), 4096).is_some();
    vec![
        trial("devices::as_targets_and_sources", devices).with_ignored_flag(!possible),
        trial("devices::thin_ones_stay_thin", thin).with_ignored_flag(!possible),
        trial("devices::of_big_blocks_stay_thin", big_blocks).with_ignored_flag(!has_blocks),
        trial("devices::of_big_blocks_without_cache", without_cache).with_ignored_flag(!has_blocks),
        trial("devices::over_their_own_source", over_source).with_ignored_flag(!possible),
        trial("devices::that_are_read_only", read_only).with_ignored_flag(!possible),
        trial(
            "devices::file_systems_without_direct_access",
            no_direct_access,
        ),
    ]
}

/// A loop device over a file, until it is dropped.
pub struct Device(String);

impl Device {
    /// Returns true if loop devices can be made on this machine.
    pub fn are_possible() -> bool {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), [0; 4096]).unwrap();
        Self::new(&folder.path().join("file")).is_some()
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn new(file: &Path) -> Option<Self> {
        Self::with(file, &[])
    }

    /// Returns a device with blocks of `size` bytes.
    fn with_blocks(file: &Path, size: u32) -> Option<Self> {
        Self::with(file, &["--sector-size", &size.to_string()])
    }

    fn with(file: &Path, options: &[&str]) -> Option<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(file)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let name = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        (made.status.success() && !name.is_empty()).then_some(Self(name))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn devices() {
    const SIZE: u64 = 3 << 20;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), SIZE, 1);
    write_disk(&folder.join("big.raw"), 9 << 20, 1);
    fs::write(folder.join("pw"), "correct horse").unwrap();
    fs::write(folder.join("old"), Noise(3).bytes(8 << 20)).unwrap();
    fs::write(folder.join("zero.raw"), []).unwrap();
    fs::File::options()
        .write(true)
        .open(folder.join("zero.raw"))
        .and_then(|file| file.set_len(SIZE))
        .unwrap();
    fs::copy(folder.join("old"), folder.join("file")).unwrap();
    let device = Device::new(&folder.join("file")).unwrap();
    let device = device.0.as_str();
    let renew = || fs::copy(folder.join("old"), device).unwrap();
    let words = |text: &str| -> Vec<String> {
        text.split(' ')
            .map(|word| word.replace("DEVICE", device))
            .collect()
    };
    let ours = |text: &str| {
        let words = words(text);
        ours(
            folder,
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let theirs = |text: &str| {
        let words = words(text);
        qemu_img(
            folder,
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let image = "driver=qcow2,file.driver=host_device,file.filename=DEVICE";
    let encrypted = format!("{image},encrypt.key-secret=s");
    for options in [
        "",
        "-o preallocation=metadata",
        "-o preallocation=falloc",
        "-o preallocation=full",
        "-o preallocation=metadata,extended_l2=on",
        "-o cluster_size=512",
        "-c",
        "-t none",
        "--encrypt aes --password-file pw",
    ] {
        let image = if options.contains("encrypt") {
            encrypted.as_str()
        } else {
            image
        };
        let secret = "--object secret,id=s,file=pw";
        for (command, holds) in [
            ("convert -O qcow2 OPTIONS disk.raw DEVICE", "disk.raw"),
            ("create -q -f qcow2 OPTIONS DEVICE 3M", "zero.raw"),
        ] {
            // Only convert has these options.
            if command.starts_with("create") && ["-c", "-t none"].contains(&options) {
                continue;
            }
            renew();
            let command = command.replace("OPTIONS", options).replace("  ", " ");
            ours(&command).ok();
            let said = theirs(&format!("check {secret} --image-opts {image}")).ok();
            assert!(said.starts_with("No errors"), "{command}: {said}");
            let raw = format!("driver=raw,file.filename={holds}");
            let compared = theirs(&format!("compare {secret} --image-opts {image} {raw}"));
            assert_eq!(compared.status, Some(0), "{command}: {compared:?}");
            let same = format!("compare -q {secret} --image-opts {image} {raw}");
            ours(&same).ok();
        }
    }
    // A device that is too small is an error, and its old image is invalid afterwards.
    for (options, words) in [
        ("-O raw", "Cannot grow device files"),
        ("-O qcow2 -o preallocation=metadata", "small"),
    ] {
        renew();
        let ran = ours(&format!("convert {options} big.raw DEVICE"));
        ran.fails(1, words);
        assert!(fs::read(device).unwrap() == fs::read(folder.join("old")).unwrap());
    }
    renew();
    ours("convert -O qcow2 -S 0 big.raw DEVICE").fails(1, "No space left on device");
    assert_eq!(theirs("info -f qcow2 DEVICE").status, Some(1));
    // Creating a raw disk on a device changes nothing.
    renew();
    ours("create -q -f raw DEVICE 3M").ok();
    assert!(fs::read(device).unwrap() == fs::read(folder.join("old")).unwrap());
    // A device can't be its own target.
    renew();
    ours("convert -f raw -O qcow2 DEVICE DEVICE").fails(1, "are the same file");
    std::os::unix::fs::symlink(device, folder.join("link")).unwrap();
    ours("convert -f raw -n DEVICE link").fails(1, "are the same file");
    assert!(fs::read(device).unwrap() == fs::read(folder.join("old")).unwrap());
    // The image on the device is read, repaired, and written.
    ours("convert -O qcow2 disk.raw DEVICE").ok();
    let io = ["-f", "qcow2", "-c", "write -P 5 0 64k", device];
    assert_eq!(run(folder, "qemu-io", io).status, Some(0));
    ours("convert -f qcow2 -O raw DEVICE back.raw").ok();
    theirs("compare -q -f qcow2 -F raw DEVICE back.raw").ok();
    ours("convert -n -O qcow2 disk.raw DEVICE").ok();
    ours("check -q -r all DEVICE").ok();
    theirs("check -q -f qcow2 DEVICE").ok();
    ours("compare -q DEVICE disk.raw").ok();
}

/// Writes to a device, whose file has the bytes then. Closing alone doesn't suffice while others have the device open.
fn fill(device: &Device, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(&device.0).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// Returns the space that a file takes, in bytes.
fn taken(file: &Path) -> u64 {
    // Without a flush, delayed allocation may report less.
    fs::File::open(file)
        .and_then(|file| file.sync_all())
        .unwrap();
    fs::metadata(file).unwrap().blocks() * 512
}

/// Checks that holes of the source become holes of the device, unless `-S 0` writes every byte.
fn thin() {
    const SIZE: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), SIZE, 1);
    let file = folder.join("file");
    // A raw disk doesn't fill the device, and an image of it nearly does.
    let spare = 1 << 20;
    let old = Noise(3).bytes(usize::try_from(SIZE + spare).unwrap());
    fs::write(&file, &old).unwrap();
    let device = Device::new(&file).unwrap();
    for (options, format) in [
        ("-O raw", "raw"),
        ("-n -O raw", "raw"),
        ("-O qcow2 -o preallocation=metadata", "qcow2"),
        ("-S 0 -O raw", "raw"),
        ("-S 0 -n -O raw", "raw"),
    ] {
        fill(&device, &old);
        assert!(taken(&file) >= SIZE, "{options}");
        let line = format!("convert -t writeback {options} disk.raw {}", device.0);
        ours(folder, &line.split(' ').collect::<Vec<_>>()).ok();
        let compare = [
            "compare", "-q", "-f", "raw", "-F", format, "disk.raw", &device.0,
        ];
        let ran = qemu_img(folder, &compare);
        // The length of a raw device is fixed, and the data beyond the disk is unchanged.
        let expected = if format == "raw" { 1 } else { 0 };
        assert_eq!(ran.status, Some(expected), "{options}: {ran:?}");
        if format == "raw" {
            let device = fs::read(&device.0).unwrap();
            let (disk, rest) = device.split_at(usize::try_from(SIZE).unwrap());
            assert!(
                disk == fs::read(folder.join("disk.raw")).unwrap(),
                "{options}"
            );
            assert!(rest == &old[disk.len()..], "{options}");
        }
        let taken = taken(&file);
        let is_thin = taken < spare + (2 << 20);
        assert_eq!(is_thin, !options.starts_with("-S 0"), "{options}: {taken}");
    }
}

/// Checks a disk whose end isn't aligned to a block of the device.
fn big_blocks() {
    const SIZE: usize = (8 << 20) - 1536;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), SIZE as u64, 1);
    let file = folder.join("file");
    let old = Noise(3).bytes(8 << 20);
    fs::write(&file, &old).unwrap();
    let device = Device::with_blocks(&file, 4096).unwrap();
    for options in ["-n", ""] {
        fill(&device, &old);
        let line = format!(
            "convert -t writeback {options} -O raw disk.raw {}",
            device.0
        );
        ours(folder, &line.split_whitespace().collect::<Vec<_>>()).ok();
        let device = fs::read(&device.0).unwrap();
        assert!(device[..SIZE] == fs::read(folder.join("disk.raw")).unwrap());
        assert!(device[SIZE..] == old[SIZE..]);
        let taken = taken(&file);
        assert!(taken < 1 << 20, "{options}: {taken}");
    }
}

/// Checks conversions that bypass the page cache on both sides, where every request must be of whole blocks of 4096
/// bytes. They convert each kind of image to kinds whose clusters, tables and compressed data aren't aligned to such
/// blocks.
fn without_cache() {
    const DEVICE: &str = "file.driver=host_device,file.filename";
    const KINDS: [&str; 8] = [
        "-O raw",
        "-O qcow2",
        "-O qcow2 -o cluster_size=512",
        "-O qcow2 -o extended_l2=on,refcount_bits=1",
        "-O qcow2 -o preallocation=metadata",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd,cluster_size=4k",
        "-O qcow2 --encrypt aes",
    ];
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The disk has whole blocks, since a raw disk on a device has the device's size.
    write_disk(&folder.join("disk.raw"), 3 << 20, 1);
    fs::write(folder.join("pw"), "correct horse").unwrap();
    let device = |name: &str, length: usize| {
        fs::write(folder.join(name), Noise(3).bytes(length)).unwrap();
        Device::with_blocks(&folder.join(name), 4096).unwrap()
    };
    let secret = "--object secret,id=s,file=pw";
    let image = |kind: &str, device: &Device| {
        let name = device.name();
        match kind {
            _ if kind.contains("raw") => format!("driver=raw,{DEVICE}={name}"),
            _ if kind.contains("aes") => {
                format!("driver=qcow2,encrypt.key-secret=s,{DEVICE}={name}")
            }
            _ => format!("driver=qcow2,{DEVICE}={name}"),
        }
    };
    let call = |tool: fn(&Path, &[&str]) -> Ran, line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        tool(folder, &words).ok();
    };
    let holds_the_disk = |kind: &str, device: &Device| {
        let image = image(kind, device);
        let disk = "driver=raw,file.filename=disk.raw";
        let compare = format!("compare -q {secret} --image-opts {image} {disk}");
        call(qemu_img, &compare);
        call(ours, &format!("{compare} -T none"));
        if !kind.contains("raw") {
            let check = format!("check -q {secret} --image-opts {image}");
            call(qemu_img, &check);
            let check = format!("check -q -T none --image-opts {image}");
            call(ours, &check);
        }
    };
    let size_of = |kind: &str| {
        if kind.contains("raw") {
            3 << 20
        } else {
            8 << 20
        }
    };
    for (index, from) in KINDS.iter().enumerate() {
        let source = device("source", size_of(from));
        let to_source = format!(
            "convert --password-file pw -T none -t none -f raw {from} disk.raw {}",
            source.name()
        );
        call(ours, &to_source);
        holds_the_disk(from, &source);
        for step in [1, 3, 4] {
            let to = KINDS[(index + step) % KINDS.len()];
            let target = device("target", size_of(to));
            let password = match from.contains("aes") || to.contains("aes") {
                true => "--password-file pw",
                false => "",
            };
            let format = if from.contains("raw") { "raw" } else { "qcow2" };
            let convert = format!(
                "convert {password} -T none -t none -f {format} {to} {} {}",
                source.name(),
                target.name()
            );
            call(ours, &convert);
            holds_the_disk(to, &target);
        }
    }
}

/// Checks that a loop device isn't overwritten if the file behind it is the source. QEMU destroys the source without
/// a message.
fn over_source() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 1 << 20, 3);
    let convert = "convert -O qcow2 disk.raw disk.qcow2";
    ours(folder, &convert.split(' ').collect::<Vec<_>>()).ok();
    for (name, format) in [("disk.raw", "raw"), ("disk.qcow2", "qcow2")] {
        let before = fs::read(folder.join(name)).unwrap();
        let device = Device::new(&folder.join(name)).unwrap();
        // A loop device over the loop device is the same file, too.
        let above = Device::new(Path::new(device.name())).unwrap();
        for (from, to) in [
            (name, device.name()),
            (name, above.name()),
            (device.name(), name),
            (above.name(), name),
            (device.name(), above.name()),
        ] {
            for options in ["-O raw", "-O host_device", "-n -O raw", "-O qcow2"] {
                if options.contains("host_device") && to == name {
                    continue;
                }
                let call = format!("convert -f {format} {options} {from} {to}");
                let ran = ours(folder, &call.split(' ').collect::<Vec<_>>());
                assert_eq!(ran.status, Some(1), "{call}: {ran:?}");
                assert!(ran.stderr.contains("are the same file"), "{call}: {ran:?}");
                assert!(fs::read(folder.join(name)).unwrap() == before, "{call}");
            }
        }
        // Other devices may be written.
        fs::write(folder.join("other"), vec![1; 2 << 20]).unwrap();
        let other = Device::new(&folder.join("other")).unwrap();
        let call = format!("convert -f {format} -O raw {name} {}", other.name());
        ours(folder, &call.split(' ').collect::<Vec<_>>()).ok();
    }
}

/// Checks a read-only device, at which the system only fails with the first write.
fn read_only() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![1; 1 << 20]).unwrap();
    fs::write(folder.join("held"), vec![2; 1 << 20]).unwrap();
    let device = Device::with(&folder.join("held"), &["--read-only"]).unwrap();
    for call in [
        "convert -O raw disk.raw DEVICE",
        "convert -O host_device disk.raw DEVICE",
        "convert -n -O raw disk.raw DEVICE",
        "create -f raw DEVICE 1M",
        "check -r all -f qcow2 DEVICE",
    ] {
        let call = call.replace("DEVICE", device.name());
        for tool in [ours, qemu_img] {
            let ran = tool(folder, &call.split(' ').collect::<Vec<_>>());
            assert_eq!(ran.status, Some(1), "{call}: {ran:?}");
            let words = "The device is not writable: Permission denied";
            assert!(ran.stderr.contains(words), "{call}: {ran:?}");
        }
    }
    assert!(fs::read(folder.join("held")).unwrap() == vec![2; 1 << 20]);
}

/// Checks files without direct access, such as those of /proc.
fn no_direct_access() {
    let folder = tempfile::tempdir().unwrap();
    let call = "convert -T none -f raw -O raw /proc/version x";
    let call: Vec<&str> = call.split(' ').collect();
    same_answer(folder.path(), &call);
    ours(folder.path(), &call).fails(1, "filesystem does not support O_DIRECT");
}
