//! Tests of sectors that are encrypted by their host sector number, as with LUKS in qcow2. Sectors are written, read,
//! moved within the file, and read again. The cipher is that of legacy AES, which itself uses guest sector numbers.

use std::sync::Arc;

use super::read::tables::read_table;
use super::write::Qcow2WriteParts;
use super::{Header, NewQcow2, NewQcow2Options, Qcow2Image, WritableQcow2};
use crate::crypto::{Backend, KeyedCipher};
use crate::formats::encryption::{Cipher, EncryptionFormat, Numbering};
use crate::formats::qcow2::header::TablePlace;
use crate::formats::{Image as _, NewImage as _, WritableImage as _};
use crate::storage::{MemoryStorage, Storage as _};
use crate::units::{GuestOffset, HostOffset};

const KEY: &[u8; 16] = b"0123456789abcdef";
const CLUSTER: usize = 4096;
/// The clusters of the disk that hold data. With the gaps, their host offsets differ from their guest offsets.
const STORED: [usize; 3] = [1, 2, 6];
const COPIED: u64 = 1 << 63;

fn cipher(numbering: Numbering) -> Cipher {
    Cipher::new(
        Arc::new(KeyedCipher::aes_cbc(KEY, Backend::detect())),
        numbering,
    )
}

/// Returns the disk, on which each sector of the stored clusters has different contents.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 8 * CLUSTER];
    for cluster in STORED {
        for (index, byte) in disk[cluster * CLUSTER..][..CLUSTER].iter_mut().enumerate() {
            *byte = u8::try_from((cluster * 8 + index / 512) * 3).unwrap();
        }
    }
    disk
}

/// Returns a new image of the disk.
fn image(numbering: Numbering) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    let options = NewQcow2Options {
        cluster_size: CLUSTER as u64,
        encryption: Some(EncryptionFormat::Aes),
        ..NewQcow2Options::new(8 * CLUSTER as u64)
    };
    let cipher = Some(cipher(numbering));
    let new = NewQcow2::create(Arc::<MemoryStorage>::clone(&storage), options, cipher, true);
    let new = new.unwrap();
    let mut chunk = disk();
    let runs = STORED.map(|cluster| cluster * CLUSTER..(cluster + 1) * CLUSTER);
    let reservation = new
        .reserve(GuestOffset(0), chunk.len(), &runs, &[])
        .unwrap();
    new.encode(&reservation, &mut chunk).unwrap();
    new.write(&reservation, &chunk).unwrap();
    new.finish().unwrap();
    storage
}

/// Reads the disk of the image.
fn contents(storage: &Arc<MemoryStorage>, numbering: Numbering) -> Vec<u8> {
    let header = Header::read(storage.as_ref()).unwrap();
    let storage = Arc::<MemoryStorage>::clone(storage);
    let image = Qcow2Image::open(storage, header, Some(cipher(numbering))).unwrap();
    let mut disk = vec![0; 8 * CLUSTER];
    image.read_at(GuestOffset(0), &mut disk).unwrap();
    disk
}

/// Returns the host offset and the entries of the L2 table.
fn entries(storage: &MemoryStorage) -> (HostOffset, Vec<u64>) {
    let header = Header::read(storage).unwrap();
    let l1 = read_table(storage, header.l1(), "L1").unwrap();
    let host = HostOffset(l1[0] & !COPIED);
    let place = TablePlace { host, entries: 8 };
    (host, read_table(storage, place, "L2").unwrap())
}

/// Compares the stored sectors with the disk's, encrypted by host sector numbers.
fn assert_host_numbered(storage: &MemoryStorage, disk: &[u8]) {
    let (_, entries) = entries(storage);
    let kernel = KeyedCipher::aes_cbc(KEY, Backend::detect());
    let file = storage.contents();
    for cluster in STORED {
        let host = entries[cluster] & !COPIED;
        assert_ne!(host, (cluster * CLUSTER) as u64, "the numbers are the same");
        let mut data = file[usize::try_from(host).unwrap()..][..CLUSTER].to_vec();
        kernel.decrypt(host / 512, &mut data);
        assert!(data == disk[cluster * CLUSTER..][..CLUSTER], "{cluster}");
    }
}

#[test]
fn sectors_can_be_numbered_by_their_place_in_the_file() {
    let storage = image(Numbering::Host);
    assert_host_numbered(&storage, &disk());
    assert!(contents(&storage, Numbering::Host) == disk());
    assert!(contents(&storage, Numbering::Guest) != disk());
    assert!(contents(&image(Numbering::Guest), Numbering::Guest) == disk());
}

#[test]
fn what_moves_in_the_file_is_encrypted_by_its_new_place() {
    let storage = image(Numbering::Host);
    // Without the COPIED flag the cluster may be shared, so that a write copies it.
    let (table, before) = entries(&storage);
    for cluster in STORED {
        let entry = before[cluster] & !COPIED;
        let at = table.0 + 8 * cluster as u64;
        storage.write_at(at, &entry.to_be_bytes()).unwrap();
    }
    let header = Header::read(storage.as_ref()).unwrap();
    let options = Qcow2WriteParts {
        cipher: Some(cipher(Numbering::Host)),
        ..Qcow2WriteParts::default()
    };
    let shared = Arc::<MemoryStorage>::clone(&storage);
    let writable = WritableQcow2::open(shared, &header, options).unwrap();
    let mut disk = disk();
    // One write ends and starts in the middle of two clusters, the other is in the middle of one.
    for (start, length) in [(CLUSTER + 1024, CLUSTER), (6 * CLUSTER + 512, 1024)] {
        disk[start..start + length].fill(0xee);
        let data = &disk[start..start + length];
        writable.write_at(GuestOffset(start as u64), data).unwrap();
    }
    let mut read = vec![0; disk.len()];
    writable.read_at(GuestOffset(0), &mut read).unwrap();
    assert!(read == disk);
    writable.close().unwrap();
    let (_, after) = entries(&storage);
    for cluster in STORED {
        assert_ne!(after[cluster] & !COPIED, before[cluster] & !COPIED);
    }
    assert_host_numbered(&storage, &disk);
    assert!(contents(&storage, Numbering::Host) == disk);
}
