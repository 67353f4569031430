//! Recovering the master key with a password.

use zeroize::Zeroizing;

use super::LuksHeader;
use super::header::KeySlot;
use crate::crypto::{Secret, chosen_backend, pbkdf2};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::encryption::key_material::{read_key, refuse_endless};
use crate::units::SECTOR_SIZE;

impl LuksHeader {
    /// Tries the password with every active key slot, and returns the master key.
    ///
    /// # Errors
    /// Returns an error if the password is wrong for all slots, if a slot has too many iterations, or if the slots
    /// can't be read.
    pub(super) fn master_key(&self, secret: &Secret) -> Result<Zeroizing<Vec<u8>>> {
        for (number, slot) in self.fields.slots.iter().enumerate() {
            if !slot.is_active {
                continue;
            }
            let key = self.key_of_slot(number, slot, secret)?;
            if self.is_master_key(&key) {
                return Ok(key);
            }
        }
        Err(Error::new(
            ErrorKind::Invalid,
            "Invalid password, cannot unlock any keyslot",
        ))
    }

    /// Returns true if the password unlocks an active slot.
    ///
    /// # Errors
    /// Returns an error as [`master_key`](Self::master_key) does.
    pub(super) fn opens(&self, number: usize, secret: &Secret) -> Result<bool> {
        match self.fields.slots.get(number).filter(|slot| slot.is_active) {
            Some(slot) => Ok(self.is_master_key(&self.key_of_slot(number, slot, secret)?)),
            None => Ok(false),
        }
    }

    /// Returns the key that a slot gives for a password: the master key if the password is right.
    fn key_of_slot(
        &self,
        number: usize,
        slot: &KeySlot,
        secret: &Secret,
    ) -> Result<Zeroizing<Vec<u8>>> {
        refuse_endless(&format!("LUKS key slot {number}"), slot.iterations)?;
        refuse_endless(
            "the hash of the LUKS master key",
            self.fields.digest_iterations,
        )?;
        let length = self.spec.key_length();
        let mut key = Zeroizing::new(vec![0; length]);
        let password = secret.bytes();
        pbkdf2(self.hash, password, &slot.salt, slot.iterations, &mut key);
        let cipher = self.spec.with_key(&key, chosen_backend()?)?;
        let start = u64::from(slot.material) * SECTOR_SIZE;
        read_key(self.area.as_ref(), start, &cipher, self.hash, length)
    }

    fn is_master_key(&self, key: &[u8]) -> bool {
        let mut digest = [0; super::header::DIGEST_LENGTH];
        let fields = &self.fields;
        pbkdf2(
            self.hash,
            key,
            &fields.digest_salt,
            fields.digest_iterations,
            &mut digest,
        );
        digest == fields.digest
    }
}
