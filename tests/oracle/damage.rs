//! Tests of random damage to images with random features: `check` gives the same status and numbers as qemu-img, and
//! a repair has these properties:
//!
//! - after `-r all` both tools report the same, and no more than before;
//! - the guest's data, on the disk and in each snapshot, is unchanged, and unreadable data is still unreadable;
//! - a second repair changes nothing;
//! - `-r leaks` only lowers refcounts that are too high. (Without other findings it also corrects COPIED flags, as
//!   qemu-img does.)
//!
//! Only kinds of damage are used for which both tools agree by design. The tables of tests/hostile have the others,
//! with reasons.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, qemu_io, run};
use crate::tools::{SECRET, ours, qemu_img};
use crate::trial;

/// The number of damages of each kind of image.
const ROUNDS: u64 = 16;

struct Kind {
    name: &'static str,
    options: &'static str,
    snapshots: bool,
    bitmap: bool,
    compressed: bool,
}

const fn kind(name: &'static str, options: &'static str) -> Kind {
    Kind {
        name,
        options,
        snapshots: false,
        bitmap: false,
        compressed: false,
    }
}

const KINDS: [Kind; 11] = [
    kind("plain", "cluster_size=4k"),
    kind("tiny_clusters", "cluster_size=512"),
    kind("old", "cluster_size=1k,compat=0.10"),
    kind("one_bit", "cluster_size=1k,refcount_bits=1"),
    kind("wide", "cluster_size=1k,refcount_bits=64"),
    kind(
        "aes",
        "cluster_size=2k,encrypt.format=aes,encrypt.key-secret=s",
    ),
    kind("external", "cluster_size=4k,data_file=data"),
    kind("lazy", "cluster_size=4k,lazy_refcounts=on"),
    Kind {
        compressed: true,
        ..kind("compressed", "cluster_size=4k")
    },
    Kind {
        snapshots: true,
        bitmap: true,
        ..kind("snapshots", "cluster_size=1k")
    },
    Kind {
        snapshots: true,
        ..kind("extended", "cluster_size=16k,extended_l2=on")
    },
];

pub fn trials() -> Vec<Trial> {
    let kinds = KINDS.iter().map(|kind| {
        let name = format!("damage::{}", kind.name);
        trial(name, move || damage_and_mend(kind))
    });
    kinds
        .chain([
            trial("damage::cut_off", cut_off),
            trial("damage::said_to_be_compressed", said_to_be_compressed),
        ])
        .collect()
}

/// Checks that the last cluster of a file may end after any of its sectors, as QEMU writes it, but not inside of one.
fn cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = Noise(7).bytes(1 << 20);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    qemu_img(folder, &["convert", "-O", "qcow2", "disk.raw", "whole"]).ok();
    let whole = fs::read(folder.join("whole")).unwrap();
    let last = disk.len() - 65536;
    assert!(
        whole.ends_with(&disk[last..]),
        "the last cluster is elsewhere"
    );
    for cut in [512, 1024, 65024] {
        fs::write(folder.join("x"), &whole[..whole.len() - cut]).unwrap();
        ours(folder, &["convert", "-O", "raw", "x", "back"]).ok();
        let mut expected = disk.clone();
        expected[disk.len() - cut..].fill(0);
        assert!(fs::read(folder.join("back")).unwrap() == expected, "{cut}");
        fs::remove_file(folder.join("back")).unwrap();
    }
    for cut in [1, 511, 700, 65535] {
        fs::write(folder.join("x"), &whole[..whole.len() - cut]).unwrap();
        for line in ["convert -O raw x back", "convert -O qcow2 x back"] {
            let ran = ours(folder, &line.split(' ').collect::<Vec<_>>());
            ran.fails(1, "is cut off inside of a sector by the end of the file");
            assert!(!folder.join("back").exists());
        }
        let ran = ours(folder, &["compare", "disk.raw", "x"]);
        assert!(
            ran.status > Some(1) && ran.stderr.contains("inside of a sector"),
            "{ran:?}"
        );
    }
}

/// Checks compressed entries in an encrypted image, which are invalid: both tools count the same clusters.
fn said_to_be_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let kind = Kind {
        snapshots: false,
        bitmap: false,
        ..kind("aes", "encrypt.format=aes,encrypt.key-secret=s")
    };
    kind.make(folder, &mut Noise(5));
    let path = folder.join("x");
    let mut bytes = fs::read(&path).unwrap();
    let get = |bytes: &[u8], at: u64| {
        let at = usize::try_from(at).unwrap();
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00
    };
    let l2 = get(&bytes, get(&bytes, 40));
    let mut said = 0;
    for index in 0..4 {
        let at = l2 + 8 * index;
        let host = get(&bytes, at);
        if host == 0 {
            continue;
        }
        let entry = 1 << 62 | 3 << 54 | host;
        let at = usize::try_from(at).unwrap();
        bytes[at..at + 8].copy_from_slice(&u64::to_be_bytes(entry));
        said += 1;
    }
    assert!(said > 0);
    fs::write(&path, bytes).unwrap();
    for output in ["human", "json"] {
        let command = format!("check --output={output}");
        let theirs = kind.run("qemu-img", folder, &command, "");
        let ours = kind.run(COWHIDE, folder, &command, "");
        assert_eq!(theirs.status, Some(0), "{theirs:?}");
        assert_eq!((ours.status, ours.stdout), (theirs.status, theirs.stdout));
    }
}

impl Kind {
    fn spec(&self, name: &str) -> String {
        let key = if self.name == "aes" {
            ",encrypt.key-secret=s"
        } else {
            ""
        };
        format!("driver=qcow2,file.filename={name}{key}")
    }

    fn run(&self, program: &str, folder: &Path, command: &str, rest: &str) -> Ran {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        let spec = self.spec("x");
        args.extend(["--object", SECRET, "--image-opts", &spec]);
        args.extend(rest.split_whitespace());
        run(folder, program, args)
    }

    fn make(&self, folder: &Path, noise: &mut Noise) {
        let create = ["create", "-q", "-f", "qcow2", "--object", SECRET, "-o"];
        qemu_img(
            folder,
            &[&create[..], &[self.options, "x", "512k"]].concat(),
        )
        .ok();
        let writes = |noise: &mut Noise, count: u64| {
            let spec = self.spec("x");
            let mut args = vec!["--object".to_owned(), SECRET.to_owned()];
            args.extend(["--image-opts".to_owned(), spec]);
            for _ in 0..count {
                let start = noise.below(1000) * 512;
                let length = ((1 + noise.below(60)) * 512).min((512 << 10) - start);
                let how = match noise.below(5) {
                    0 => "-z".to_owned(),
                    _ => format!("-P {}", 1 + noise.below(255)),
                };
                args.push("-c".to_owned());
                args.push(format!("write -q {how} {start} {length}"));
            }
            let wrote = run(folder, "qemu-io", args);
            assert_eq!(wrote.status, Some(0), "{wrote:?}");
        };
        writes(noise, 8);
        if self.compressed {
            let convert = ["convert", "-c", "-O", "qcow2", "-o", self.options, "x", "y"];
            qemu_img(folder, &convert).ok();
            fs::rename(folder.join("y"), folder.join("x")).unwrap();
            qemu_io(folder, "qcow2", "x", &["write -q -P 9 100k 30k"]);
        }
        if self.bitmap {
            qemu_img(folder, &["bitmap", "--add", "-g", "512", "x", "b"]).ok();
        }
        if self.snapshots {
            for name in ["s1", "s2"] {
                qemu_img(folder, &["snapshot", "-c", name, "x"]).ok();
                writes(noise, 4);
            }
        }
    }

    /// Returns the disk, and that of each snapshot, with zeroes for unreadable parts.
    fn contents(&self, folder: &Path) -> Vec<Vec<u8>> {
        let snapshots: &[&str] = if self.snapshots {
            &["", "-l s1", "-l s2"]
        } else {
            &[""]
        };
        let read = |snapshot: &&str| {
            let convert = format!("convert --salvage {snapshot} -O raw");
            let converted = self.run(COWHIDE, folder, &convert, "x.raw");
            assert_eq!(converted.status, Some(0), "{converted:?}");
            fs::read(folder.join("x.raw")).unwrap()
        };
        snapshots.iter().map(read).collect()
    }

    fn check(&self, program: &str, folder: &Path, options: &str) -> Verdict {
        let check = format!("check --output=json {options}");
        let ran = self.run(program, folder, &check, "");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let number = |name: &str| report[name].as_u64().unwrap_or(0);
        Verdict {
            status: ran.status,
            corruptions: number("corruptions"),
            leaks: number("leaks"),
            allocated: number("allocated-clusters"),
            end: number("image-end-offset"),
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    status: Option<i32>,
    corruptions: u64,
    leaks: u64,
    allocated: u64,
    end: u64,
}

/// The bytes of an image, with methods that find its tables.
struct Image(Vec<u8>);

impl Image {
    fn get(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn put(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn host(&self, at: usize) -> usize {
        usize::try_from(self.get(at) & 0x00ff_ffff_ffff_fe00).unwrap()
    }

    fn cluster(&self) -> usize {
        1 << self.0[23]
    }

    fn is_v3(&self) -> bool {
        self.0[7] == 3
    }

    /// Returns true for an image with an external data file, in which both tools read only from the guest offset.
    /// Only cowhide reports other host offsets.
    fn has_data_file(&self) -> bool {
        self.is_v3() && self.0[79] & 4 != 0
    }

    /// Returns the offsets of the allocated entries of the active L1 table.
    fn l1(&self) -> Vec<usize> {
        let start = self.host(40);
        let count = u32::from_be_bytes(self.0[36..40].try_into().unwrap()) as usize;
        let entries = (0..count).map(|index| start + 8 * index);
        entries.filter(|at| self.host(*at) != 0).collect()
    }

    /// Returns the offsets of the entries of uncompressed clusters in the active L2 tables.
    fn l2(&self) -> Vec<usize> {
        let step = if self.is_v3() && self.0[79] & 16 != 0 {
            16
        } else {
            8
        };
        let tables = self.l1().into_iter().map(|at| self.host(at));
        let entries =
            tables.flat_map(|table| (0..self.cluster() / step).map(move |i| table + step * i));
        let plain = |at: &usize| self.host(*at) != 0 && self.get(*at) & 1 << 62 == 0;
        entries.filter(plain).collect()
    }

    /// Returns the width of a refcount in bits.
    fn width(&self) -> usize {
        if self.is_v3() { 1 << self.0[99] } else { 16 }
    }

    fn blocks(&self) -> Vec<usize> {
        let table = self.host(48);
        let entries = (0..self.cluster() / 8).map(|index| self.host(table + 8 * index));
        entries.filter(|host| *host != 0).collect()
    }

    fn refcounts(&self) -> Vec<u64> {
        let per_byte = |byte: u8| (0..8).map(move |bit| u64::from(byte >> bit & 1));
        let blocks = self.blocks();
        let bytes = blocks
            .iter()
            .flat_map(|at| &self.0[*at..*at + self.cluster()]);
        if self.width() == 1 {
            return bytes.flat_map(|byte| per_byte(*byte)).collect();
        }
        let bytes: Vec<u8> = bytes.copied().collect();
        let numbers = bytes.chunks(self.width() / 8);
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        numbers.map(number).collect()
    }

    fn set_refcount(&mut self, cluster: usize, value: u64) {
        let block = self.blocks()[0];
        if self.width() == 1 {
            let byte = &mut self.0[block + cluster / 8];
            *byte = *byte & !(1 << (cluster % 8)) | u8::from(value != 0) << (cluster % 8);
            return;
        }
        let bytes = self.width() / 8;
        let at = block + bytes * cluster;
        self.0[at..at + bytes].copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
    }

    /// Damages the image in one place, and returns a description.
    fn damage(&mut self, noise: &mut Noise) -> String {
        let mut one_of = |list: Vec<usize>| {
            let index = noise.below(list.len() as u64);
            list[usize::try_from(index).unwrap()]
        };
        let clusters = self.0.len() / self.cluster();
        let cluster = one_of((0..clusters).collect());
        let (l1, l2, other) = (one_of(self.l1()), one_of(self.l2()), one_of(self.l2()));
        match one_of((0..12).collect()) {
            0 => {
                self.set_refcount(cluster, 0);
                format!("refcount of cluster {cluster} 0")
            }
            1 => {
                let refcount = self.refcounts()[cluster] + 1;
                self.set_refcount(cluster, refcount);
                format!("refcount of cluster {cluster} one more")
            }
            2 => {
                // This leaks a cluster beyond the end of the file.
                self.0.resize((clusters + 3) * self.cluster(), 0);
                self.set_refcount(clusters + 1, 1);
                "a cluster that nothing refers to".to_owned()
            }
            3 => {
                self.put(l1, self.get(l1) ^ 1 << 63);
                format!("COPIED flag of L1 entry at {l1:#x}")
            }
            4 => {
                self.put(l2, self.get(l2) ^ 1 << 63);
                format!("COPIED flag of L2 entry at {l2:#x}")
            }
            5 if !self.has_data_file() => {
                self.put(l2, self.get(other));
                format!("L2 entry at {l2:#x} as that at {other:#x}")
            }
            6 => {
                self.put(l2, 0);
                if self.is_v3() && self.0[79] & 16 != 0 {
                    self.put(l2 + 8, 0);
                }
                format!("L2 entry at {l2:#x} gone")
            }
            7 => {
                self.put(l1, 0);
                format!("L1 entry at {l1:#x} gone")
            }
            8 => {
                let table = self.host(48);
                self.put(table, 0);
                "refcount block gone".to_owned()
            }
            9 if self.cluster() > 512 && !self.has_data_file() => {
                self.put(l2, self.get(l2) + 512);
                format!("unaligned L2 entry at {l2:#x}")
            }
            mark => {
                if self.is_v3() {
                    self.0[79] |= if mark == 10 { 1 } else { 2 };
                }
                "marked as dirty or corrupt".to_owned()
            }
        }
    }
}

fn damage_and_mend(kind: &Kind) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let seed = kind.name.bytes().map(u64::from).sum();
    let mut noise = Noise(seed);
    kind.make(folder, &mut noise);
    let path = folder.join("x");
    let whole = Image(fs::read(&path).unwrap());
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut image = Image(whole.0.clone());
        let mut done = vec![format!("{} {round}", kind.name)];
        for _ in 0..=noise.below(3) {
            // Tables below a lost entry can't be damaged any more.
            let can_go_on = !image.l2().is_empty() && !image.blocks().is_empty();
            if can_go_on {
                done.push(image.damage(&mut noise));
            }
        }
        let done = done.join(", ");
        fs::write(&path, &image.0).unwrap();
        let found = kind.check(COWHIDE, folder, "");
        let theirs = kind.check("qemu-img", folder, "");
        assert_eq!(found, theirs, "{done}");
        seen.insert(found.status);
        let before = kind.contents(folder);
        assert!(
            fs::read(&path).unwrap() == image.0,
            "{done}: reading writes"
        );

        // This repairs only leaks.
        kind.check(COWHIDE, folder, "-r leaks");
        let mended = Image(fs::read(&path).unwrap());
        let left = kind.check(COWHIDE, folder, "");
        let wrong = |verdict: Verdict| verdict.corruptions + verdict.leaks;
        assert!(wrong(left) <= wrong(found), "{done}: leaks: {left:?}");
        assert_eq!(left, kind.check("qemu-img", folder, ""), "{done}: leaks");
        same(kind, folder, &before, &done);
        let lower = |(new, old): (&u64, &u64)| new <= old;
        let (new, old) = (mended.refcounts(), image.refcounts());
        assert!(
            new.iter().zip(&old).all(lower),
            "{done}: leaks raised refcounts"
        );
        if left.status != Some(0) {
            let mut blank = [mended.0, image.0.clone()];
            for bytes in &mut blank {
                for block in image.blocks() {
                    bytes[block..block + image.cluster()].fill(0);
                }
            }
            assert!(blank[0] == blank[1], "{done}: leaks changed more");
        }

        // This repairs everything.
        fs::write(&path, &image.0).unwrap();
        let all = kind.check(COWHIDE, folder, "-r all");
        let left = kind.check(COWHIDE, folder, "");
        assert_eq!(all.status, left.status, "{done}: {all:?}, then {left:?}");
        assert!(wrong(left) <= wrong(found), "{done}: all: {left:?}");
        assert_eq!(left, kind.check("qemu-img", folder, ""), "{done}: all");
        same(kind, folder, &before, &done);
        let once = fs::read(&path).unwrap();
        let again = kind.check(COWHIDE, folder, "-r all");
        assert_eq!(wrong(again), wrong(left), "{done}: again");
        assert!(
            fs::read(&path).unwrap() == once,
            "{done}: a second repair does more"
        );
        // A refcount of one bit can't be 2, and data at an unaligned offset can't be found.
        let beyond_repair = kind.name == "one_bit" || done.contains("unaligned");
        assert!(beyond_repair || left.status == Some(0), "{done}: {left:?}");
    }
    assert!(seen.len() > 1, "{seen:?}");
}

/// Asserts that all contents are unchanged.
fn same(kind: &Kind, folder: &Path, before: &[Vec<u8>], done: &str) {
    let after = kind.contents(folder);
    assert!(before == after, "{done}: data has changed");
}
