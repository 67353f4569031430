//! Tests with headers in memory: a new header can be unlocked, and an interrupted change of key slots loses no
//! password.

use std::sync::Arc;

use super::*;
use crate::crypto::{CipherAlgorithm, CipherMode, IvGenerator};
use crate::formats::encryption::Encryption as _;
use crate::storage::{Change, MemoryStorage};
use crate::units::{GuestOffset, HostOffset};

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

/// Returns the parameters of a header with the smallest number of iterations.
fn creation(algorithm: CipherAlgorithm, mode: CipherMode) -> LuksCreation {
    let mut options = LuksOptions::default();
    options.spec.algorithm = algorithm;
    options.spec.mode = mode;
    options.iter_time = 0;
    LuksCreation {
        options,
        numbering: Numbering::Host,
        is_detached: false,
    }
}

fn header_of(bytes: Vec<u8>) -> LuksHeader {
    LuksHeader::read(Arc::new(MemoryStorage::new(bytes)), Numbering::Host).unwrap()
}

fn encrypted(cipher: &Cipher) -> Vec<u8> {
    let mut sectors = vec![7; 1024];
    cipher.encrypt(GuestOffset(1 << 40), HostOffset(4096), &mut sectors);
    sectors
}

#[test]
fn what_is_made_opens_with_its_password_alone() {
    for (algorithm, mode) in [
        (CipherAlgorithm::Aes256, CipherMode::Xts),
        // The key material of a key of 24 bytes ends within a sector.
        (CipherAlgorithm::Aes192, CipherMode::Cbc),
        (CipherAlgorithm::Cast5, CipherMode::Ctr),
    ] {
        let creation = creation(algorithm, mode);
        let (bytes, cipher) = creation.create(&secret("one")).unwrap();
        assert!(bytes.len() as u64 <= creation.header_length());
        let header = header_of(bytes);
        assert_eq!(header.payload_offset(), creation.header_length());
        let opened = header.unlock(&secret("one")).unwrap();
        assert_eq!(encrypted(&opened), encrypted(&cipher), "{algorithm:?}");
        for wrong in ["two", "", "one\n"] {
            let refused = header.unlock(&secret(wrong)).unwrap_err();
            let expected = "Invalid password, cannot unlock any keyslot";
            assert_eq!(refused.to_string(), expected);
        }
    }
}

#[test]
fn a_header_is_encoded_as_it_was_read() {
    let mut creation = creation(CipherAlgorithm::Aes128, CipherMode::Cbc);
    creation.options.spec.vectors = IvGenerator::Essiv(HashAlgorithm::Sha256);
    let (bytes, _) = creation.create(&secret("one")).unwrap();
    let fields = LuksFields::read(&MemoryStorage::new(bytes.clone()), false).unwrap();
    assert_eq!(fields.cipher_mode, "cbc-essiv:sha256");
    assert_eq!(fields.encode(), bytes[..FIELDS_LENGTH]);
}

/// Calls `check` with the state after each change of a record. For the changes after the last flush, it is also
/// called as if only that change had reached the disk.
fn cut_off(before: &[u8], record: &[Change], check: &mut dyn FnMut(&[u8], bool)) {
    let mut stable = before.to_vec();
    let mut pending: Vec<&Change> = Vec::new();
    for change in record {
        if matches!(change, Change::Flush) {
            for change in pending.drain(..) {
                change.apply(&mut stable);
            }
            check(&stable, false);
            continue;
        }
        let mut alone = stable.clone();
        change.apply(&mut alone);
        check(&alone, false);
        pending.push(change);
        let mut all = stable.clone();
        for change in &pending {
            change.apply(&mut all);
        }
        check(&all, false);
    }
    for change in pending {
        change.apply(&mut stable);
    }
    check(&stable, true);
}

#[test]
fn passwords_come_and_go_whatever_is_cut_off() {
    let creation = creation(CipherAlgorithm::Aes128, CipherMode::Cbc);
    let (mut bytes, _) = creation.create(&secret("old")).unwrap();
    bytes.resize(usize::try_from(creation.header_length()).unwrap(), 0);
    let opens = |bytes: &[u8], password: &str| {
        let header = header_of(bytes.to_vec());
        header.unlock(&secret(password)).is_ok()
    };
    let changed = |bytes: &[u8], change: SlotChange<'_>| {
        let area = Arc::new(MemoryStorage::new(bytes.to_vec()).recording());
        let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&area);
        let header = LuksHeader::read(storage, Numbering::Host).unwrap();
        header.change_slots(change, &secret("old"), false).unwrap();
        (area.take_record(), area.contents())
    };
    let new = secret("new");
    let add = SlotChange::Activate {
        new: &new,
        slot: Some(6),
        iter_time: Some(0),
    };
    let (record, with_both) = changed(&bytes, add);
    cut_off(&bytes, &record, &mut |bytes, is_done| {
        assert!(opens(bytes, "old"));
        assert!(opens(bytes, "new") || !is_done);
    });
    let erase = SlotChange::Erase {
        slot: None,
        old: Some(&new),
    };
    let (mut record, with_old) = changed(&with_both, erase);
    // The rounds in which the key material is overwritten are all alike.
    record.truncate(8);
    cut_off(&with_both, &record, &mut |bytes, _| {
        assert!(opens(bytes, "old"))
    });
    assert!(opens(&with_old, "old") && !opens(&with_old, "new"));
    let material = header_of(bytes).fields.slots[6].material;
    let start = material as usize * 512;
    assert_ne!(
        with_old[start..start + 64_000],
        with_both[start..start + 64_000]
    );
}

#[test]
fn changes_that_lose_the_disk_are_refused() {
    let creation = creation(CipherAlgorithm::Aes128, CipherMode::Cbc);
    let (bytes, _) = creation.create(&secret("old")).unwrap();
    let area = Arc::new(MemoryStorage::new(bytes.clone()));
    let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&area);
    let header = LuksHeader::read(storage, Numbering::Host).unwrap();
    let (old, wrong) = (secret("old"), secret("wrong"));
    let add = |slot| SlotChange::Activate {
        new: &wrong,
        slot,
        iter_time: Some(0),
    };
    let erase = |slot, old| SlotChange::Erase { slot, old };
    for (change, words) in [
        (add(Some(0)), "Refusing to overwrite active keyslot 0"),
        (
            add(Some(8)),
            "Invalid keyslot 8 specified, must be between 0 and 7",
        ),
        (
            erase(Some(0), None),
            "Attempt to erase the only active keyslot 0",
        ),
        (erase(Some(3), None), "Given keyslot 3 is already erased"),
        (
            erase(None, Some(&old)),
            "All the active keyslots match the (old) password",
        ),
        (
            erase(None, Some(&wrong)),
            "No keyslots match given (old) password",
        ),
        (
            erase(Some(0), Some(&wrong)),
            "doesn't contain the given old password",
        ),
    ] {
        let refused = header.change_slots(change, &old, false).unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
        assert!(area.contents() == bytes, "{words}");
    }
}

#[test]
fn a_header_that_costs_hours_is_refused() {
    let creation = creation(CipherAlgorithm::Aes128, CipherMode::Cbc);
    let (bytes, _) = creation.create(&secret("old")).unwrap();
    for at in [212, 164] {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = header_of(bytes).unlock(&secret("old")).unwrap_err();
        assert!(
            refused.to_string().contains("4294967295 iterations"),
            "{refused}"
        );
    }
}
