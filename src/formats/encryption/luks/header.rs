//! The fields of the header, and the checks that need no password.

use std::io::Read as _;

use byteorder::{BigEndian, ReadBytesExt as _};

use crate::error::{Error, Result};
use crate::formats::encryption::key_material::STRIPES;
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The number of key slots.
pub(super) const SLOTS: usize = 8;

/// The length of the fields in bytes.
pub const FIELDS_LENGTH: usize = 592;

/// The length of a slot's fields in bytes. They are at the end of the header.
const SLOT_LENGTH: usize = 48;

/// The first sector that key material may be in, since the fields have the first 4096 bytes.
pub(super) const FIRST_MATERIAL: u32 = 8;

/// The lengths of salts and of the master key's digest in bytes.
pub(super) const SALT_LENGTH: usize = 32;
pub(super) const DIGEST_LENGTH: usize = 20;

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;

/// A key slot as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeySlot {
    /// True if the slot is in use.
    pub(super) is_active: bool,
    /// The number of PBKDF2 iterations.
    pub(super) iterations: u32,
    pub(super) salt: [u8; SALT_LENGTH],
    /// The offset of its key material, in sectors of 512 bytes.
    pub(super) material: u32,
}

/// The fields of a key slot that are needed only for the checks.
#[derive(Debug, Clone, Copy, Default)]
struct SlotState {
    state: u32,
    stripes: u32,
}

/// The fields of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LuksFields {
    pub(super) version: u16,
    pub(super) cipher_name: String,
    pub(super) cipher_mode: String,
    pub(super) hash: String,
    /// The offset of the encrypted disk, in sectors of 512 bytes, or 0 for a detached header.
    pub(super) payload_offset: u32,
    /// The length of the master key in bytes.
    pub(super) key_length: u32,
    pub(super) digest: [u8; DIGEST_LENGTH],
    pub(super) digest_salt: [u8; SALT_LENGTH],
    pub(super) digest_iterations: u32,
    pub(super) uuid: String,
    pub(super) slots: [KeySlot; SLOTS],
}

impl LuksFields {
    /// Reads and checks the fields at the start of `area`. The disk of a detached header is in another file.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if a field is invalid.
    pub(super) fn read(area: &dyn Storage, is_detached: bool) -> Result<Self> {
        let mut bytes = [0; FIELDS_LENGTH];
        let length = area.read_at(0, &mut bytes)?;
        let mut bytes = bytes.get(..length).unwrap_or_default();
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::corrupt("Volume is not in LUKS format"));
        }
        let cut_off = |_| Error::corrupt("Unable to read LUKS header: it is cut off");
        let (fields, states) = Self::parse(&mut bytes).map_err(cut_off)?;
        fields.check(&states, is_detached)?;
        Ok(fields.into_checked())
    }

    /// Parses the fields, and the states and stripes of the slots. Texts still have their zero bytes.
    fn parse(bytes: &mut &[u8]) -> std::io::Result<(Self, [SlotState; SLOTS])> {
        *bytes = bytes.get(MAGIC.len()..).unwrap_or_default();
        let version = bytes.read_u16::<BigEndian>()?;
        let cipher_name = text(&array::<32>(bytes)?);
        let cipher_mode = text(&array::<32>(bytes)?);
        let hash = text(&array::<32>(bytes)?);
        let mut fields = Self {
            version,
            cipher_name,
            cipher_mode,
            hash,
            payload_offset: bytes.read_u32::<BigEndian>()?,
            key_length: bytes.read_u32::<BigEndian>()?,
            digest: array(bytes)?,
            digest_salt: array(bytes)?,
            digest_iterations: bytes.read_u32::<BigEndian>()?,
            uuid: text(&array::<40>(bytes)?),
            slots: [KeySlot::default(); SLOTS],
        };
        let mut states = [SlotState::default(); SLOTS];
        for (slot, state) in fields.slots.iter_mut().zip(&mut states) {
            state.state = bytes.read_u32::<BigEndian>()?;
            slot.is_active = state.state == ENABLED;
            slot.iterations = bytes.read_u32::<BigEndian>()?;
            slot.salt = array(bytes)?;
            slot.material = bytes.read_u32::<BigEndian>()?;
            state.stripes = bytes.read_u32::<BigEndian>()?;
        }
        Ok((fields, states))
    }

    fn check(&self, states: &[SlotState; SLOTS], is_detached: bool) -> Result<()> {
        if self.version != 1 {
            return Err(Error::unsupported(format!(
                "LUKS version {} is not supported",
                self.version
            )));
        }
        for (text, what) in [
            (&self.cipher_name, "cipher name"),
            (&self.cipher_mode, "cipher mode"),
            (&self.hash, "hash spec"),
        ] {
            if !text.ends_with('\0') {
                return Err(Error::corrupt(format!(
                    "LUKS header {what} is not NUL terminated"
                )));
            }
        }
        let is_behind = self.payload_offset >= FIRST_MATERIAL;
        if !(is_behind || is_detached && self.payload_offset == 0) {
            return Err(Error::corrupt(
                "LUKS payload is overlapping with the header",
            ));
        }
        if self.digest_iterations == 0 {
            return Err(Error::corrupt("LUKS key iteration count is zero"));
        }
        for (number, (slot, state)) in self.slots.iter().zip(states).enumerate() {
            self.check_slot(number, slot, state)?;
        }
        Ok(())
    }

    fn check_slot(&self, number: usize, slot: &KeySlot, state: &SlotState) -> Result<()> {
        let wrong = |what: &str| Err(Error::corrupt(format!("Keyslot {number} {what}")));
        if state.stripes != STRIPES {
            let stripes = state.stripes;
            return wrong(&format!("is corrupted (stripes {stripes} != {STRIPES})"));
        }
        if slot.material < FIRST_MATERIAL {
            return wrong("is overlapping with the LUKS header");
        }
        if ![ENABLED, DISABLED].contains(&state.state) {
            return wrong("state (active/disable) is corrupted");
        }
        if slot.is_active && slot.iterations == 0 {
            return wrong("iteration count is zero");
        }
        let (start, length) = (u64::from(slot.material), self.material_sectors());
        if self.payload_offset > 0 && start + length > u64::from(self.payload_offset) {
            return wrong("is overlapping with the encrypted payload");
        }
        for (other, second) in self.slots.iter().enumerate().skip(number + 1) {
            let second = u64::from(second.material);
            if start < second + length && second < start + length {
                return Err(Error::corrupt(format!(
                    "Keyslots {number} and {other} are overlapping in the header"
                )));
            }
        }
        Ok(())
    }

    /// Removes the terminating zero bytes from the texts.
    fn into_checked(mut self) -> Self {
        for text in [
            &mut self.cipher_name,
            &mut self.cipher_mode,
            &mut self.hash,
            &mut self.uuid,
        ] {
            text.truncate(text.find('\0').unwrap_or(text.len()));
        }
        self
    }

    /// Returns the length of a slot's key material in sectors of 512 bytes.
    pub(super) fn material_sectors(&self) -> u64 {
        self.material_bytes().div_ceil(SECTOR_SIZE)
    }

    /// Returns the length of a slot's key material in bytes.
    pub(super) fn material_bytes(&self) -> u64 {
        u64::from(self.key_length) * u64::from(STRIPES)
    }

    /// Encodes the fields.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIELDS_LENGTH);
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_be_bytes());
        for (text, length) in [
            (&self.cipher_name, 32),
            (&self.cipher_mode, 32),
            (&self.hash, 32),
        ] {
            extend_padded(&mut bytes, text, length);
        }
        bytes.extend(self.payload_offset.to_be_bytes());
        bytes.extend(self.key_length.to_be_bytes());
        bytes.extend(self.digest);
        bytes.extend(self.digest_salt);
        bytes.extend(self.digest_iterations.to_be_bytes());
        extend_padded(&mut bytes, &self.uuid, 40);
        for (number, slot) in self.slots.iter().enumerate() {
            bytes.extend(slot_state(number, slot.is_active).1);
            bytes.extend(slot_fields(number, slot).1);
        }
        bytes
    }
}

/// Returns the offset of a slot's state in the header, and the bytes of the state.
pub(super) fn slot_state(number: usize, is_active: bool) -> (u64, [u8; 4]) {
    let state = if is_active { ENABLED } else { DISABLED };
    (slot_start(number), state.to_be_bytes())
}

/// Returns the offset of a slot's other fields in the header, and their bytes.
pub(super) fn slot_fields(number: usize, slot: &KeySlot) -> (u64, Vec<u8>) {
    let mut bytes = Vec::with_capacity(SLOT_LENGTH);
    bytes.extend(slot.iterations.to_be_bytes());
    bytes.extend(slot.salt);
    bytes.extend(slot.material.to_be_bytes());
    bytes.extend(STRIPES.to_be_bytes());
    (slot_start(number) + 4, bytes)
}

fn slot_start(number: usize) -> u64 {
    (FIELDS_LENGTH - (SLOTS - number) * SLOT_LENGTH) as u64
}

/// Returns a text up to its first zero byte, and including it.
fn text(field: &[u8]) -> String {
    let mut parts = field.split_inclusive(|byte| *byte == 0);
    String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned()
}

fn array<const N: usize>(rest: &mut &[u8]) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rest.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Appends a text that is padded with zeroes.
fn extend_padded(bytes: &mut Vec<u8>, text: &str, length: usize) {
    let end = bytes.len() + length;
    bytes.extend(text.bytes().take(length - 1));
    bytes.resize(end, 0);
}
