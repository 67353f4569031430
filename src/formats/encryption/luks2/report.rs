//! The header in reports, with the field names of version 1 where they apply.

use serde::Serialize;

use super::Luks2Header;
use super::metadata::{Derivation, Luks2Slot};
use crate::crypto::IvGenerator;
use crate::formats::encryption::key_material::STRIPES;
use crate::formats::explanation::Statement;

/// A LUKS2 header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Luks2Info {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ivgen_alg: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ivgen_hash_alg: Option<&'static str>,
    detached_header: bool,
    hash_alg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher_alg: Option<&'static str>,
    uuid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    label: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subsystem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher_mode: Option<&'static str>,
    sector_size: u64,
    slots: Vec<Luks2SlotInfo>,
    payload_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_size: Option<u64>,
    master_key_iters: u32,
    /// The sequence number, which every change of the header increments.
    sequence: u64,
    /// True if one of the two headers is damaged.
    damaged_copy: bool,
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Luks2SlotInfo {
    active: bool,
    slot: u32,
    pbkdf: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iters: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u32>,
    /// The memory in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<u32>,
    priority: u8,
    key_offset: u64,
    stripes: u32,
}

impl Luks2Header {
    /// Returns the header in the form that reports have.
    pub fn info(&self) -> Luks2Info {
        let fields = &self.fields;
        let metadata = &self.metadata;
        let vectors = self.spec.map(|spec| spec.vectors);
        Luks2Info {
            version: 2,
            ivgen_alg: vectors.map(IvGenerator::name),
            ivgen_hash_alg: match vectors {
                Some(IvGenerator::Essiv(hash)) => Some(hash.name()),
                _ => None,
            },
            detached_header: self.is_detached,
            hash_alg: metadata.digest.hash.clone(),
            cipher_alg: self.spec.map(|spec| spec.algorithm.name()),
            uuid: fields.uuid.clone(),
            label: fields.label.clone(),
            subsystem: fields.subsystem.clone(),
            cipher_mode: self.spec.map(|spec| spec.mode.name()),
            sector_size: self.sector_length.bytes(),
            slots: metadata
                .slots
                .iter()
                .map(|(number, slot)| Luks2SlotInfo::of(*number, slot))
                .collect(),
            payload_offset: self.payload_offset(),
            payload_size: self.size,
            master_key_iters: metadata.digest.iterations,
            sequence: fields.sequence,
            damaged_copy: self.one_is_damaged,
        }
    }

    /// Explains the header in sentences.
    pub fn explain(&self) -> Vec<Statement> {
        let unit = self.sector_length.bytes();
        let mut all = vec![Statement::new(
            "LUKS version",
            "2. It is read and not written here, and QEMU doesn't know it.",
        )];
        if unit > 512 {
            all.push(Statement::new(
                "sectors",
                format!("{unit} bytes, each encrypted as one."),
            ));
        }
        if self.one_is_damaged {
            all.push(Statement::new(
                "header",
                "One of its two copies is damaged, and the other is used. cryptsetup repair makes it whole.",
            ));
        }
        let slots = self.metadata.slots.iter();
        all.extend(slots.map(|(number, slot)| {
            let text = match &slot.kdf {
                Derivation::Pbkdf2 { hash, iterations, .. } => {
                    format!("PBKDF2 with {iterations} iterations of {hash}.")
                }
                Derivation::Argon2i(costs) | Derivation::Argon2id(costs) => format!(
                    "{} with {} passes over {} KiB of memory, in {} lanes: opening takes that memory, and so does \
                     every guess.",
                    Luks2SlotInfo::of(*number, slot).pbkdf,
                    costs.time,
                    costs.memory,
                    costs.cpus
                ),
            };
            Statement::new(format!("key slot {number}"), text)
        }));
        all
    }
}

impl Luks2SlotInfo {
    fn of(number: u32, slot: &Luks2Slot) -> Self {
        let (pbkdf, iters, costs) = match &slot.kdf {
            Derivation::Pbkdf2 { iterations, .. } => ("pbkdf2", Some(*iterations), None),
            Derivation::Argon2i(costs) => ("argon2i", None, Some(costs)),
            Derivation::Argon2id(costs) => ("argon2id", None, Some(costs)),
        };
        Self {
            active: true,
            slot: number,
            pbkdf,
            iters,
            time: costs.map(|costs| costs.time),
            memory: costs.map(|costs| costs.memory),
            cpus: costs.map(|costs| costs.cpus),
            priority: slot.priority,
            key_offset: slot.area.offset.0,
            stripes: STRIPES,
        }
    }
}
