//! Tests of small images that qemu-img made, as literal bytes. Their contents are written here as numbers, so
//! that neither the library's constants nor the installed qemu-img can hide a mistake.

use std::sync::Arc;

use cowhide::crypto::Secret;
use cowhide::formats::encryption::{EncryptedHeader as _, EncryptionFormat, LegacyAes};
use cowhide::formats::qcow2::{Header, Qcow2Image, Version, check, features};
use cowhide::formats::{ExtentKind, Image};
use cowhide::storage::MemoryStorage;
use cowhide::units::{GuestOffset, HostOffset};

const V2: &[u8] = include_bytes!("data/golden/v2.qcow2");
const V3: &[u8] = include_bytes!("data/golden/v3.qcow2");
const AES: &[u8] = include_bytes!("data/golden/aes.qcow2");
/// A password of 34 bytes, of which only the first 16 are used.
const PASSWORD: &[u8] = b"cowhide password beyond sixteen";

fn header(bytes: &[u8]) -> (Arc<MemoryStorage>, Header) {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let header = Header::read(storage.as_ref()).unwrap();
    (storage, header)
}

fn contents(image: &dyn Image) -> Vec<u8> {
    let mut buf = vec![0xee; usize::try_from(image.size()).unwrap()];
    image.read_at(GuestOffset(0), &mut buf).unwrap();
    buf
}

/// Returns the extents of a whole disk as (start, length, kind).
fn extents(image: &dyn Image) -> Vec<(u64, u64, ExtentKind)> {
    let mut extents = Vec::new();
    let mut position = 0;
    while position < image.size() {
        let extent = image.extent_at(GuestOffset(position), u64::MAX).unwrap();
        extents.push((position, extent.length, extent.kind));
        position += extent.length;
    }
    extents
}

/// Returns a disk of `size` zeroes with patterns at (start, length, byte).
fn disk(size: usize, patterns: &[(usize, usize, u8)]) -> Vec<u8> {
    let mut disk = vec![0; size];
    for (start, length, byte) in patterns {
        disk[*start..start + length].fill(*byte);
    }
    disk
}

const NOWHERE: ExtentKind = ExtentKind::Unallocated { kept: None };
const ZERO: ExtentKind = ExtentKind::Zero { kept: None };

#[test]
fn version_2_with_the_smallest_clusters() {
    let (storage, header) = header(V2);
    assert_eq!(header.version(), Version::V2);
    assert_eq!(header.geometry().cluster_size(), 512);
    assert_eq!(header.size(), 102_400);
    assert_eq!(header.encryption(), None);
    let image = Qcow2Image::open(storage, header, None).unwrap();
    let expected = disk(102_400, &[(0x1000, 1024, 0x5a), (0x18e00, 512, 0xa5)]);
    assert!(contents(&image) == expected);
    let data: Vec<_> = extents(&image)
        .into_iter()
        .filter(|(_, _, kind)| *kind != NOWHERE)
        .collect();
    assert_eq!(
        data,
        [
            (4096, 1024, ExtentKind::Data(HostOffset(2560))),
            (101_888, 512, ExtentKind::Data(HostOffset(4096))),
        ]
    );
}

#[test]
fn version_3_with_zero_clusters() {
    let (storage, header) = header(V3);
    assert_eq!(header.version(), Version::V3);
    assert_eq!(header.geometry().cluster_size(), 4096);
    assert!(header.has_compatible(features::LAZY_REFCOUNTS));
    assert_eq!(
        header.refcount_table().host,
        HostOffset(u64::from_be_bytes(V3[48..56].try_into().unwrap()))
    );
    let image = Qcow2Image::open(storage, header, None).unwrap();
    let kept = ExtentKind::Zero {
        kept: Some(HostOffset(28672)),
    };
    assert_eq!(
        extents(&image),
        [
            (0, 4096, ExtentKind::Data(HostOffset(20480))),
            (4096, 1_044_480, NOWHERE),
            (1_048_576, 4096, ZERO),
            (1_052_672, 1_044_480, NOWHERE),
            // This is the end of the first L2 table, and all of an unallocated one.
            (2_097_152, 1_048_576, NOWHERE),
            // Its cluster is preallocated.
            (3_145_728, 4096, kept),
            (3_149_824, 4096, ExtentKind::Data(HostOffset(32768))),
            (3_153_920, 1_040_384, NOWHERE),
            (4_194_304, 4_194_304, NOWHERE),
        ]
    );
    let expected = disk(8 << 20, &[(0, 4096, 0x11), (3_149_824, 4096, 0x22)]);
    assert!(contents(&image) == expected);
}

#[test]
fn legacy_aes_decrypts_to_the_pattern_and_encrypts_to_the_same_bytes() {
    // From `openssl enc -aes-128-cbc -nopad -K <"cowhide password" in hex> -iv 0200…` (and 0300…).
    const SECTOR_2: [u8; 16] = [
        0xce, 0xd3, 0x1d, 0x77, 0x4e, 0xcc, 0x9f, 0x39, 0x47, 0x3c, 0xce, 0x03, 0xa8, 0x83, 0x79,
        0x71,
    ];
    const SECTOR_3: [u8; 16] = [
        0xd2, 0x1c, 0xff, 0xc5, 0x0f, 0xa4, 0x8e, 0x40, 0xcf, 0x07, 0xa2, 0x75, 0x9e, 0x1a, 0xe8,
        0x72,
    ];
    let (storage, header) = header(AES);
    assert_eq!(header.encryption(), Some(EncryptionFormat::Aes));
    let cipher = || LegacyAes.unlock(&Secret::new(PASSWORD.to_vec())).unwrap();
    let image = Qcow2Image::open(storage, header, Some(cipher())).unwrap();
    assert!(contents(&image) == disk(65536, &[(0x400, 1024, 0x33)]));

    assert_eq!(AES[0xa00..0xa10], SECTOR_2);
    assert_eq!(AES[0xc00..0xc10], SECTOR_3);
    let mut sectors = [0x33; 1024];
    cipher().encrypt(GuestOffset(1024), HostOffset(0), &mut sectors);
    assert_eq!(sectors[..16], SECTOR_2);
    assert!(sectors[..512] == AES[0xa00..0xc00]);
    assert!(sectors[512..] == AES[0xc00..0xe00]);
}

#[test]
fn a_wrong_password_gives_other_bytes_and_no_error() {
    let (storage, header) = header(AES);
    let wrong = LegacyAes
        .unlock(&Secret::new(b"cowhide passwore".to_vec()))
        .unwrap();
    let image = Qcow2Image::open(storage, header, Some(wrong)).unwrap();
    assert!(contents(&image) != disk(65536, &[(0x400, 1024, 0x33)]));
}

#[test]
fn an_encrypted_image_is_never_read_without_a_key() {
    let (storage, header) = header(AES);
    assert!(Qcow2Image::open(storage, header, None).is_err());
}

#[test]
fn they_are_clean() {
    for (bytes, allocated, total) in [(V2, 3, 200), (V3, 3, 2048), (AES, 2, 128)] {
        let (storage, header) = header(bytes);
        let report = check(storage.as_ref(), &header, &mut |finding| {
            panic!("{finding}");
        });
        let report = report.unwrap();
        assert_eq!(
            (report.allocated_clusters, report.total_clusters),
            (allocated, total)
        );
    }
}
