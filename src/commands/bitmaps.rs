//! The bitmaps that a conversion takes along.
//!
//! Whatever keeps them from being copied is found before the target is made or written to. They are added
//! when everything else of the target is written, since what was written there isn't a change that
//! they are about.

use std::sync::Arc;

use super::opened::OpenSource;
use super::source::{could_not_open, inside};
use super::target::{Target, TargetOptions, Written};
use crate::error::{Error, Result, printable};
use crate::formats::qcow2::bitmaps::{Bitmap, read_bitmaps};
use crate::formats::qcow2::write::{CopiedBitmaps, copy_bitmaps};
use crate::formats::qcow2::{Header, Version, features};
use crate::formats::{Format, Image as _, smaller_than_input};
use crate::storage::{Access, FileStorage};

/// The bitmaps of a source.
pub(super) struct Taken {
    copied: CopiedBitmaps,
    size: u64,
    /// The names of those that are left out, since they are inconsistent.
    pub(super) skipped: Vec<String>,
}

/// Finds the bitmaps of an image that is read. With `skip_broken` those that are inconsistent are left out.
///
/// # Errors
/// An image without bitmaps; one that is inconsistent.
pub(super) fn find(source: &OpenSource, skip_broken: bool) -> Result<Taken> {
    let no_support = || Error::unsupported("Source lacks bitmap support");
    let top = source.layers.first().ok_or_else(no_support)?;
    if top.format != Format::QCOW2 {
        return Err(no_support());
    }
    let header = Header::read(top.storage.as_ref())?;
    if header.version() != Version::V3 {
        return Err(no_support());
    }
    let (broken, bitmaps): (Vec<Bitmap>, _) = read_bitmaps(top.storage.as_ref(), &header)?
        .into_iter()
        .partition(|bitmap| bitmap.in_use);
    // The last one first, as qemu-img goes about it.
    let skipped: Vec<String> = broken.iter().rev().map(name).collect();
    if let (Some(first), false) = (skipped.first(), skip_broken) {
        let message = format!("Cannot copy inconsistent bitmap '{first}'");
        let hint = "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it";
        return Err(Error::invalid(message).with_hint(hint));
    }
    Ok(Taken {
        copied: CopiedBitmaps {
            storage: Arc::clone(&top.storage),
            geometry: header.geometry(),
            bitmaps,
        },
        size: source.image.size(),
        skipped,
    })
}

fn name(bitmap: &Bitmap) -> String {
    printable(&String::from_utf8_lossy(&bitmap.name))
}

impl Taken {
    /// Refuses a target that can't have these bitmaps.
    ///
    /// # Errors
    /// Its format or version has none; an existing one has one of that name, or isn't of that size.
    pub(super) fn check_target(&self, target: &Target<'_>) -> Result<()> {
        let format = target.format();
        let no_support =
            || Error::unsupported(format!("Format driver '{format}' does not support bitmaps"));
        let TargetOptions::Qcow2(options, _) = &target.options else {
            return Err(no_support());
        };
        if target.existing.is_none() {
            return match options.version {
                Version::V3 => Ok(()),
                Version::V2 => Err(no_support()),
            };
        }
        let file = FileStorage::open(&target.path, Access::Read, target.cache)?;
        let storage = inside(Arc::new(file), &target.windows)
            .map_err(|error| could_not_open(&target.name, error))?;
        let header =
            Header::read(storage.as_ref()).map_err(|error| could_not_open(&target.name, error))?;
        if header.has_incompatible(features::CORRUPT) {
            // That is told by whoever opens it for writing, before anything is written.
            return Ok(());
        }
        if header.version() != Version::V3 {
            return Err(no_support());
        }
        if header.size() < self.size {
            return Err(smaller_than_input());
        }
        let there = read_bitmaps(storage.as_ref(), &header)?;
        for bitmap in self.copied.bitmaps.iter().rev() {
            let name = name(bitmap);
            if there.iter().any(|other| other.name == bitmap.name) {
                return Err(Error::invalid(format!(
                    "Failed to create bitmap {name}: Bitmap already exists: {name}"
                )));
            }
            if header.size() != self.size {
                return Err(Error::invalid(format!(
                    "Failed to populate bitmap {name}: Bitmaps are of different sizes \
                     (destination size is {}, source size is {}) and can't be merged",
                    header.size(),
                    self.size
                )));
            }
        }
        Ok(())
    }

    /// Adds the bitmaps to a target that is written.
    ///
    /// # Errors
    /// What keeps them from being stored.
    pub(super) fn copy(&self, target: &Target<'_>, written: &Written) -> Result<()> {
        let copy = || {
            let file = match written.handle() {
                Some(handle) => handle.open(Access::ReadWrite, target.cache)?,
                None => FileStorage::open(&target.path, Access::ReadWrite, target.cache)?,
            };
            target.lock(&file)?;
            let storage = inside(Arc::new(file), &target.windows)?;
            let header = Header::read(storage.as_ref())?;
            copy_bitmaps(&storage, &header, &self.copied, target.cache.flushes())
        };
        copy().map_err(|error: Error| {
            error.context(format!("copying the bitmaps to '{}'", target.name))
        })
    }
}
