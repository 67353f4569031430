//! Recovering the disk's key with a password.
//!
//! Slots are tried in the order of their priorities. A slot that this version can't unlock is skipped. If no other
//! slot accepts the password either, the reason is reported.

use zeroize::Zeroizing;

use super::Luks2Header;
use super::metadata::{Argon2Costs, Derivation, Luks2Slot};
use crate::crypto::{Argon2Cost, Secret, argon2, chosen_backend, pbkdf2};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::encryption::cipher_names::{hash_of, spec_of};
use crate::formats::encryption::key_material::{read_key, refuse_endless};

/// The largest memory of Argon2 in KiB: 4 GiB, the same as cryptsetup's limit for a new slot.
const MOST_MEMORY: u32 = 4 << 20;

/// The largest number of KiB that Argon2 processes in all of its passes. They take minutes.
const MOST_WORK: u64 = 256 << 20;

impl Luks2Header {
    /// Tries the password with every key slot of the disk, and returns the disk's key.
    ///
    /// # Errors
    /// Returns an error if the password is wrong for all slots, or if the slots can't be read.
    pub(super) fn disk_key(&self, secret: &Secret) -> Result<Zeroizing<Vec<u8>>> {
        let mut slots: Vec<_> = self.metadata.slots.iter().collect();
        slots.sort_by_key(|(_, slot)| std::cmp::Reverse(slot.priority));
        let mut passed_over = None;
        for (number, slot) in slots {
            let opened = self
                .key_of_slot(*number, slot, secret)
                .and_then(|key| Ok(self.is_disk_key(&key)?.then_some(key)));
            match opened {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => passed_over = passed_over.or(Some(error)),
            }
        }
        Err(passed_over.unwrap_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "Invalid password, cannot unlock any keyslot",
            )
        }))
    }

    /// Returns the key that a slot gives for a password: the disk's key if the password is right.
    fn key_of_slot(
        &self,
        number: u32,
        slot: &Luks2Slot,
        secret: &Secret,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let area = &slot.area;
        let spec = spec_of(&area.encryption, u64::from(area.key_size))?;
        let hash = hash_of(&slot.af.hash)?;
        let mut key = Zeroizing::new(vec![0; spec.key_length()]);
        derive(number, &slot.kdf, secret.bytes(), &mut key)?;
        let cipher = spec.with_key(&key, chosen_backend()?)?;
        let length = usize::try_from(slot.key_size).unwrap_or(usize::MAX);
        read_key(self.area.as_ref(), area.offset.0, &cipher, hash, length)
    }

    fn is_disk_key(&self, key: &[u8]) -> Result<bool> {
        let digest = &self.metadata.digest;
        refuse_endless("the digest of the LUKS2 disk's key", digest.iterations)?;
        let wanted = &digest.digest.0;
        let mut made = vec![0; wanted.len()];
        let hash = hash_of(&digest.hash)?;
        pbkdf2(hash, key, &digest.salt.0, digest.iterations, &mut made);
        Ok(made == *wanted)
    }
}

/// Derives a slot's key from a password.
fn derive(number: u32, derivation: &Derivation, password: &[u8], key: &mut [u8]) -> Result<()> {
    let (is_hybrid, costs) = match derivation {
        Derivation::Pbkdf2 {
            hash,
            iterations,
            salt,
        } => {
            refuse_endless(&format!("LUKS2 key slot {number}"), *iterations)?;
            pbkdf2(hash_of(hash)?, password, &salt.0, *iterations, key);
            return Ok(());
        }
        Derivation::Argon2i(costs) => (false, costs),
        Derivation::Argon2id(costs) => (true, costs),
    };
    refuse_costs(number, costs)?;
    let cost = Argon2Cost {
        is_hybrid,
        passes: costs.time,
        memory: costs.memory,
        lanes: costs.cpus,
    };
    let in_slot =
        |error: Error| Error::new(error.kind(), format!("LUKS2 key slot {number}: {error}"));
    argon2(&cost, password, &costs.salt.0, key).map_err(in_slot)
}

/// Refuses costs of Argon2 that would take too much memory or time.
fn refuse_costs(number: u32, costs: &Argon2Costs) -> Result<()> {
    let (memory, passes) = (costs.memory, costs.time);
    if memory > MOST_MEMORY {
        return Err(Error::unsupported(format!(
            "LUKS2 key slot {number} takes {memory} KiB of memory for Argon2, more than the {MOST_MEMORY} that this \
             version gives it"
        )));
    }
    if u64::from(memory) * u64::from(passes) > MOST_WORK {
        return Err(Error::unsupported(format!(
            "LUKS2 key slot {number} takes {passes} passes of Argon2 over {memory} KiB, more than the {MOST_WORK} KiB in \
             all that this version does"
        )));
    }
    Ok(())
}
