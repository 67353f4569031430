//! The creation of a header with a password in its first key slot.
//!
//! The slots are at the same places as in QEMU and cryptsetup: from byte 4096 on, each at a multiple of 4096. The
//! number of iterations is measured, so that trying a password takes the requested time on this machine.

use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::header::{DIGEST_LENGTH, FIRST_MATERIAL, KeySlot, LuksFields, SALT_LENGTH, SLOTS};
use super::options::LuksOptions;
use crate::crypto::{Secret, af_split, chosen_backend, iterations_per_second, pbkdf2};
use crate::error::{Error, Result};
use crate::formats::encryption::key_material::STRIPES;
use crate::formats::encryption::{Cipher, Encryption, EncryptionFormat, Numbering};
use crate::units::{SECTOR_LEN, SECTOR_SIZE};

/// The alignment of key material in sectors of 512 bytes.
const PAGE_SECTORS: u64 = 8;

/// The smallest number of iterations.
const LEAST_ITERATIONS: u64 = 1000;

/// The divisor by which the digest of the master key takes less time than a key slot.
const DIGEST_SHARE: u64 = 8;

/// The parameters of a new LUKS header.
#[derive(Debug, Clone, Copy)]
pub struct LuksCreation {
    /// Its options.
    pub options: LuksOptions,
    /// The sector numbers with which the disk is encrypted.
    pub numbering: Numbering,
    /// True if the header is detached: in another file than the disk.
    pub is_detached: bool,
}

impl LuksCreation {
    fn key_length(&self) -> u64 {
        self.options.spec.key_length() as u64
    }

    /// Returns the distance between the key material of two slots, in sectors of 512 bytes.
    fn slot_sectors(&self) -> u64 {
        let bytes = self.key_length() * u64::from(STRIPES);
        bytes.div_ceil(SECTOR_SIZE).next_multiple_of(PAGE_SECTORS)
    }

    fn fields(&self, uuid: String) -> Result<LuksFields> {
        let out_of_range = |_| Error::invalid("a LUKS header longer than its fields can say");
        let length = u32::try_from(self.header_length() / SECTOR_SIZE).map_err(out_of_range)?;
        let stride = u32::try_from(self.slot_sectors()).map_err(out_of_range)?;
        let mut slots = [KeySlot::default(); SLOTS];
        for (number, slot) in (0_u32..).zip(&mut slots) {
            slot.material = FIRST_MATERIAL + number * stride;
        }
        Ok(LuksFields {
            version: 1,
            cipher_name: self.options.spec.algorithm.family().to_owned(),
            cipher_mode: self.options.mode_text(),
            hash: self.options.hash.name().to_owned(),
            payload_offset: if self.is_detached { 0 } else { length },
            key_length: u32::try_from(self.key_length()).map_err(out_of_range)?,
            digest: [0; DIGEST_LENGTH],
            digest_salt: [0; SALT_LENGTH],
            digest_iterations: 0,
            uuid,
            slots,
        })
    }
}

impl Encryption for LuksCreation {
    fn format(&self) -> EncryptionFormat {
        EncryptionFormat::Luks
    }

    fn header_length(&self) -> u64 {
        (u64::from(FIRST_MATERIAL) + SLOTS as u64 * self.slot_sectors()) * SECTOR_SIZE
    }

    fn create(&self, secret: &Secret) -> Result<(Vec<u8>, Cipher)> {
        let spec = self.options.spec;
        let hash = self.options.hash;
        let mut fields = self.fields(Uuid::new_v4().to_string())?;
        let mut key = Zeroizing::new(vec![0; spec.key_length()]);
        fill_with_noise(&mut key)?;
        fill_with_noise(&mut fields.digest_salt)?;
        let rate = iterations_per_second(hash, DIGEST_LENGTH);
        let time = self.options.iter_time;
        fields.digest_iterations = iterations(rate / DIGEST_SHARE, time)?;
        let (salt, count) = (fields.digest_salt, fields.digest_iterations);
        pbkdf2(hash, &key, &salt, count, &mut fields.digest);
        let mut material = Vec::new();
        let mut start = 0;
        if let Some(slot) = fields.slots.first_mut() {
            *slot = slot_at_rate(&self.options, slot.material, rate)?;
            slot.is_active = true;
            material = key_material(&self.options, slot, &key, secret)?;
            start = u64::from(slot.material) * SECTOR_SIZE;
        }
        let mut header = fields.encode();
        header.resize(usize::try_from(start).unwrap_or(usize::MAX), 0);
        header.append(&mut material);
        let cipher = spec.with_key(&key, chosen_backend()?)?;
        Ok((header, Cipher::new(Arc::new(cipher), self.numbering)))
    }
}

/// Returns a key slot that isn't active yet, with its key material at sector `material`.
///
/// # Errors
/// Returns an error if the system has no random bytes, or if the slot would need too many iterations.
pub(super) fn new_slot(options: &LuksOptions, material: u32) -> Result<KeySlot> {
    slot_at_rate(options, material, iterations_per_second(options.hash, 1))
}

/// Returns a key slot as [`new_slot`] does. `rate` is the number of iterations per second for one block of the hash.
fn slot_at_rate(options: &LuksOptions, material: u32, rate: u64) -> Result<KeySlot> {
    // Each block of the derived key takes all iterations.
    let blocks = options.spec.key_length().div_ceil(options.hash.length()) as u64;
    let mut slot = KeySlot {
        iterations: iterations(rate / blocks, options.iter_time)?,
        material,
        ..KeySlot::default()
    };
    fill_with_noise(&mut slot.salt)?;
    Ok(slot)
}

/// Returns the key material of a slot: the master key, split and encrypted with the key derived from the password.
///
/// # Errors
/// Returns an error if this machine doesn't have the cipher, or if the system has no random bytes.
pub(super) fn key_material(
    options: &LuksOptions,
    slot: &KeySlot,
    key: &[u8],
    secret: &Secret,
) -> Result<Vec<u8>> {
    let mut stretched = Zeroizing::new(vec![0; key.len()]);
    let password = secret.bytes();
    pbkdf2(
        options.hash,
        password,
        &slot.salt,
        slot.iterations,
        &mut stretched,
    );
    let length = key.len() * STRIPES as usize;
    let mut material = vec![0; length];
    fill_with_noise(&mut material)?;
    af_split(options.hash, key, &mut material);
    // A partial last sector is encrypted as the start of a whole one.
    material.resize(length.next_multiple_of(SECTOR_LEN), 0);
    let cipher = options.spec.with_key(&stretched, chosen_backend()?)?;
    cipher.encrypt(0, &mut material);
    material.truncate(length);
    Ok(material)
}

/// Returns the number of iterations that take `time` milliseconds at `rate` iterations per second.
fn iterations(rate: u64, time: u64) -> Result<u32> {
    let count = u128::from(rate) * u128::from(time) / 1000;
    let count = count.max(u128::from(LEAST_ITERATIONS));
    u32::try_from(count)
        .map_err(|_| Error::invalid(format!("PBKDF iterations {count} larger than {}", u32::MAX)))
}

/// Fills a buffer with random bytes of the system.
///
/// # Errors
/// Returns an error if the system has no random bytes.
pub(super) fn fill_with_noise(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer)
        .map_err(|error| Error::unsupported(format!("the system has no random bytes: {error}")))
}
