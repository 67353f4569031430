//! Adding and erasing passwords: changes of the key slots of an existing header.
//!
//! A slot is active if its state says so, which has four bytes. A new slot's key material and other fields are on
//! stable storage before its state changes. An erased slot's state changes first. So a power cut leaves a header in
//! which each slot is either valid or inactive. A password opens the disk as before unless its slot was erased.

use super::LuksHeader;
use super::create::{fill_with_noise, key_material, new_slot};
use super::header::{SLOTS, slot_fields, slot_state};
use super::options::LuksOptions;
use crate::crypto::Secret;
use crate::error::{Error, Result};
use crate::options::values::not_accepted;
use crate::options::{Kind, OptionSpec, Values};
use crate::units::SECTOR_SIZE;

/// The number of times that key material is overwritten. The medium may still keep copies of it.
const OVERWRITES: usize = 40;

macro_rules! slot_options {
    ($prefix:literal) => {
        [
            OptionSpec::new(
                concat!($prefix, "state"),
                Kind::Text,
                "Select new state of affected keyslots (active/inactive)",
            ),
            OptionSpec::new(
                concat!($prefix, "new-secret"),
                Kind::Text,
                "New secret to set in the matching keyslots. Empty string to erase",
            ),
            OptionSpec::new(
                concat!($prefix, "old-secret"),
                Kind::Text,
                "Select all keyslots that match this password",
            ),
            OptionSpec::new(
                concat!($prefix, "keyslot"),
                Kind::Number,
                "Select a single keyslot to modify explicitly",
            ),
            OptionSpec::new(
                concat!($prefix, "iter-time"),
                Kind::Number,
                "Time to spend in PBKDF in milliseconds",
            ),
        ]
    };
}

/// The options of a key slot change for the format `luks`.
pub const SLOT_OPTIONS: [OptionSpec; 5] = slot_options!("");

/// The options of a key slot change for formats with an inner LUKS header.
pub const ENCRYPT_SLOT_OPTIONS: [OptionSpec; 5] = slot_options!("encrypt.");

/// A change of key slots.
#[derive(Clone, Copy)]
pub enum SlotChange<'a> {
    /// Adds a password.
    Activate {
        /// The new password.
        new: &'a Secret,
        /// The slot, or `None` for the first free one.
        slot: Option<u64>,
        /// The time for deriving a key from the password, in milliseconds.
        iter_time: Option<u64>,
    },
    /// Erases one slot, or all slots of a password.
    Erase {
        /// The slot.
        slot: Option<u64>,
        /// The password whose slots are erased.
        old: Option<&'a Secret>,
    },
}

impl<'a> SlotChange<'a> {
    /// Reads the options whose names begin with `prefix`. Returns `None` if there are none. `secret` returns the
    /// secret with an id.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if options are missing or exclude each other, or if there is no such
    /// secret.
    pub fn of(
        values: &Values,
        prefix: &str,
        secret: &dyn Fn(&str) -> Result<&'a Secret>,
    ) -> Result<Option<Self>> {
        let name = |name: &str| format!("{prefix}{name}");
        let text = |option: &str| values.text(&name(option));
        let (slot, iter_time) = (
            values.number(&name("keyslot")),
            values.number(&name("iter-time")),
        );
        let (new, old) = (text("new-secret"), text("old-secret"));
        let refuse = |why: &str| Err(Error::invalid(why));
        match text("state") {
            None if slot.is_none() && iter_time.is_none() && new.is_none() && old.is_none() => {
                Ok(None)
            }
            None => refuse("Parameter 'state' is missing"),
            Some("active") => match (new, old) {
                (None, _) => refuse("'new-secret' is required to activate a keyslot"),
                (_, Some(_)) => refuse("'old-secret' must not be given when activating keyslots"),
                (Some(new), None) => Ok(Some(Self::Activate {
                    new: secret(new)?,
                    slot,
                    iter_time,
                })),
            },
            Some("inactive") => {
                if new.is_some() {
                    return refuse("'new-secret' must not be given when erasing keyslots");
                }
                if iter_time.is_some() {
                    return refuse("'iter-time' must not be given when erasing keyslots");
                }
                let old = old.map(secret).transpose()?;
                if slot.is_none() && old.is_none() {
                    return refuse(
                        "To erase keyslot(s), either explicit keyslot index or the password currently \
                         contained in them must be given",
                    );
                }
                Ok(Some(Self::Erase { slot, old }))
            }
            Some(other) => Err(not_accepted("state", other)),
        }
    }
}

impl LuksHeader {
    /// Changes key slots of a header that `secret` unlocks. With `force`, a slot in use may be overwritten, and the
    /// last slot may be erased, which loses the disk's data.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if the change is refused, or the system's error.
    pub fn change_slots(&self, change: SlotChange<'_>, secret: &Secret, force: bool) -> Result<()> {
        match change {
            SlotChange::Activate {
                new,
                slot,
                iter_time,
            } => self.activate(new, slot, iter_time, secret, force),
            SlotChange::Erase { slot, old } => self.erase(slot, old, force),
        }
    }

    fn activate(
        &self,
        new: &Secret,
        slot: Option<u64>,
        iter_time: Option<u64>,
        secret: &Secret,
        force: bool,
    ) -> Result<()> {
        let is_active = |number: usize| {
            let slot = self.fields.slots.get(number);
            slot.is_some_and(|slot| slot.is_active)
        };
        let number = match slot {
            Some(slot) => {
                let number = in_range(slot)?;
                if is_active(number) && !force {
                    return Err(Error::invalid(format!(
                        "Refusing to overwrite active keyslot {number} - please erase it first"
                    )));
                }
                number
            }
            None => (0..SLOTS)
                .find(|number| !is_active(*number))
                .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"))?,
        };
        let key = self.master_key(secret)?;
        let mut options = LuksOptions {
            spec: self.spec,
            hash: self.hash,
            ..LuksOptions::default()
        };
        options.iter_time = iter_time.unwrap_or(options.iter_time);
        let place = self
            .fields
            .slots
            .get(number)
            .map_or(0, |slot| slot.material);
        let slot = new_slot(&options, place)?;
        let material = key_material(&options, &slot, &key, new)?;
        // The slot is inactive while it has the new material and the old fields.
        self.set_state(number, false)?;
        self.area.flush()?;
        let start = u64::from(slot.material) * SECTOR_SIZE;
        self.area.write_at(start, &material)?;
        let (at, fields) = slot_fields(number, &slot);
        self.area.write_at(at, &fields)?;
        self.area.flush()?;
        self.set_state(number, true)?;
        self.area.flush()
    }

    fn erase(&self, slot: Option<u64>, old: Option<&Secret>, force: bool) -> Result<()> {
        let active = self.fields.slots.iter().filter(|slot| slot.is_active);
        let active = active.count();
        if let Some(slot) = slot {
            let number = in_range(slot)?;
            let slot = self.fields.slots.get(number);
            if let Some(old) = old
                && !self.opens(number, old)?
            {
                return Err(Error::invalid(format!(
                    "Given keyslot {number} doesn't contain the given old password for erase \
                     operation"
                )));
            }
            if !force && !slot.is_some_and(|slot| slot.is_active) {
                return Err(Error::invalid(format!(
                    "Given keyslot {number} is already erased (inactive) "
                )));
            }
            if !force && active == 1 {
                return Err(Error::invalid(format!(
                    "Attempt to erase the only active keyslot {number} which will erase all the data \
                     in the image irreversibly - refusing operation"
                )));
            }
            return self.erase_slot(number);
        }
        let Some(old) = old else {
            return Ok(());
        };
        let mut matching = Vec::new();
        for number in 0..SLOTS {
            if self.opens(number, old)? {
                matching.push(number);
            }
        }
        if matching.is_empty() {
            return Err(Error::invalid(
                "No keyslots match given (old) password for erase operation",
            ));
        }
        if !force && matching.len() == active {
            return Err(Error::invalid(
                "All the active keyslots match the (old) password that was given and erasing them \
                 will erase all the data in the image irreversibly - refusing operation",
            ));
        }
        matching
            .into_iter()
            .try_for_each(|number| self.erase_slot(number))
    }

    fn erase_slot(&self, number: usize) -> Result<()> {
        let Some(slot) = self.fields.slots.get(number) else {
            return Ok(());
        };
        self.set_state(number, false)?;
        self.area.flush()?;
        let erased = super::header::KeySlot {
            material: slot.material,
            ..super::header::KeySlot::default()
        };
        let (at, fields) = slot_fields(number, &erased);
        self.area.write_at(at, &fields)?;
        let length = usize::try_from(self.fields.material_bytes()).unwrap_or(usize::MAX);
        let mut noise = vec![0; length];
        for _ in 0..OVERWRITES {
            fill_with_noise(&mut noise)?;
            let start = u64::from(slot.material) * SECTOR_SIZE;
            self.area.write_at(start, &noise)?;
            self.area.flush()?;
        }
        Ok(())
    }

    fn set_state(&self, number: usize, is_active: bool) -> Result<()> {
        let (at, state) = slot_state(number, is_active);
        self.area.write_at(at, &state)
    }
}

fn in_range(slot: u64) -> Result<usize> {
    let number = usize::try_from(slot).ok().filter(|number| *number < SLOTS);
    number.ok_or_else(|| {
        Error::invalid(format!(
            "Invalid keyslot {slot} specified, must be between 0 and {}",
            SLOTS - 1
        ))
    })
}
