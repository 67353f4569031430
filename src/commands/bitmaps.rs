//! The bitmaps that a conversion copies.
//!
//! Errors that prevent copying them are found before the target is created or written. They are added after
//! everything else has been written, since the conversion's writes must not set their bits.

use super::target::{Target, Written};
use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::PersistentBitmap;
use crate::formats::driver::{Load, Plan};
use crate::formats::{Image as _, smaller_than_input};
use crate::nodes::{Disk, Loaded, could_not_open};
use crate::storage::Purpose;

/// The bitmaps of a source that are copied.
pub(super) struct CopiedBitmaps {
    copied: Vec<PersistentBitmap>,
    size: u64,
    /// The names of inconsistent bitmaps, which are skipped.
    pub(super) skipped: Vec<String>,
}

/// Returns the bitmaps of an open image. With `skip_broken` inconsistent ones are skipped.
///
/// # Errors
/// Returns an error if the image has no bitmaps, or an inconsistent one without `skip_broken`.
pub(super) fn find(source: &Disk, skip_broken: bool) -> Result<CopiedBitmaps> {
    let top = source.layers.first();
    let bitmaps = top
        .and_then(|top| top.image.bitmaps())
        .ok_or_else(|| Error::unsupported("Source lacks bitmap support"))?;
    let (broken, copied): (Vec<PersistentBitmap>, _) =
        bitmaps.list()?.into_iter().partition(|one| one.in_use);
    // qemu-img lists them in reverse order.
    let skipped: Vec<String> = broken.iter().rev().map(name).collect();
    if let (Some(first), false) = (skipped.first(), skip_broken) {
        let message = format!("Cannot copy inconsistent bitmap '{first}'");
        let hint = "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it";
        return Err(Error::invalid(message).with_hint(hint));
    }
    Ok(CopiedBitmaps {
        copied,
        size: source.image.size(),
        skipped,
    })
}

fn name(bitmap: &PersistentBitmap) -> String {
    printable(&String::from_utf8_lossy(&bitmap.name))
}

impl CopiedBitmaps {
    /// Refuses a target that can't have these bitmaps. `plan` is given for a new target.
    ///
    /// # Errors
    /// Returns an error if the target's format or version has no bitmaps. Returns an error if an existing target has
    /// a bitmap with one of the names, or another size.
    pub(super) fn check_target(&self, target: &Target<'_>, plan: Option<&dyn Plan>) -> Result<()> {
        let format = target.format();
        let no_support =
            || Error::unsupported(format!("Format driver '{format}' does not support bitmaps"));
        if let Some(plan) = plan {
            return match plan.has_bitmaps() {
                true => Ok(()),
                false => Err(no_support()),
            };
        }
        let Some(existing) = target.existing_node() else {
            return Ok(());
        };
        let load = |opened: Loaded| opened.load(Load::Use);
        let image = existing.open_below(Purpose::Probe).and_then(load);
        let image = image.map_err(|error| could_not_open(&target.name, error))?;
        let bitmaps = image.bitmaps().ok_or_else(no_support)?;
        let size = image.size();
        if size < self.size {
            return Err(smaller_than_input());
        }
        let there = bitmaps.list()?;
        for bitmap in self.copied.iter().rev() {
            let name = name(bitmap);
            if there.iter().any(|other| other.name == bitmap.name) {
                return Err(Error::invalid(format!(
                    "Failed to create bitmap {name}: Bitmap already exists: {name}"
                )));
            }
            if size != self.size {
                return Err(Error::invalid(format!(
                    "Failed to populate bitmap {name}: Bitmaps are of different sizes \
                     (destination size is {size}, source size is {}) and can't be merged",
                    self.size
                )));
            }
        }
        Ok(())
    }

    /// Adds the bitmaps to a target that has been written.
    ///
    /// # Errors
    /// Returns an error if they can't be stored.
    pub(super) fn copy(&self, target: &Target<'_>, written: &Written) -> Result<()> {
        let copy = || {
            let node = target.node(written);
            let image = node.open_below(Purpose::Overwrite)?.load(Load::Use)?;
            let bitmaps = image
                .bitmaps()
                .ok_or_else(|| Error::unsupported("the target has no bitmaps"))?;
            bitmaps.add(&self.copied, target.cache.flushes())
        };
        copy().map_err(|error: Error| {
            error.context(format!("copying the bitmaps to '{}'", target.name))
        })
    }
}
