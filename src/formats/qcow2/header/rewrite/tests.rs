//! Tests of changes between all pairs of backing files in headers of many sizes, with a power cut at every point.

use super::*;
use crate::storage::{Change, MemoryStorage};

const KIND: u32 = 0x6d6f_6f21;

/// Changes the backing file in the header.
fn set_backing(
    storage: &MemoryStorage,
    header: &Header,
    backing: Option<BackingNames<'_>>,
) -> Result<()> {
    let plan = HeaderRewrite::plan(storage, header, |contents| contents.set_backing(backing))?;
    plan.write(storage, &|| storage.flush())
}

/// A backing file of the tests: the length of its name, and its format.
type Named = Option<(usize, &'static str)>;

fn name(named: Named, letter: u8) -> Option<(Vec<u8>, &'static str)> {
    named.map(|(length, format)| (vec![letter; length], format))
}

/// Returns a version 3 header with `filler` bytes in an unknown extension, `names` feature names, and a backing file.
fn header(cluster_bits: u32, filler: usize, names: usize, backing: Named) -> Vec<u8> {
    let cluster = 1usize << cluster_bits;
    let mut bytes = vec![0; 104];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[20..24].copy_from_slice(&cluster_bits.to_be_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 15).to_be_bytes());
    bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
    bytes[48..56].copy_from_slice(&(cluster as u64).to_be_bytes());
    bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
    // One of the bits is known, the other isn't.
    bytes[88..96].copy_from_slice(&0x8001u64.to_be_bytes());
    bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    let backing = name(backing, b'o');
    if let Some((_, format)) = &backing
        && !format.is_empty()
    {
        extensions::append(&mut bytes, extensions::BACKING_FORMAT, format.as_bytes());
    }
    if names > 0 {
        extensions::append(&mut bytes, extensions::FEATURE_NAMES, &vec![0; 48 * names]);
    }
    extensions::append(&mut bytes, KIND, &vec![1; filler]);
    extensions::append(&mut bytes, extensions::END, &[]);
    if let Some((name, _)) = backing {
        let start = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&start.to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(name);
    }
    bytes.resize(bytes.len().max(cluster), 0);
    bytes.resize(bytes.len() + cluster, 0);
    bytes
}

/// Returns the backing file and its format in a header.
fn named(header: &Header) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let format = header.extension(extensions::BACKING_FORMAT);
    (
        header.backing_file().map(<[u8]>::to_vec),
        format.map(<[u8]>::to_vec),
    )
}

/// Calls `look` with every state that a power cut may leave during the changes.
fn cut(before: &[u8], record: &[Change], look: &mut dyn FnMut(&[u8])) {
    let mut bytes = before.to_vec();
    let groups = record.split(|change| matches!(change, Change::Flush));
    for group in groups {
        let mut sectors = Vec::new();
        for change in group {
            let Change::Write(offset, data) = change else {
                panic!("{change:?}");
            };
            let mut at = usize::try_from(*offset).unwrap();
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                let (part, after) = rest.split_at((SECTOR_LEN - at % SECTOR_LEN).min(rest.len()));
                sectors.push(Change::Write(at as u64, part.to_vec()));
                at += part.len();
                rest = after;
            }
        }
        assert!(sectors.len() < 10, "{}", sectors.len());
        for subset in 0..1u32 << sectors.len() {
            let mut left = bytes.clone();
            let chosen = (0..).zip(&sectors).filter(|(at, _)| subset >> at & 1 == 1);
            chosen.for_each(|(_, sector)| sector.apply(&mut left));
            look(&left);
        }
        sectors.iter().for_each(|sector| sector.apply(&mut bytes));
    }
}

/// The backing files of the tests.
const BACKINGS: [Named; 11] = [
    None,
    Some((1, "raw")),
    Some((1, "")),
    Some((8, "qcow2")),
    Some((100, "longer-than-8")),
    Some((300, "qcow2")),
    Some((380, "raw")),
    Some((500, "qcow2")),
    Some((888, "vdi")),
    Some((1023, "qcow2")),
    Some((1023, "longer-than-8")),
];

/// Changes the backing file. Returns `None` if it doesn't fit into the cluster, and `Some(false)` if there is no
/// space for a safe change.
fn change(bits: u32, filler: usize, names: usize, from: Named, to: Named) -> Option<bool> {
    let before = header(bits, filler, names, from);
    let Ok(old) = Header::read(&MemoryStorage::new(before.clone())) else {
        return None;
    };
    let what = format!("{bits} {filler} {names} {from:?} {to:?}");
    let storage = MemoryStorage::new(before.clone()).recording();
    let backing = name(to, b'n');
    let names_new = backing.as_ref().map(|(file, format)| BackingNames {
        file,
        format: (!format.is_empty()).then_some(format.as_bytes()),
    });
    let fits = header(bits, filler, names, to).len() == 2 << bits;
    let done = set_backing(&storage, &old, names_new);
    let record = storage.take_record();
    if let Err(error) = done {
        assert_eq!(
            error.to_string(),
            "No space left in the file header",
            "{what}"
        );
        assert!(record.is_empty(), "{what}");
        return fits.then_some(false);
    }
    assert!(fits, "{what}");
    assert!(matches!(record.last(), Some(Change::Flush)), "{what}");
    let was = named(&old);
    let format = to.map(|(_, format)| format.as_bytes().to_vec());
    let is = (
        backing.map(|(file, _)| file),
        format.filter(|format| !format.is_empty()),
    );
    cut(&before, &record, &mut |left| {
        let header = Header::read(&MemoryStorage::new(left.to_vec())).unwrap();
        let found = named(&header);
        assert!(found == was || found == is, "{what}: {found:?}");
        assert_eq!(header.extension(KIND), old.extension(KIND), "{what}");
        assert!([0x8001, 1].contains(&header.autoclear()), "{what}");
    });
    let after = Header::read(&storage).unwrap();
    assert_eq!(named(&after), is, "{what}");
    assert_eq!(after.autoclear(), 1);
    // The result is the same as a header made with the new backing file.
    let mut expected = header(bits, filler, names, to);
    let letter = |byte: &mut u8| {
        if *byte == b'o' {
            *byte = b'n';
        }
    };
    let start = usize::try_from(u64::from_be_bytes(expected[8..16].try_into().unwrap())).unwrap();
    let length = to.map_or(0, |(length, _)| length);
    expected[start..start + length].iter_mut().for_each(letter);
    expected[95] = 1;
    expected[94] = 0;
    assert!(storage.contents() == expected, "{what}: the bytes");
    Some(true)
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new_backing_file() {
    let (mut done, mut refused) = (0, Vec::new());
    for bits in [9, 10, 11, 12, 16] {
        for (filler, names) in [
            (0, 0),
            (8, 0),
            (100, 0),
            (300, 0),
            (0, 8),
            (40, 8),
            (700, 8),
        ] {
            for from in BACKINGS {
                for to in BACKINGS {
                    match change(bits, filler, names, from, to) {
                        Some(true) => done += 1,
                        Some(false) => refused.push((bits, filler, from, to)),
                        None => {}
                    }
                }
            }
        }
    }
    assert!(done > 2500, "{done}");
    // A change is refused only in small clusters, if both names or the extensions to keep are long.
    let length = |named: &Named| named.map_or(0, |(length, _)| length);
    for (bits, filler, from, to) in &refused {
        let what = format!("{bits} {filler} {from:?} {to:?}");
        assert!(*bits == 10 || *bits == 11, "{what}");
        let is_long = length(from).min(length(to)) >= 300;
        assert!(is_long || *filler >= 300, "{what}");
    }
    assert!(refused.len() < 200, "{}", refused.len());
}

/// After a failure the header has the old or the new backing file, and the change can be repeated.
#[test]
fn a_write_that_fails_leaves_one_of_both() {
    use crate::storage::{Fault, Operation};
    let before = header(12, 40, 8, Some((500, "qcow2")));
    let old = Header::read(&MemoryStorage::new(before.clone())).unwrap();
    let file = vec![b'n'; 900];
    let new = BackingNames {
        file: &file,
        format: Some(b"longer-than-8"),
    };
    let mut failed = 0;
    for operation in [Operation::Write, Operation::Flush] {
        for nth in 1..16 {
            let fault = Fault {
                operation,
                nth,
                errno: 5,
            };
            let storage = MemoryStorage::new(before.clone()).with_fault(fault);
            let done = set_backing(&storage, &old, Some(new));
            let found = Header::read(&storage).unwrap();
            if done.is_ok() {
                assert_eq!(found.backing_file(), Some(&file[..]));
                continue;
            }
            failed += 1;
            let is_old = named(&found) == named(&old);
            assert!(is_old || found.backing_file() == Some(&file[..]));
            set_backing(&storage, &found, Some(new)).unwrap();
            let found = Header::read(&storage).unwrap();
            assert_eq!(found.backing_file(), Some(&file[..]));
        }
    }
    assert!(failed > 8, "{failed}");
}

#[test]
fn a_power_cut_leaves_one_version_or_the_other() {
    for bits in [9, 12, 16] {
        for backing in BACKINGS {
            for filler in [0, 100, 300] {
                let mut before = header(bits, filler, 0, backing);
                // The header is converted to version 2: its fields end where the extensions begin.
                before[4..8].copy_from_slice(&2u32.to_be_bytes());
                let rest = before.split_off(104);
                before.truncate(72);
                before.extend(rest);
                before.resize(2 << bits, 0);
                if backing.is_some() {
                    let start = u64::from_be_bytes(before[8..16].try_into().unwrap()) - 32;
                    before[8..16].copy_from_slice(&start.to_be_bytes());
                }
                let Ok(old) = Header::read(&MemoryStorage::new(before.clone())) else {
                    continue;
                };
                let storage = MemoryStorage::new(before.clone()).recording();
                let with_names = bits > 9;
                let upgrade = HeaderRewrite::plan(&storage, &old, |contents| {
                    contents.upgrade(with_names);
                    Ok(())
                });
                let Ok(upgrade) = upgrade else {
                    assert!(bits == 9, "{bits} {backing:?} {filler}");
                    continue;
                };
                upgrade.write(&storage, &|| storage.flush()).unwrap();
                let mut versions = Vec::new();
                cut(&before, &storage.take_record(), &mut |left| {
                    let found = Header::read(&MemoryStorage::new(left.to_vec())).unwrap();
                    assert_eq!(named(&found), named(&old));
                    assert_eq!(found.extension(KIND), old.extension(KIND));
                    assert_eq!(found.geometry(), old.geometry());
                    versions.push(found.version());
                });
                assert!(versions.contains(&Version::V2) && versions.contains(&Version::V3));
                let new = Header::read(&storage).unwrap();
                assert_eq!(new.version(), Version::V3);
                assert_eq!(
                    new.extension(extensions::FEATURE_NAMES).is_some(),
                    with_names
                );
            }
        }
    }
}
