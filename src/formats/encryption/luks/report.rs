//! The header in reports.

use serde::Serialize;

use super::LuksHeader;
use super::header::KeySlot;
use crate::crypto::IvGenerator;
use crate::formats::encryption::key_material::STRIPES;
use crate::units::SECTOR_SIZE;

/// A LUKS header, with the field names of QEMU's `QCryptoBlockInfoLUKS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LuksInfo {
    ivgen_alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ivgen_hash_alg: Option<&'static str>,
    detached_header: bool,
    hash_alg: &'static str,
    cipher_alg: &'static str,
    uuid: String,
    cipher_mode: &'static str,
    slots: Vec<SlotInfo>,
    payload_offset: u64,
    master_key_iters: u32,
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct SlotInfo {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iters: Option<u32>,
    key_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stripes: Option<u32>,
}

impl LuksHeader {
    /// Returns the header in the form that reports have.
    pub fn info(&self) -> LuksInfo {
        LuksInfo {
            ivgen_alg: self.spec.vectors.name(),
            ivgen_hash_alg: match self.spec.vectors {
                IvGenerator::Essiv(hash) => Some(hash.name()),
                _ => None,
            },
            detached_header: self.fields.payload_offset == 0,
            hash_alg: self.hash.name(),
            cipher_alg: self.spec.algorithm.name(),
            uuid: self.fields.uuid.clone(),
            cipher_mode: self.spec.mode.name(),
            slots: self.fields.slots.iter().map(SlotInfo::of).collect(),
            payload_offset: self.payload_offset(),
            master_key_iters: self.fields.digest_iterations,
        }
    }
}

impl SlotInfo {
    fn of(slot: &KeySlot) -> Self {
        Self {
            active: slot.is_active,
            iters: slot.is_active.then_some(slot.iterations),
            key_offset: u64::from(slot.material) * SECTOR_SIZE,
            stripes: slot.is_active.then_some(STRIPES),
        }
    }
}
