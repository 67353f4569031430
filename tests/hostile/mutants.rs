//! Reproducible random damage: words and bytes of images of all kinds are changed, and each mutant is checked,
//! repaired and read with the library. The same must hold as for the fuzz targets. Reading writes nothing, a repair
//! reports what remains and is complete after the first run, and readable data doesn't change. If qemu-img can read a
//! mutant, the disk must be the same. It is only run for some of them, since it takes longest.

use std::collections::BTreeMap;
use std::sync::Arc;

use cowhide::crypto::Secret;
use cowhide::error::Result;
use cowhide::formats::Image as _;
use cowhide::formats::qcow2::{
    Header, Qcow2Image, ReadOptions, Repair, check, reading_cipher, repair,
};
use cowhide::storage::{MemoryStorage, Operation, Storage};
use cowhide::units::GuestOffset;
use libtest_mimic::Trial;

use crate::bases::{Base, CLUSTER, KINDS};
use crate::common::Noise;
use crate::{COWHIDE, run, trial};

/// The number of mutants of each kind, and the number of mutants for each that qemu-img reads.
const MUTANTS: u64 = 800;
const ONE_IN: u64 = 12;

/// The number of bytes of a disk that are read, and the number that are read at once.
const MOST: u64 = 65 << 10;
const PIECE: u64 = 512;

pub fn trials(bases: &Arc<BTreeMap<&'static str, Base>>, with_oracle: bool) -> Vec<Trial> {
    let kinds = KINDS.into_iter().map(|kind| {
        let bases = Arc::clone(bases);
        let name = if kind.is_empty() { "plain" } else { kind };
        trial(format!("mutants/{name}"), move || {
            mutate(&bases[kind], with_oracle);
        })
    });
    kinds.collect()
}

/// Changes some words, mostly near other data, since most of an image is zeroes.
pub fn mutant(base: &Base, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = base.bytes.clone();
    // Data isn't metadata, and the result of a damaged frame depends on the version of the zstd library.
    let end = match base.kind {
        "aes" => 0xa00,
        "zstd" => 0x1400,
        "zlib" => 0x1500,
        _ => bytes.len(),
    };
    let busy: Vec<usize> = (0..end / 8)
        .filter(|word| {
            let word = &bytes[8 * word..8 * word + 8];
            word.iter().any(|byte| *byte != word[0])
        })
        .collect();
    let length = bytes.len() as u64;
    for _ in 0..=noise.below(3) {
        let near = busy[usize::try_from(noise.below(busy.len() as u64)).unwrap()];
        let word = (near + usize::try_from(noise.below(3)).unwrap()).min(bytes.len() / 8 - 1);
        let place = 8 * word..8 * word + 8;
        let old = u64::from_be_bytes(bytes[place.clone()].try_into().unwrap());
        let cluster = noise.below(length / CLUSTER as u64 + 2) * CLUSTER as u64;
        let new = match noise.below(10) {
            0 => old ^ 1 << noise.below(64),
            1 => old.wrapping_add(noise.below(3)).wrapping_sub(1),
            2 => old ^ 1 << 63,
            3 => old & !0xff | noise.below(256),
            4 => cluster | old & 1 << 63,
            5 => cluster | 1 << 63 | noise.below(2),
            6 => cluster | 1 << 62 | noise.below(512),
            7 => noise.next() << 33 ^ noise.next() << 16 ^ noise.next(),
            8 => 0,
            _ => old << noise.below(9) >> noise.below(9),
        };
        bytes[place].copy_from_slice(&new.to_be_bytes());
    }
    match noise.below(40) {
        0 => bytes.truncate(usize::try_from(noise.below(length)).unwrap()),
        1 => bytes.resize(bytes.len() + CLUSTER * 3, 0),
        _ => {}
    }
    bytes
}

/// Returns the disk in pieces, of which some may be unreadable. Returns an error if the image can't be opened.
pub fn disk(base: &Base, bytes: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    let memory = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&memory);
    let header = Header::read(storage.as_ref())?;
    let data: Option<Arc<dyn Storage>> = (base.kind == "data-file")
        .then(|| Arc::new(MemoryStorage::new(base.contents.clone())) as Arc<dyn Storage>);
    let secret = (base.kind == "aes").then(|| Secret::new(b"cowhide".to_vec()));
    let options = ReadOptions {
        cipher: reading_cipher(&storage, &header, secret.as_ref())?,
        data,
        salvage: false,
    };
    let image = Qcow2Image::open_with(storage, &header, options)?;
    let pieces = image.size().min(MOST).div_ceil(PIECE);
    let pieces = (0..pieces).map(|index| {
        let mut piece = vec![0; PIECE as usize];
        let read = image.read_at(GuestOffset(index * PIECE), &mut piece);
        read.is_ok().then_some(piece)
    });
    let pieces = pieces.collect();
    assert_eq!(memory.count(Operation::Write), 0, "reading writes");
    Ok(pieces)
}

/// Returns true if all pieces that were readable before are the same.
pub fn same_where_readable(before: &[Option<Vec<u8>>], after: &[Option<Vec<u8>>]) -> bool {
    let mut pieces = before.iter().zip(after);
    before.len() == after.len() && pieces.all(|(before, after)| before.is_none() || before == after)
}

fn mutate(base: &Base, with_oracle: bool) {
    let seed = base.kind.bytes().map(u64::from).sum();
    let mut noise = Noise(seed);
    let (mut opened, mut damaged, mut repaired, mut compared) = (0, 0, 0, 0);
    for number in 0..MUTANTS {
        let bytes = mutant(base, &mut noise);
        let when = format!("mutant {number} of {}", base.kind);
        let before = disk(base, &bytes);
        opened += u64::from(before.is_ok());
        if with_oracle && number % ONE_IN == 0 {
            compared += u64::from(same_as_oracle(base, &bytes, &before, &when));
        }
        let storage = MemoryStorage::new(bytes.clone());
        let Ok(header) = Header::read_for_check(&storage) else {
            assert!(before.is_err(), "{when}: opens, but can't be checked");
            continue;
        };
        let found = check(&storage, &header, &mut |_| {});
        assert!(storage.contents() == bytes, "{when}: checking writes");
        damaged += u64::from(found.is_ok_and(|found| found.corruptions + found.leaks > 0));
        for what in [Repair::Leaks, Repair::All] {
            let again = MemoryStorage::new(bytes.clone());
            let done = mend(&again, what, &when);
            repaired += u64::from(done && again.contents() != bytes);
            let Ok(before) = &before else {
                continue;
            };
            let after = disk(base, &again.contents()).expect(&when);
            let same = same_where_readable(before, &after);
            assert!(same, "{when}: {what:?} changed data");
        }
    }
    // Some mutants can't be opened, some can, some are damaged, and some were repaired.
    assert!((MUTANTS / 3..MUTANTS).contains(&opened), "{opened} opened");
    assert!(damaged > MUTANTS / 8, "{damaged} damaged");
    assert!(repaired > MUTANTS / 10, "{repaired} repaired");
    assert!(!with_oracle || compared > 3, "{compared} compared");
}

/// Repairs an image. Asserts that the reported remaining findings are right, and that a second repair changes
/// nothing.
fn mend(storage: &MemoryStorage, what: Repair, when: &str) -> bool {
    let header = Header::read_for_check(storage).unwrap();
    let first = repair(storage, &header, what, &mut |_| {});
    let header = Header::read_for_check(storage).expect(when);
    let Ok(first) = first else {
        return false;
    };
    let found = check(storage, &header, &mut |_| {}).expect(when);
    if first.corruptions == 0 {
        let left = (found.corruptions, found.leaks);
        assert_eq!(left, (0, first.leaks), "{when}: {what:?} leaves");
    }
    if found.corruptions == 0 {
        let once = storage.contents();
        let second = repair(storage, &header, what, &mut |_| {}).expect(when);
        assert!(storage.contents() == once, "{when}: {what:?} does more");
        let left = (second.corruptions, second.leaks);
        assert_eq!(left, (0, found.leaks), "{when}: {what:?}");
    }
    true
}

/// Returns true if qemu-img can convert the image too. Asserts that the disk is the same, with the program as well as
/// with the library.
fn same_as_oracle(
    base: &Base,
    bytes: &[u8],
    ours: &Result<Vec<Option<Vec<u8>>>>,
    when: &str,
) -> bool {
    let pieces = ours.as_ref().ok().and_then(|pieces| {
        let pieces: Option<Vec<_>> = pieces.iter().cloned().collect();
        pieces.map(|pieces| pieces.concat())
    });
    let Some(mut ours) = pieces.filter(|disk| (disk.len() as u64) < MOST) else {
        return false;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    base.write(folder, bytes);
    for program in [COWHIDE, "qemu-img"] {
        let convert = base.command("convert -O raw", "x.raw");
        let status = run(folder, program, &convert).status;
        if status != 0 {
            // The damage may be in its name.
            let is_known = program == COWHIDE && base.kind != "data-file";
            assert!(!is_known, "{when}: the library can read it");
            return false;
        }
        let theirs = std::fs::read(folder.join("x.raw")).unwrap();
        ours.resize(theirs.len(), 0);
        assert!(ours == theirs, "{when}: {program} reads something else");
    }
    true
}
