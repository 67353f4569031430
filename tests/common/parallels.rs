//! A format extension of Parallels for tests: a dirty bitmap, and its bits.
#![allow(dead_code, reason = "each test program uses some of it")]

use cowhide::crypto::HashAlgorithm;

/// The offset of the extension's field in a header, in bytes.
pub const EXTENSION: usize = 56;
/// The identifier of the bitmap, as bytes and as its name.
pub const ID: [u8; 16] = *b"0123456789abcdef";
pub const NAME: &str = "30313233-3435-3637-3839-616263646566";
/// The number of bytes of the disk for each bit.
pub const GRANULARITY: u64 = 64 << 10;
/// The offset of the bitmap's table in an extension, in bytes.
pub const TABLE: usize = 24 + 24 + 32;

/// Returns the feature of a dirty bitmap for a disk of `size` bytes. `table` has an entry for each cluster of bits.
pub fn bitmap(size: u64, table: &[u64]) -> Vec<u8> {
    let mut feature = 0x2038_5fae_252c_b34a_u64.to_le_bytes().to_vec();
    feature.extend([0; 8]);
    feature.extend(u32::try_from(32 + 8 * table.len()).unwrap().to_le_bytes());
    feature.extend([0; 4]);
    feature.extend((size / 512).to_le_bytes());
    feature.extend(ID);
    feature.extend(u32::try_from(GRANULARITY / 512).unwrap().to_le_bytes());
    feature.extend(u32::try_from(table.len()).unwrap().to_le_bytes());
    feature.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    feature
}

/// Returns the cluster of an extension with these features.
pub fn extension(features: &[u8], cluster: usize) -> Vec<u8> {
    let mut bytes = 0xab23_4cef_23dc_ea87_u64.to_le_bytes().to_vec();
    bytes.extend([0; 16]);
    bytes.extend(features);
    bytes.resize(cluster, 0);
    seal(&mut bytes);
    bytes
}

/// Stores the checksum of an extension.
pub fn seal(extension: &mut [u8]) {
    let sum = HashAlgorithm::Md5.digest(&[&extension[24..]]);
    extension[8..24].copy_from_slice(&sum);
}

/// Adds an extension at the end of an image.
pub fn add(image: &mut Vec<u8>, extension: &[u8]) {
    let place = image.len() as u64 / 512;
    image[EXTENSION..EXTENSION + 8].copy_from_slice(&place.to_le_bytes());
    image.extend(extension);
}
