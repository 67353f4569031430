//! The JSON text of a header: key slots, segments of the disk, and the digests that connect them.
//!
//! Numbers of 64 bits are strings in it, and ids are decimal strings. All types are checked: a number instead of a
//! string is an error. Features that this version can't read are refused by name. Objects that aren't needed for
//! reading, such as tokens, are ignored.

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::crypto::SectorLength;
use crate::error::{Error, Result, printable};
use crate::formats::encryption::key_material::STRIPES;
use crate::units::SECTOR_SIZE;

/// The largest number of key slots.
const MOST_SLOTS: u32 = 32;

/// The largest length of the key slots area in bytes.
const LONGEST_AREA: u64 = 128 << 20;

/// The largest length of a key in bytes: two keys of 256 bits for XTS.
const LONGEST_KEY: u32 = 64;

/// The smallest length of a digest in bytes. A shorter one could match a wrong password.
const SHORTEST_DIGEST: usize = 16;

/// The fields of a header's text, after checks of their consistency.
#[derive(Debug, Clone)]
pub(super) struct Luks2Metadata {
    /// The key slots that have the key of the disk, by their numbers.
    pub(super) slots: BTreeMap<u32, Luks2Slot>,
    /// The segment with the disk.
    pub(super) segment: Luks2Segment,
    /// The digest of the disk's key.
    pub(super) digest: Luks2Digest,
}

/// The top level of the text.
#[derive(Deserialize)]
struct MetadataText {
    keyslots: BTreeMap<ObjectId, Value>,
    segments: BTreeMap<ObjectId, Value>,
    digests: BTreeMap<ObjectId, Luks2Digest>,
    config: Luks2Config,
}

#[derive(Deserialize)]
struct Luks2Config {
    json_size: Decimal,
    keyslots_size: Decimal,
    #[serde(default)]
    requirements: Requirements,
}

#[derive(Default, Deserialize)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

/// A key slot.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Luks2Slot {
    /// The length of the key in the slot, in bytes.
    pub(super) key_size: u32,
    pub(super) area: KeyArea,
    pub(super) kdf: Derivation,
    pub(super) af: Splitting,
    /// The priority: 2 for a slot that is tried first, 0 for one that is tried only after all others.
    #[serde(default = "normal_priority")]
    pub(super) priority: u8,
}

fn normal_priority() -> u8 {
    1
}

/// The place of a key's stripes, and the cipher that encrypts them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct KeyArea {
    #[serde(rename = "type")]
    kind: String,
    /// The offset in bytes from the start of the first header.
    pub(super) offset: Decimal,
    size: Decimal,
    pub(super) encryption: String,
    /// The length of the key that encrypts the stripes, in bytes.
    pub(super) key_size: u32,
}

/// The derivation of a key from a password.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Derivation {
    Pbkdf2 {
        hash: String,
        iterations: u32,
        salt: Base64,
    },
    Argon2i(Argon2Costs),
    Argon2id(Argon2Costs),
}

/// The costs of Argon2.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Argon2Costs {
    /// The number of passes.
    pub(super) time: u32,
    /// The memory in KiB.
    pub(super) memory: u32,
    /// The number of lanes.
    pub(super) cpus: u32,
    pub(super) salt: Base64,
}

/// The anti-forensic splitting of a key.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Splitting {
    #[serde(rename = "type")]
    kind: String,
    stripes: u32,
    pub(super) hash: String,
}

/// The disk or a part of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Luks2Segment {
    /// The offset in bytes.
    pub(super) offset: Decimal,
    size: String,
    iv_tweak: Decimal,
    pub(super) encryption: String,
    sector_size: u64,
    #[serde(default)]
    integrity: Option<Value>,
}

/// The digest of a key, with the slots that have the key and the segments that it encrypts.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Luks2Digest {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<ObjectId>,
    segments: Vec<ObjectId>,
    pub(super) hash: String,
    pub(super) iterations: u32,
    pub(super) salt: Base64,
    pub(super) digest: Base64,
}

/// The id of an object, a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "Decimal")]
struct ObjectId(u32);

impl TryFrom<Decimal> for ObjectId {
    type Error = String;

    fn try_from(number: Decimal) -> std::result::Result<Self, String> {
        let id = u32::try_from(number.0);
        id.map(Self).map_err(|_| format!("no id: {}", number.0))
    }
}

/// A number in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Decimal(pub(super) u64);

impl TryFrom<String> for Decimal {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_plain);
        let refuse = || format!("no decimal number: '{}'", printable(&text));
        number.map(Self).ok_or_else(refuse)
    }
}

/// Bytes in a string.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Base64(pub(super) Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let bytes = STANDARD.decode(text);
        bytes.map(Self).map_err(|error| error.to_string())
    }
}

impl Luks2Segment {
    /// Returns the size of the disk in bytes, or `None` if it extends to the end of its file.
    ///
    /// # Errors
    /// Returns an error if the size is neither `dynamic` nor a decimal number.
    pub(super) fn size(&self) -> Result<Option<u64>> {
        if self.size == "dynamic" {
            return Ok(None);
        }
        let size = Decimal::try_from(self.size.clone()).map_err(wrong)?;
        Ok(Some(size.0))
    }

    /// Returns the sector size.
    ///
    /// # Errors
    /// Returns an error if no sectors have that size.
    pub(super) fn sector_length(&self) -> Result<SectorLength> {
        SectorLength::of_bytes(self.sector_size)
            .ok_or_else(|| wrong(format!("sectors of {} bytes", self.sector_size)))
    }

    /// Returns the number of the first sector of 512 bytes, for the IV generator.
    pub(super) fn first_number(&self) -> u64 {
        self.iv_tweak.0
    }

    fn check(&self, header_end: u64, is_detached: bool) -> Result<()> {
        let (offset, unit) = (self.offset.0, self.sector_length()?.bytes());
        if !is_detached && offset < header_end {
            return Err(wrong("the disk starts inside of the header"));
        }
        let size = self.size()?;
        let end = offset.checked_add(size.unwrap_or(0));
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(wrong("the disk ends where no file does"));
        }
        if !offset.is_multiple_of(SECTOR_SIZE) || !size.unwrap_or(0).is_multiple_of(unit) {
            return Err(wrong("the disk isn't a whole number of sectors"));
        }
        Ok(())
    }
}

impl Luks2Slot {
    /// Returns the range of its stripes in bytes.
    fn place(&self) -> Option<Range<u64>> {
        let start = self.area.offset.0;
        Some(start..start.checked_add(self.area.size.0)?)
    }

    fn check(&self, number: u32, areas: &Range<u64>) -> Result<()> {
        let refuse = |what: &str| Err(wrong(format!("key slot {number} {what}")));
        if self.area.kind != "raw" || self.af.kind != "luks1" {
            let kinds = format!("{}, {}", self.area.kind, self.af.kind);
            return Err(Error::unsupported(format!(
                "LUKS2 key slot {number} keeps its key in a way that isn't supported ({})",
                printable(&kinds)
            )));
        }
        if self.af.stripes != STRIPES {
            return refuse(&format!("has {} stripes, not {STRIPES}", self.af.stripes));
        }
        let keys = [self.key_size, self.area.key_size];
        if !keys.iter().all(|size| (1..=LONGEST_KEY).contains(size)) {
            return refuse("has a key of an invalid length");
        }
        let Some(place) = self.place() else {
            return refuse("ends where no file does");
        };
        if place.start < areas.start || place.end > areas.end {
            return refuse("lies outside of the area of key slots");
        }
        let stripes = u64::from(self.key_size) * u64::from(STRIPES);
        if place.end - place.start < stripes.next_multiple_of(SECTOR_SIZE) {
            return refuse("is too short for its stripes");
        }
        if self.priority > 2 {
            return refuse("has an invalid priority");
        }
        Ok(())
    }
}

impl Luks2Metadata {
    /// Parses and checks the text of a header of `length` bytes. The disk of a detached header is in another file.
    ///
    /// # Errors
    /// Returns an error if it is damaged, or uses a feature that isn't supported.
    pub(super) fn parse(text: &[u8], length: u64, is_detached: bool) -> Result<Self> {
        let document: MetadataText = serde_json::from_slice(text).map_err(wrong)?;
        let MetadataText {
            keyslots,
            segments,
            digests,
            config,
        } = document;
        let (text_size, areas_size) = (config.json_size.0, config.keyslots_size.0);
        if text_size.checked_add(4096) != Some(length) {
            return Err(wrong(format!("a text of {text_size} bytes")));
        }
        if areas_size > LONGEST_AREA || !areas_size.is_multiple_of(4096) {
            return Err(wrong(format!(
                "an area of {areas_size} bytes for key slots"
            )));
        }
        let areas = 2 * length..2 * length + areas_size;
        if let Some(requirement) = config.requirements.mandatory.first() {
            return Err(refuse_requirement(requirement));
        }
        let (segment_id, segment) = only_segment(segments)?;
        segment.check(areas.end, is_detached)?;
        let slots = own_slots(keyslots, &areas)?;
        let mut bound = digests
            .values()
            .filter(|digest| digest.segments.contains(&segment_id));
        let digest = bound.next().cloned();
        let digest = digest.ok_or_else(|| wrong("the disk has no digest of its key"))?;
        if bound.next().is_some() {
            return Err(wrong("the disk has several digests"));
        }
        if digest.kind != "pbkdf2" {
            return Err(Error::unsupported(format!(
                "LUKS2 digests of type '{}' aren't supported",
                printable(&digest.kind)
            )));
        }
        if digest.digest.0.len() < SHORTEST_DIGEST || digest.iterations == 0 {
            return Err(wrong("the digest of the disk's key is no digest"));
        }
        let is_bound = |number: &u32| digest.keyslots.contains(&ObjectId(*number));
        let slots: BTreeMap<_, _> = slots
            .into_iter()
            .filter(|(number, _)| is_bound(number))
            .collect();
        let mut sizes = slots.values().map(|slot| slot.key_size);
        if let Some(size) = sizes.next()
            && sizes.any(|other| other != size)
        {
            return Err(wrong("key slots hold keys of several lengths for one disk"));
        }
        Ok(Self {
            slots,
            segment,
            digest,
        })
    }
}

/// Returns the only segment.
fn only_segment(segments: BTreeMap<ObjectId, Value>) -> Result<(ObjectId, Luks2Segment)> {
    let mut segments = segments.into_iter();
    let (id, segment) = match (segments.next(), segments.next()) {
        (Some(one), None) => one,
        (None, _) => return Err(wrong("there is no segment, and so no disk")),
        (Some(_), Some(_)) => {
            return Err(Error::unsupported(
                "LUKS2 disks of several segments, as reencryption leaves them, aren't supported",
            ));
        }
    };
    match kind(&segment)? {
        "crypt" => {}
        other => {
            return Err(Error::unsupported(format!(
                "LUKS2 segments of type '{}' aren't supported",
                printable(other)
            )));
        }
    }
    let segment: Luks2Segment = typed(segment)?;
    if segment.integrity.is_some() {
        return Err(Error::unsupported(
            "LUKS2 disks with integrity (dm-integrity) aren't supported",
        ));
    }
    Ok((id, segment))
}

/// Returns the slots of the type `luks2`, which have a key and must not overlap.
fn own_slots(
    keyslots: BTreeMap<ObjectId, Value>,
    areas: &Range<u64>,
) -> Result<BTreeMap<u32, Luks2Slot>> {
    let mut slots = BTreeMap::new();
    for (ObjectId(number), slot) in keyslots {
        if number >= MOST_SLOTS {
            return Err(wrong(format!("a key slot {number}")));
        }
        if kind(&slot)? != "luks2" {
            continue;
        }
        let slot: Luks2Slot = typed(slot)?;
        slot.check(number, areas)?;
        slots.insert(number, slot);
    }
    let mut places: Vec<_> = slots.values().filter_map(Luks2Slot::place).collect();
    places.sort_unstable_by_key(|place| place.start);
    let mut ends = places.iter().zip(places.iter().skip(1));
    if ends.any(|(one, next)| one.end > next.start) {
        return Err(wrong("key slots overlap"));
    }
    Ok(slots)
}

fn kind(object: &Value) -> Result<&str> {
    let kind = object.get("type").and_then(Value::as_str);
    kind.ok_or_else(|| wrong("an object without a type"))
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(wrong)
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("LUKS2 metadata is invalid: {what}"))
}

fn refuse_requirement(requirement: &str) -> Error {
    let name = printable(requirement);
    Error::unsupported(match requirement {
        "offline-reencrypt"
        | "online-reencrypt"
        | "online-reencrypt-v2"
        | "online-reencrypt-v3" => {
            format!("LUKS2 reencryption is in progress ('{name}'), finish it with cryptsetup first")
        }
        _ => format!("LUKS2 requirement '{name}' isn't supported"),
    })
}
