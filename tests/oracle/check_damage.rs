//! Tests of images with a single damage: both tools report the same, line by line, and repair them in the same way.
//!
//! `tests/hostile` has the deliberate differences with their reasons.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::tools::{ours, qemu_img, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("check_damage::of_refcounts", || all(&REFCOUNTS)),
        trial("check_damage::of_tables", || all(&TABLES)),
        trial("check_damage::of_other_kinds", || all(&KINDS)),
    ]
}

/// The options of an image, the damage in words, and the damage.
type Damage = (&'static str, &'static str, fn(&mut Image));

const PLAIN: &str = "-o cluster_size=4k";

const REFCOUNTS: [Damage; 9] = [
    (PLAIN, "a leak", |image| {
        let first = image.l2();
        image.put(first, 0);
    }),
    (PLAIN, "a refcount too high", |image| {
        image.set_refcount(1, 2);
    }),
    (PLAIN, "a refcount of 0", |image| image.set_refcount(6, 0)),
    (PLAIN, "many refcounts", |image| {
        for (cluster, refcount) in [(3, 0), (9, 0), (11, 0), (30, 7), (35, 7)] {
            image.set_refcount(cluster, refcount);
        }
        image.clear_copied(image.l2() + 8);
    }),
    (PLAIN, "no refcount block", |image| {
        image.put(image.refcount_table(), 0);
    }),
    (PLAIN, "a refcount table beyond the end", |image| {
        image.put(48, 0x700_0000);
    }),
    (PLAIN, "a refcount block twice", |image| {
        let table = image.refcount_table();
        image.put(table + 8, image.get(table));
    }),
    (
        "-o cluster_size=4k,refcount_bits=1",
        "a refcount of 0",
        |image| {
            let block = image.get(image.refcount_table());
            image.0[usize::try_from(block).unwrap()] = 0x7f;
        },
    ),
    (PLAIN, "a leak in a table", |image| {
        let l1 = image.get(40);
        image.set_refcount(image.l2() / 4096, 2);
        image.clear_copied(l1);
    }),
];

const TABLES: [Damage; 14] = [
    (PLAIN, "an L1 entry without its flag", |image| {
        image.clear_copied(image.get(40));
    }),
    (PLAIN, "an L1 entry with a reserved bit", |image| {
        image.set_bits(image.get(40), 1 << 57);
    }),
    (PLAIN, "an L1 entry beyond the end", |image| {
        image.put(image.get(40), (1 << 63) | 0x700_0000);
    }),
    (PLAIN, "an L2 entry without its flag", |image| {
        image.clear_copied(image.l2() + 8);
    }),
    (PLAIN, "an L2 entry with a reserved bit", |image| {
        image.set_bits(image.l2() + 8, 2);
    }),
    (PLAIN, "a zero cluster with a reserved bit", |image| {
        image.put(image.l2() + 8, 3);
    }),
    (PLAIN, "no cluster with a reserved bit", |image| {
        image.put(image.l2() + 8, 2);
    }),
    (PLAIN, "an unaligned cluster", |image| {
        image.set_bits(image.l2() + 8, 512);
    }),
    (PLAIN, "an unaligned zero cluster", |image| {
        image.set_bits(image.l2() + 8, 513);
    }),
    (PLAIN, "a cluster beyond the end", |image| {
        image.put(image.l2() + 8, (1 << 63) | 0x700_0000);
    }),
    (PLAIN, "a cluster twice", |image| {
        let l2 = image.l2();
        image.put(l2 + 8, image.get(l2));
    }),
    (PLAIN, "flags in both tables", |image| {
        image.clear_copied(image.get(40));
        image.clear_copied(image.get(40) + 8);
        image.clear_copied(image.l2() + 16);
    }),
    (PLAIN, "an unaligned table", |image| {
        image.clear_copied(image.get(40) + 8);
        image.set_bits(image.get(40) + 8, 512);
    }),
    (PLAIN, "all of it", |image| {
        image.set_refcount(12, 3);
        image.put(image.l2() + 8, (1 << 63) | 0x700_0000);
        image.set_bits(image.l2() + 16, 2);
    }),
];

const KINDS: [Damage; 9] = [
    (
        "-c -o cluster_size=4k",
        "a compressed cluster with the flag",
        |image| {
            image.set_bits(image.l2() + 8, 1 << 63);
        },
    ),
    (
        "-c -o cluster_size=4k",
        "a compressed cluster beyond the end",
        |image| {
            image.put(image.l2() + 8, (1 << 62) | 0x700_0010);
        },
    ),
    (
        "-o cluster_size=4k,data_file=data",
        "a compressed cluster",
        |image| {
            image.put(image.l2() + 8, (1 << 62) | 0x7000);
        },
    ),
    (
        "-o cluster_size=16k,extended_l2=on",
        "subclusters both ways",
        |image| {
            image.put(image.l2() + 24, 0xf_0000_000f);
        },
    ),
    (
        "-o cluster_size=16k,extended_l2=on",
        "subclusters of no cluster",
        |image| {
            image.put(image.l2() + 16, 0);
        },
    ),
    (
        "-o cluster_size=16k,extended_l2=on",
        "unaligned data",
        |image| {
            image.set_bits(image.l2() + 16, 512);
        },
    ),
    (
        "-o cluster_size=16k,extended_l2=on",
        "unaligned zeroes",
        |image| {
            image.set_bits(image.l2() + 16, 512);
            image.put(image.l2() + 24, 0xffff_ffff_0000_0000);
        },
    ),
    (
        "-c -o cluster_size=16k,extended_l2=on",
        "compressed subclusters",
        |image| {
            image.put(image.l2() + 24, 5);
        },
    ),
    (
        "-o compat=0.10,cluster_size=4k",
        "a cluster twice",
        |image| {
            let l2 = image.l2();
            image.put(l2 + 8, image.get(l2));
        },
    ),
];

/// The bytes of an image.
struct Image(Vec<u8>);

impl Image {
    fn get(&self, at: u64) -> u64 {
        let at = usize::try_from(at).unwrap();
        u64::from_be_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn put(&mut self, at: u64, value: u64) {
        let at = usize::try_from(at).unwrap();
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn set_bits(&mut self, at: u64, bits: u64) {
        self.put(at, self.get(at) | bits);
    }

    /// Clears the copied flag of an entry.
    fn clear_copied(&mut self, at: u64) {
        self.put(at, self.get(at) & !(1 << 63));
    }

    fn refcount_table(&self) -> u64 {
        self.get(48)
    }

    /// Sets a refcount of 16 bits in the first refcount block.
    fn set_refcount(&mut self, cluster: u64, refcount: u16) {
        let at = self.get(self.refcount_table()) + cluster * 2;
        let at = usize::try_from(at).unwrap();
        self.0[at..at + 2].copy_from_slice(&refcount.to_be_bytes());
    }

    /// Returns the host offset of the first L2 table.
    fn l2(&self) -> u64 {
        self.get(self.get(40)) & 0x00ff_ffff_ffff_fe00
    }
}

fn all(damages: &[Damage]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), disk()).unwrap();
    for (options, name, damage) in damages {
        let convert = format!("convert -f raw -O qcow2 {options} disk.raw whole");
        qemu_img(folder, &words(&convert)).ok();
        let mut image = Image(fs::read(folder.join("whole")).unwrap());
        let whole = image.0.clone();
        damage(&mut image);
        assert!(whole != image.0, "{name}: nothing is damaged");
        for check in [
            "check x",
            "check -r leaks x",
            "check -r all --output=json x",
        ] {
            let [our, their] = [ours, qemu_img].map(|tool| {
                fs::write(folder.join("x"), &image.0).unwrap();
                let ran = tool(folder, &words(check));
                (ran, verdict(folder))
            });
            let what = format!("{options}: {name}: {check}");
            assert_eq!(our.0.stdout, their.0.stdout, "{what}");
            let complaint = their.0.stderr.replace("qemu-img:", "cowhide:");
            assert_eq!(our.0.stderr, complaint, "{what}");
            assert_eq!(our.0.status, their.0.status, "{what}");
            assert_eq!(our.1, their.1, "{what}: the guest's data and the verdict");
        }
    }
}

/// Returns a disk with compressible data in the clusters at both ends of two L2 tables of 512 entries.
fn disk() -> Vec<u8> {
    let end = 2_300_000;
    let data = |at: usize| at < 120_000 || at >= end - 40_000;
    let byte = |at: usize| u8::try_from(at / 1000 % 250 + 1).unwrap();
    (0..end)
        .map(|at| if data(at) { byte(at) } else { 0 })
        .collect()
}

/// Returns the status of qemu-img's check of `x`, and the guest's data if it can be read.
fn verdict(folder: &Path) -> (Option<i32>, Option<Vec<u8>>) {
    let checked = qemu_img(folder, &words("check x"));
    let read = qemu_img(folder, &words("convert -f qcow2 -O raw x back"));
    let data = (read.status == Some(0)).then(|| fs::read(folder.join("back")).unwrap());
    (checked.status, data)
}
