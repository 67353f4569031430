//! Tests of command lines of real programs, which both tools run on copies of the same files.
//!
//! Each entry is a command of some program (libvirt, the OpenStack services, CDI, vdsm, libguestfs, Proxmox, Incus,
//! packer, lima and so on), with the paths replaced. Exit status, standard output and standard error must be the same
//! to the byte, and the resulting images must have the same disks. cowhide is called through a link with the name
//! `qemu-img` and under the limits of such programs. These are 1 GiB of address space and 2 s of processor time for
//! reading an image, and 2 GiB otherwise.
//!
//! Calls that don't work yet are in [`PENDING`], with their error. Once one works, its entry has to be moved up.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Ran, same_contents, write_disk};
use crate::tools::{qemu_img, without_help};
use crate::trial;

/// Calls that only read images.
const LOOK: &[&str] = &[
    // nova, ironic, cinder, glance
    "info disk.raw --output=json",
    "info img.qcow2 --output=json -f qcow2",
    "info -f qcow2 --output=json img.qcow2",
    "info --output=json nope",
    "info --output=json aes.qcow2",
    // CDI, vdsm, cloud-hypervisor
    "check --output json -f qcow2 img.qcow2",
    "check img.qcow2",
    // libguestfs, virt-v2v, guestfs-tools
    "info --output json ./img.qcow2",
    "info --output json ./over.qcow2",
    r#"info json:{"file.driver":"file","file.filename":"disk.raw","driver":"raw","offset":512,"size":1024}"#,
    // Proxmox
    "info --output=json over.qcow2 -f qcow2 --backing-chain",
    "info --output=json disk.raw -f raw --backing-chain",
    // vagrant-libvirt, OpenNebula, quickemu: for people, with grep
    "info over.qcow2",
    "info disk.raw",
    "check -q img.qcow2",
    // coreos-assembler, osbuild, longhorn, multipass, UTM
    "info --output=json img.qcow2",
    "info img.qcow2 --force-share --output=json",
    "info -U img.qcow2",
    "map --output json img.qcow2",
    "measure --output json -f qcow2 -O qcow2 img.qcow2",
    "measure --output=json --size 1024K -O qcow2",
    "compare -p -f raw -F qcow2 disk.raw img.qcow2",
];

/// Calls that make or change an image.
const MAKE: &[&str] = &[
    // nova
    "convert -t none -O qcow2 -f raw disk.raw out.qcow2",
    "convert -t writeback -O raw -f qcow2 img.qcow2 out.raw",
    "convert -t none -O raw --object secret,id=sec0,file=key --image-opts driver=qcow2,file.driver=file,file.filename=aes.qcow2,encrypt.key-secret=sec0 out.raw",
    "convert -t none -O qcow2 -f raw --object secret,id=sec1,file=key -o encrypt.format=aes,encrypt.key-secret=sec1 disk.raw enc.qcow2",
    // cinder
    "convert -O raw -t none -S 0 -f qcow2 img.qcow2 out.raw",
    "convert --object secret,id=sec1,format=raw,file=key --image-opts encrypt.format=aes,encrypt.key-secret=sec1,file.filename=aes.qcow2 -O raw out.raw",
    "create -f qcow2 -o preallocation=metadata out.qcow2 64M",
    "create -fqcow2 out.qcow2 1G",
    // ironic, glance
    "convert -O raw -t writeback -S 1M -f qcow2 -W img.qcow2 out.raw",
    "convert -f raw -O qcow2 disk.raw out.qcow2",
    // CDI
    "convert -t none -p -O raw img.qcow2 out.raw",
    "convert -t writeback -p -O raw img.qcow2 out.raw -o preallocation=falloc",
    "convert -t writeback -p -O raw img.qcow2 out.raw -o preallocation=full",
    "convert -t writeback -p -O raw img.qcow2 out.raw -S 0",
    "create -f raw out.raw 1234567 -o preallocation=falloc",
    // vdsm
    "convert -p -t none -T none -f qcow2 -O qcow2 -o compat=1.1 img.qcow2 out.qcow2",
    "convert -p -t none -T none -f raw -O raw disk.raw out.raw -W",
    "create -f qcow2 -o compat=1.1 out.qcow2 1073741824",
    // libvirt
    "create -f qcow2 -o compat=1.1,lazy_refcounts out.qcow2 1024K",
    "convert -f raw -O qcow2 -o preallocation=metadata,compat=0.10 disk.raw out.qcow2",
    "convert --image-opts -n --target-image-opts driver=raw,file.filename=disk.raw driver=raw,file.filename=old.raw",
    // libguestfs, guestfs-tools
    "create -f qcow2 -o preallocation=falloc out.qcow2 1M",
    "create -f raw out.raw 1M",
    "convert -f qcow2 -O raw over.qcow2 out.raw",
    "convert -f raw disk.raw -O qcow2 out.qcow2",
    // Proxmox
    "create -o preallocation=metadata -f qcow2 out.qcow2 1024K",
    "convert -p -n -t none -T none -f qcow2 -O raw img.qcow2 old.raw",
    "convert -p -n -r 102400K -f qcow2 -O raw img.qcow2 old.raw",
    // packer, lima, podman, colima, multipass
    "create -f qcow2 out.qcow2 10240M",
    "convert -O qcow2 img.qcow2 out.qcow2",
    "convert -O raw img.qcow2 out.raw",
    "create -f qcow2 out.qcow2 107374182400",
    // Incus
    "convert -p -f qcow2 -O raw -t writeback -T none -t none -W img.qcow2 out.raw",
    "convert -p -f qcow2 -O raw -t none -n --target-is-zero img.qcow2 zero.raw",
    "create -f qcow2 out.qcow2 1234b",
    // CloudStack, OpenNebula, osbuild
    "convert -n --target-is-zero -W -S 1M -O raw -t none --image-opts driver=qcow2,file.filename=img.qcow2 zero.raw",
    "convert -m 4 -O raw img.qcow2 out.raw",
    "convert -O qcow2 -m 16 -o compat=1.1 disk.raw out.qcow2",
    // coreos-assembler
    "convert -f qcow2 -O raw img.qcow2 -o preallocation=off out.raw",
    // quickemu
    "create -q -f qcow2 -o lazy_refcounts=on,preallocation=metadata out.qcow2 1M",
    // diskimage-builder
    "convert -f raw -O qcow2 -o compat=0.10 disk.raw out.qcow2",
    "convert -O raw -U --image-opts driver=qcow2,file.filename=img.qcow2 out.raw",
    "create -f qcow2 -o data_file=out.data,data_file_raw=on,preallocation=metadata out.qcow2 1M",
    "convert -p -n -l snapshot.name=s -f qcow2 -O raw snap.qcow2 old.raw",
    "check -r all img.qcow2",
    "convert -c -O qcow2 disk.raw out.qcow2",
    "create -f qcow2 -o backing_file=base.raw,backing_fmt=raw,cluster_size=65536 out.qcow2 2M",
    "create -F raw -b base.raw -f qcow2 out.qcow2 -o extended_l2=on,cluster_size=128k",
    "create -f qcow2 -b base.raw -o backing_fmt=raw,compat=1.1,lazy_refcounts out.qcow2 2048K",
    "convert -p -t none -T none -f qcow2 -O qcow2 -n -B base.raw over.qcow2 old.qcow2",
    "convert -c -o compression_type=zstd -O qcow2 disk.raw out.qcow2",
    "create -f qcow2 out.qcow2 -o nocow=on,lazy_refcounts=on 1M",
    "create -f raw -o nocow=off,preallocation=falloc,extent_size_hint=0 out.raw 1M",
    "convert -O qcow2 -o nocow=on disk.raw out.qcow2",
    // vdsm, libvirt, CloudStack, Proxmox
    "bitmap --add img.qcow2 b0",
    "bitmap --add -g 65536 --disable img.qcow2 b0",
    "snapshot -c s1 img.qcow2",
    "snapshot -q -d s snap.qcow2",
    "snapshot -a s snap.qcow2",
    "snapshot -l snap.qcow2",
    // libguestfs
    "dd if=disk.raw of=out.raw bs=256k count=1",
    "commit -d over.qcow2",
    "rebase -u -b base.raw -F raw over.qcow2",
    "rebase -t none -T none -f qcow2 -b {} over.qcow2",
    "resize -f raw disk.raw 10M",
    "resize -f qcow2 img.qcow2 10M",
    "resize img.qcow2 +1G",
    "resize -q -f qcow2 over.qcow2 4194304",
    "resize --shrink snap.qcow2 1M",
    "amend -o compat=1.1 img.qcow2",
];

/// Calls that don't work yet, and their errors.
const PENDING: &[(&str, &str)] = &[];

pub fn trials() -> Vec<Trial> {
    let files = Files::default();
    let mut trials = Vec::new();
    for call in LOOK {
        let files = files.clone();
        trials.push(trial(format!("argv::[{call}]"), move || look(&files, call)));
    }
    for call in MAKE {
        let files = files.clone();
        trials.push(trial(format!("argv::[{call}]"), move || make(&files, call)));
    }
    for (call, words) in PENDING {
        let files = files.clone();
        trials.push(trial(format!("argv::pending::[{call}]"), move || {
            pending(&files, call, words);
        }));
    }
    for (name, test) in [
        ("argv::to_standard_output", to_standard_output as fn(&Files)),
        ("argv::many_threads_in_little_memory", little_memory),
        ("argv::the_list_of_options", list_of_options),
    ] {
        let files = files.clone();
        trials.push(trial(name, move || test(&files)));
    }
    trials
}

/// The files for the calls. They are made once, and removed after the last test.
#[derive(Clone, Default)]
struct Files(Arc<OnceLock<tempfile::TempDir>>);

impl Files {
    fn copy(&self) -> tempfile::TempDir {
        let original = self.0.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            make_files(folder.path());
            folder
        });
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .args(["-a", "--sparse=always", "."])
            .arg(copy.path())
            .current_dir(original.path())
            .status();
        assert!(copied.unwrap().success());
        copy
    }
}

fn make_files(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 3_000_320, 11);
    write_disk(&folder.join("base.raw"), 2 << 20, 12);
    std::fs::write(folder.join("key"), "secret").unwrap();
    std::fs::write(folder.join("old.raw"), vec![7; 4 << 20]).unwrap();
    std::fs::write(folder.join("zero.raw"), vec![0; 4 << 20]).unwrap();
    for line in [
        "convert -O qcow2 disk.raw img.qcow2",
        "create -q -f qcow2 -b base.raw -F raw over.qcow2 3M",
        "convert -O qcow2 disk.raw snap.qcow2",
        "snapshot -c s snap.qcow2",
        "create -q -f qcow2 old.qcow2 3M",
        "convert --object secret,id=s,file=key -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s \
         disk.raw aes.qcow2",
    ] {
        qemu_img(folder, &words(line)).ok();
    }
}

fn words(line: &str) -> Vec<&str> {
    let word = |word| if word == "{}" { "" } else { word };
    line.split_whitespace().map(word).collect()
}

/// Runs cowhide like a script: by the name `qemu-img`, and under limits.
fn limited(folder: &Path, line: &str, memory: u64, stdout: Stdio) -> Ran {
    let names = tempfile::tempdir().unwrap();
    let qemu_img = names.path().join("qemu-img");
    std::os::unix::fs::symlink(COWHIDE, &qemu_img).unwrap();
    Command::new("prlimit")
        .arg(format!("--as={memory}"))
        .arg("--cpu=2")
        .arg(&qemu_img)
        .args(words(line))
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(stdout)
        .output()
        .unwrap()
        .into()
}

fn assert_same(ours: &Ran, theirs: &Ran) {
    assert_eq!(ours.status, theirs.status, "{ours:?} {theirs:?}");
    assert_eq!(without_help(&ours.stderr, &theirs.stderr), theirs.stderr);
    assert_eq!(
        without_progress(&ours.stdout),
        without_progress(&theirs.stdout)
    );
}

/// Returns output without progress but its end, since the steps differ.
fn without_progress(stdout: &str) -> &str {
    match stdout.rsplit_once("    (") {
        Some((before, last)) => {
            for step in before.split('\r').filter(|step| !step.is_empty()) {
                let number = step.trim().trim_start_matches('(');
                let number = number.trim_end_matches("/100%)");
                assert!(number.parse::<f64>().is_ok(), "{step:?} in {stdout:?}");
            }
            last
        }
        None => stdout,
    }
}

fn look(files: &Files, call: &str) {
    let folder = files.copy();
    let ours = limited(folder.path(), call, 1 << 30, Stdio::piped());
    assert_same(&ours, &qemu_img(folder.path(), &words(call)));
}

fn make(files: &Files, call: &str) {
    let (for_us, for_them) = (files.copy(), files.copy());
    let ours = limited(for_us.path(), call, 2 << 30, Stdio::piped());
    let theirs = qemu_img(for_them.path(), &words(call));
    assert_eq!(theirs.status, Some(0), "the oracle: {theirs:?}");
    assert_same(&ours, &theirs);
    same_files(for_us.path(), for_them.path());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Returns the map of a qcow2 image's clusters without host offsets and holes of the file, which differ between the
/// tools. Runs that differ only in these are joined.
pub fn map(folder: &Path, name: &str) -> Vec<(u64, serde_json::Value)> {
    let told = qemu_img(folder, &["map", "-U", "--output=json", name]).ok();
    let told: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    let mut runs: Vec<(u64, serde_json::Value)> = Vec::new();
    for mut run in told {
        let fields = run.as_object_mut().unwrap();
        fields.remove("offset");
        fields.remove("start");
        if fields["data"] == true {
            fields.remove("zero");
        }
        let length = fields.remove("length").unwrap().as_u64().unwrap();
        match runs.last_mut() {
            Some((before, last)) if *last == run => *before += length,
            _ => runs.push((length, run)),
        }
    }
    runs
}

/// Asserts that two folders have the same files: raw files to the byte, and images by their contents, reports and
/// maps.
fn same_files(ours: &Path, theirs: &Path) {
    assert_eq!(names(ours), names(theirs));
    for name in names(ours) {
        let (one, other) = (ours.join(&name), theirs.join(&name));
        let encrypted = ["aes.qcow2", "enc.qcow2"].contains(&name.as_str());
        if name.ends_with(".qcow2") && !encrypted {
            assert_eq!(map(ours, &name), map(theirs, &name), "{name}");
        }
        if same_contents(&one, &other) {
            continue;
        }
        assert!(name.ends_with(".qcow2"), "{name}");
        let info = |folder: &Path| {
            let text = qemu_img(folder, &["info", &name]).ok();
            let told = text.split("Child node").next().unwrap_or_default();
            let told = told.lines().filter(|line| !line.starts_with("disk size"));
            told.map(without_date).collect::<Vec<_>>()
        };
        assert_eq!(info(ours), info(theirs), "{name}");
        // Encrypted images always have this key.
        let encrypted = info(ours).iter().any(|line| line == "encrypted: yes");
        let key = if encrypted {
            ",encrypt.key-secret=s"
        } else {
            ""
        };
        let image = |path: &Path| format!("driver=qcow2,file.filename={}{key}", path.display());
        let (one, other) = (image(&one), image(&other));
        let mut compare = vec![
            "compare",
            "--object",
            "secret,id=s,file=key",
            "--image-opts",
        ];
        compare.extend([one.as_str(), other.as_str()]);
        assert_eq!(
            qemu_img(ours, &compare).ok(),
            "Images are identical.\n",
            "{name}"
        );
        let mut check = vec![
            "check",
            "-q",
            "--object",
            "secret,id=s,file=key",
            "--image-opts",
        ];
        check.push(&one);
        qemu_img(ours, &check).ok();
    }
}

/// Returns a line of a report without the time of a snapshot, which differs.
fn without_date(line: &str) -> String {
    let is_date = |word: &&str| {
        let count = |sign| word.matches(sign).count();
        word.len() == 10 && count('-') == 2 || word.len() == 8 && count(':') == 2
    };
    let words = line.split(' ').filter(|word| !is_date(word));
    words.collect::<Vec<_>>().join(" ")
}

fn pending(files: &Files, call: &str, refused_by: &str) {
    let (for_us, for_them) = (files.copy(), files.copy());
    let theirs = qemu_img(for_them.path(), &words(call));
    assert_eq!(theirs.status, Some(0), "the oracle: {theirs:?}");
    let ours = limited(for_us.path(), call, 2 << 30, Stdio::piped());
    assert!(
        ours.status == Some(1) && ours.stderr.contains(refused_by),
        "no longer refused as it was; it belongs with the calls that work: {ours:?}"
    );
}

/// Checks `convert … /dev/stdout`, redirected into a file, as Proxmox does it.
fn to_standard_output(files: &Files) {
    let folder = files.copy();
    let folder = folder.path();
    let out = std::fs::File::create(folder.join("out.raw")).unwrap();
    let call = "convert -f qcow2 -O raw img.qcow2 /dev/stdout";
    let ran = limited(folder, call, 2 << 30, out.into());
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    assert!(same_contents(
        &folder.join("out.raw"),
        &folder.join("disk.raw")
    ));
}

fn little_memory(files: &Files) {
    let folder = files.copy();
    let folder = folder.path();
    let key = "--object secret,id=s,file=key";
    let image = "driver=qcow2,file.filename=enc.qcow2,encrypt.key-secret=s";
    for call in [
        format!(
            "convert -m 16 {key} -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s,cluster_size=2M disk.raw enc.qcow2"
        ),
        format!("convert -m 16 {key} --image-opts {image} -O raw out.raw"),
    ] {
        limited(folder, &call, 1 << 30, Stdio::piped()).ok();
    }
    assert!(same_contents(
        &folder.join("out.raw"),
        &folder.join("disk.raw")
    ));
}

/// Checks the call of older libvirt, which searches the list of options for `compat`, and gives a device as the name.
fn list_of_options(files: &Files) {
    let folder = files.copy();
    for call in ["create -o ? -f qcow2 /dev/null", "create -o help -f qcow2"] {
        let told = limited(folder.path(), call, 1 << 30, Stdio::piped()).ok();
        assert!(told.contains("  compat=<str>"), "{told}");
        assert!(
            qemu_img(folder.path(), &words(call))
                .ok()
                .contains("  compat=<str>")
        );
    }
}
