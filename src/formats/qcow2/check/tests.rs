//! Tests of check and repair on images made of literal bytes, in which every storage operation fails once.

use super::*;
use crate::storage::{Fault, MemoryStorage, Operation};

/// Returns an empty version 3 image with clusters of 2 MiB and refcounts of 1 bit. All entries of its refcount table
/// of 8 MiB are `entry`.
fn huge_table(entry: u64) -> MemoryStorage {
    let cluster = 2 << 20;
    let mut bytes = vec![0; 6 * cluster];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[20..24].copy_from_slice(&21u32.to_be_bytes());
    bytes[48..56].copy_from_slice(&(cluster as u64).to_be_bytes());
    bytes[56..60].copy_from_slice(&4u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    for slot in bytes[cluster..5 * cluster].chunks_exact_mut(8) {
        slot.copy_from_slice(&entry.to_be_bytes());
    }
    MemoryStorage::new(bytes)
}

fn checked(storage: &MemoryStorage) -> CheckReport {
    let header = Header::read_for_check(storage).unwrap();
    check(storage, &header, &mut |_| {}).unwrap()
}

fn repaired(storage: &MemoryStorage, what: Repair) -> Result<CheckReport> {
    let header = Header::read_for_check(storage)?;
    repair(storage, &header, what, &mut |_| {})
}

#[test]
fn a_table_that_names_one_block_a_million_times_ends() {
    // These are 2^44 refcounts, which would take over a day one by one.
    assert!(checked(&huge_table(5 * (2 << 20))).corruptions > 1_000_000);
}

#[test]
fn a_block_beyond_the_file_is_a_finding_and_not_a_failure() {
    assert!(checked(&huge_table(0xffff_ffff_ffe0_0000)).corruptions > 1_000_000);
}

#[test]
fn l1_entries_that_share_one_l2_table_are_walked_once() {
    // An L1 table of 32 MiB ends where the file does. Its 2^22 entries all refer to one full L2 table, which makes
    // 2^40 references.
    let cluster = 2 << 20;
    let mut bytes = huge_table(0).contents();
    bytes.truncate(cluster);
    bytes.resize(20 * cluster, 0);
    bytes[36..40].copy_from_slice(&(1u32 << 22).to_be_bytes());
    bytes[40..48].copy_from_slice(&(4 * cluster as u64).to_be_bytes());
    bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
    for slot in bytes[4 * cluster..].chunks_exact_mut(8) {
        slot.copy_from_slice(&(2 * cluster as u64).to_be_bytes());
    }
    for slot in bytes[2 * cluster..3 * cluster].chunks_exact_mut(8) {
        slot.copy_from_slice(&(3 * cluster as u64).to_be_bytes());
    }
    let report = checked(&MemoryStorage::new(bytes));
    assert_eq!(report.allocated_clusters, 1 << 40);
}

const CLUSTER: usize = 512;

/// Returns a version 3 image with clusters of 512 bytes: header, refcount table, refcount block, L1 table, L2 table,
/// and two data clusters. It is consistent except for `damage`.
fn small(damage: impl FnOnce(&mut [u8])) -> MemoryStorage {
    let mut bytes = vec![0; 7 * CLUSTER];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[20..24].copy_from_slice(&9u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&32768u64.to_be_bytes());
    bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
    bytes[40..48].copy_from_slice(&0x600u64.to_be_bytes());
    bytes[48..56].copy_from_slice(&0x200u64.to_be_bytes());
    bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
    // The image is dirty, so that there is a bit for the repair to clear.
    bytes[79] = 1;
    bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    bytes[0x200..0x208].copy_from_slice(&0x400u64.to_be_bytes());
    for cluster in 0..7 {
        bytes[0x401 + 2 * cluster] = 1;
    }
    bytes[0x600..0x608].copy_from_slice(&(1u64 << 63 | 0x800).to_be_bytes());
    bytes[0x800..0x808].copy_from_slice(&(1u64 << 63 | 0xa00).to_be_bytes());
    bytes[0x808..0x810].copy_from_slice(&(1u64 << 63 | 0xc00).to_be_bytes());
    bytes[0xa00..].fill(0xda);
    damage(&mut bytes);
    MemoryStorage::new(bytes)
}

type Damage = (&'static str, fn(&mut [u8]), u64, u64);

/// Turns the second data cluster into a snapshot table with `count` entries. The first has `extra` bytes of extra
/// data and an empty L1 table.
fn snapshots(bytes: &mut [u8], count: u8, extra: u8) {
    bytes[0x808..0x810].fill(0);
    bytes[63] = count;
    bytes[70] = 0xc;
    bytes[0xc00..].fill(0);
    bytes[0xc0d] = 1;
    bytes[0xc0f] = 1;
    bytes[0xc27] = extra;
    bytes[0xc28 + usize::from(extra)..][..2].copy_from_slice(b"1a");
}

/// The name, the damage, and the numbers of corruptions and leaks in it.
const REPAIRABLE: [Damage; 13] = [
    ("nothing", |_| {}, 0, 0),
    ("leak", |bytes| bytes[0x808..0x810].fill(0), 0, 1),
    ("too high", |bytes| bytes[0x40d] = 3, 1, 1),
    ("missing COPIED flag of L2", |bytes| bytes[0x800] = 0, 1, 0),
    ("missing COPIED flag of L1", |bytes| bytes[0x600] = 0, 1, 0),
    ("shared cluster", |bytes| bytes[0x80e] = 0xa, 1, 1),
    ("refcount 0", |bytes| bytes[0x40b] = 0, 2, 0),
    ("no block", |bytes| bytes[0x200..0x208].fill(0), 9, 0),
    ("no table", |bytes| bytes[56..60].fill(0), 8, 0),
    ("table far away", |bytes| bytes[50] = 1, 9, 0),
    ("incomplete snapshot", |bytes| snapshots(bytes, 1, 8), 1, 0),
    (
        "incomplete snapshot and no block",
        |bytes| {
            snapshots(bytes, 1, 0);
            bytes[0x200..0x208].fill(0);
        },
        9,
        0,
    ),
    (
        "a snapshot too many",
        |bytes| {
            snapshots(bytes, 2, 24);
            // The second entry would have a name of 64 KiB.
            bytes[0xc56..0xc58].fill(0xff);
        },
        1,
        0,
    ),
];

/// Returns the contents of the clusters to which the L2 table refers.
fn guest_data(bytes: &[u8]) -> Vec<&[u8]> {
    let entries = bytes[0x800..0x810].chunks(8);
    let hosts = entries
        .map(|entry| usize::from(entry[6]) << 8)
        .filter(|host| *host != 0);
    hosts.map(|host| &bytes[host..host + CLUSTER]).collect()
}

#[test]
fn findings_are_counted() {
    for (name, damage, corruptions, leaks) in REPAIRABLE {
        let report = checked(&small(damage));
        assert_eq!(
            (report.corruptions, report.leaks),
            (corruptions, leaks),
            "{name}"
        );
    }
}

#[test]
fn what_is_repaired_is_clean_and_keeps_its_data() {
    for (name, damage, ..) in REPAIRABLE {
        let storage = small(damage);
        let before = storage.contents();
        let report = repaired(&storage, Repair::All).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{name}");
        let report = checked(&storage);
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{name}");
        let after = storage.contents();
        assert!(guest_data(&before) == guest_data(&after), "{name}");
        assert_eq!(after[79], 0, "{name}: dirty");
    }
}

#[test]
fn a_snapshot_table_is_repaired_only_as_far_as_nothing_is_lost() {
    use crate::formats::qcow2::snapshots::read_snapshots;

    let names = |storage: &MemoryStorage| -> Vec<Vec<u8>> {
        let header = Header::read(storage).unwrap();
        let snapshots = read_snapshots(storage, &header).unwrap();
        assert!(
            snapshots
                .iter()
                .all(|one| one.is_complete(header.version()))
        );
        snapshots.into_iter().map(|one| one.name).collect()
    };
    let storage = small(|bytes| snapshots(bytes, 1, 0));
    let report = repaired(&storage, Repair::All).unwrap();
    assert_eq!((report.corruptions_fixed, report.leaks_fixed), (1, 1));
    assert_eq!(names(&storage), [b"a"]);
    // Nothing of the table is in the file, so that apparent leaks may belong to the snapshots.
    let storage = small(|bytes| {
        snapshots(bytes, 1, 24);
        bytes[0xc0e] = 0xff;
    });
    let before = storage.contents();
    let report = repaired(&storage, Repair::All).unwrap();
    assert_eq!((report.corruptions, report.leaks), (1, 1));
    assert_eq!(storage.contents(), before);
}

#[test]
fn leaks_alone_are_repaired_alone() {
    let storage = small(|bytes| {
        bytes[0x808..0x810].fill(0);
        bytes[0x800] = 0;
    });
    let report = repaired(&storage, Repair::Leaks).unwrap();
    assert_eq!((report.leaks_fixed, report.corruptions_fixed), (1, 1));
    assert_eq!(checked(&storage).corruptions, 0);
    // Refcounts that are too low stay, and so does the dirty bit.
    let storage = small(|bytes| bytes[0x80e] = 0xa);
    let report = repaired(&storage, Repair::Leaks).unwrap();
    assert_eq!((report.leaks_fixed, report.corruptions), (1, 1));
    assert_eq!(storage.contents()[79], 1);
    let storage = small(|bytes| bytes[0x200..0x208].fill(0));
    let before = storage.contents();
    repaired(&storage, Repair::Leaks).unwrap_err();
    assert_eq!(storage.contents(), before);
}

#[test]
fn what_cannot_be_repaired_is_left() {
    // These data clusters are beyond the end of the file.
    for (at, value) in [(0x805, 1), (0x801, 1)] {
        let storage = small(|bytes| bytes[at] = value);
        let entry = storage.contents()[0x800..0x808].to_vec();
        let before = checked(&storage);
        let report = repaired(&storage, Repair::All).unwrap();
        assert!(report.corruptions > 0, "{at:#x}");
        let after = storage.contents();
        assert_eq!(entry[1..], after[0x801..0x808], "{at:#x}");
        assert_eq!(after[79], 1, "{at:#x}: the dirty bit stays");
        let left = checked(&storage);
        assert!(left.corruptions <= before.corruptions, "{at:#x}");
        repaired(&storage, Repair::All).unwrap();
        assert_eq!(storage.contents(), after, "{at:#x}: once is enough");
    }
}

#[test]
fn what_a_cut_off_table_may_lead_to_is_not_freed() {
    // An L1 table in the file's last cluster continues beyond its end. The entry inside the file counts.
    let long_table = |bytes: &mut [u8]| {
        bytes.copy_within(0x600..0x800, 0xc00);
        bytes[0x808..0x810].fill(0);
        bytes[0x407] = 0;
        bytes[36..40].copy_from_slice(&0x1_0000u32.to_be_bytes());
        bytes[46] = 0xc;
    };
    let report = checked(&small(long_table));
    assert_eq!((report.corruptions, report.leaks), (1, 0));
    assert_eq!(report.allocated_clusters, 1);
    // A table that isn't in the file at all may have referred to every apparent leak.
    let storage = small(|bytes| bytes[44] = 1);
    let before = storage.contents();
    for what in [Repair::Leaks, Repair::All] {
        let report = repaired(&storage, what).unwrap();
        assert_eq!((report.corruptions, report.leaks_fixed), (1, 0), "{what:?}");
        assert!(report.leaks > 0, "{what:?}");
        assert_eq!(storage.contents(), before, "{what:?}");
    }
    // A rebuild of the refcounts, which would lose these references, is refused.
    let storage = small(|bytes| {
        long_table(bytes);
        bytes[0x200..0x208].fill(0);
    });
    let before = storage.contents();
    repaired(&storage, Repair::All).unwrap_err();
    assert_eq!(storage.contents(), before);
}

#[test]
fn tables_whose_end_is_missing_are_findings() {
    // The L1 table would start at the end of the file.
    let mut bytes = small(|_| {}).contents();
    bytes.truncate(0x600);
    assert_eq!(checked(&MemoryStorage::new(bytes)).corruptions, 1);
    // The L2 table, now at the end of the file, is truncated.
    let mut bytes = small(|bytes| {
        bytes.copy_within(0x800..0xa00, 0xc00);
        bytes[0x606] = 0xc;
        bytes[0xc08..0xc10].fill(0);
    })
    .contents();
    bytes.truncate(0xdf8);
    assert_eq!(checked(&MemoryStorage::new(bytes)).corruptions, 1);
}

#[test]
fn a_structure_without_a_byte_is_nowhere() {
    // There are no snapshots, and the table's offset is beyond the file.
    assert_eq!(checked(&small(|bytes| bytes[66] = 1)).corruptions, 0);
}

#[test]
fn dirty_images_are_made_fit_for_writing() {
    let storage = small(|bytes| bytes[0x40b] = 0);
    repair_dirty(&storage, &Header::read(&storage).unwrap()).unwrap();
    assert_eq!(storage.contents()[79], 0);
    let storage = small(|bytes| bytes[0x805] = 1);
    repair_dirty(&storage, &Header::read(&storage).unwrap()).unwrap_err();
}

#[test]
fn every_operation_may_fail_and_the_repair_can_be_repeated() {
    for (name, damage, ..) in REPAIRABLE {
        for operation in [Operation::Read, Operation::Write, Operation::Flush] {
            for nth in 1.. {
                let fault = Fault {
                    operation,
                    nth,
                    errno: 5,
                };
                let storage = small(damage).with_fault(fault);
                let before = storage.contents();
                let done = repaired(&storage, Repair::All).is_ok();
                let again = MemoryStorage::new(storage.contents());
                // The data is unchanged and reachable after any failure.
                let after = again.contents();
                assert!(guest_data(&before) == guest_data(&after), "{name}");
                assert_eq!(before[0x601..0x608], after[0x601..0x608]);
                let report = repaired(&again, Repair::All).unwrap();
                assert_eq!(report.corruptions, 0, "{name}: {operation:?} {nth}");
                let report = checked(&again);
                let wrong = (report.corruptions, report.leaks);
                assert_eq!(wrong, (0, 0), "{name}: {operation:?} {nth}");
                if done {
                    break;
                }
                assert!(nth < 1000, "{name}: {operation:?} never succeeds");
            }
        }
    }
}
