//! The subcommand `rebase`: another backing file for an image, or none.
//!
//! In safe mode both backing chains are read, and the image's disk stays the same. The parts that would differ are
//! written into the image first, and the header changes last. In unsafe mode (`-u`) only the header changes. All
//! errors that can be found beforehand are found before anything is written.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use super::{Driver, Passwords, Purpose, Sharing};
use crate::convert::{self, Observer, Rebase};
use crate::error::{Error, Result, printable};
use crate::formats::driver::Backing;
use crate::nodes::{ChainImage, Disk, Names, Node, Policy, WritableFile, WriteAccess, refuse_same};
use crate::storage::CacheMode;

/// The new backing file, as `-b` and `-F` give it.
pub struct NewBacking<'a> {
    /// Its name as it will be stored. An empty name means no backing file.
    pub name: &'a OsStr,
    /// The name of its format.
    pub format: Option<&'a str>,
    /// The cache mode for reading it.
    pub cache: CacheMode,
    /// The rule for others that write it while it is read.
    pub sharing: Sharing,
}

/// The parameters of `rebase`.
pub struct RebasePlan<'a> {
    /// The image.
    pub image: Node<'a>,
    /// The new backing file.
    pub backing: NewBacking<'a>,
    /// True if only the header changes, even if the disk's contents change: `-u`.
    pub header_only: bool,
    /// True if data that is written into the image is compressed.
    pub compressed: bool,
    /// The most threads.
    pub workers: NonZeroUsize,
}

/// Changes the backing file.
///
/// # Errors
/// Returns an error if an image of either chain can't be opened or read. Returns an error if the image can't be
/// written, or if its header can't have that backing file. The image then has its old disk and its old backing file.
pub fn run(
    plan: &RebasePlan<'_>,
    passwords: &dyn Passwords,
    observer: &dyn Observer,
) -> Result<()> {
    let node = &plan.image;
    let backing = &plan.backing;
    let flush = node.policy.cache.flushes();
    let access = WriteAccess {
        compressed: plan.compressed,
        opens_backing: !plan.header_only,
        ..WriteAccess::to_change(flush)
    };
    let open = node.open_to_write(&access, passwords)?;
    if let Some(format) = backing.format
        && Driver::from_name(format).is_none()
    {
        let format = printable(format);
        return Err(Error::invalid(format!("Invalid format name: '{format}'")));
    }
    let new = match plan.header_only || backing.name.is_empty() {
        true => None,
        false => Some(open_new(plan, &open, passwords)?),
    };
    let stored = stored(backing);
    let failed = |error: Error| {
        let name = backing.name.to_string_lossy();
        let name = printable(&name);
        error.context(format!("Could not change the backing file to '{name}'"))
    };
    if stored.is_some() && backing.format.is_none() {
        return Err(failed(
            Error::invalid("backing format must be specified").with_hint("-F FORMAT gives it"),
        ));
    }
    open.image.check_backing(stored.as_ref()).map_err(failed)?;
    if !plan.header_only {
        fill(plan, &open, new.as_ref(), observer)?;
    }
    open.image
        .set_backing(stored.as_ref(), flush)
        .map_err(failed)?;
    observer.progress(1, 1);
    Ok(())
}

/// Returns the backing file as the header will name it.
fn stored(backing: &NewBacking<'_>) -> Option<Backing> {
    (!backing.name.is_empty()).then(|| Backing {
        name: backing.name.as_bytes().to_vec(),
        format: backing.format.map(str::to_owned),
        size: u64::MAX,
    })
}

/// Opens the new backing file and its backing chain. A relative name is relative to the image's folder.
fn open_new(
    plan: &RebasePlan<'_>,
    open: &WritableFile<'_>,
    passwords: &dyn Passwords,
) -> Result<Disk> {
    let (node, backing) = (&plan.image, &plan.backing);
    let opened = || {
        // The user named this file, so it is opened. The policy for names inside of it stays.
        let follow = Names::Follow(node.policy.warn);
        let found = follow.backing_file(&node.path, backing.name.as_bytes(), backing.format)?;
        let new = Node {
            // The prefix of the error names the file.
            name: String::new(),
            sharing: backing.sharing,
            policy: Policy {
                cache: backing.cache,
                names: node.policy.names,
                warn: node.policy.warn,
                ..found.policy
            },
            ..found
        };
        let new = new.open(Purpose::Read, passwords)?;
        refuse_same(&node.path, open.file.as_ref(), &new.files())?;
        Ok(new)
    };
    opened().map_err(|error: Error| {
        let name = backing.name.to_string_lossy();
        let name = printable(&name);
        error.context(format!("Could not open new backing file '{name}'"))
    })
}

/// Writes the parts that would differ into the image.
fn fill(
    plan: &RebasePlan<'_>,
    open: &WritableFile<'_>,
    new: Option<&Disk>,
    observer: &dyn Observer,
) -> Result<()> {
    let overlay = open.image.open_writable(open.parts.clone())?;
    if plan.compressed {
        overlay.check_compression()?;
    }
    let chain = |disk: Option<&Disk>| disk.map(|disk| Arc::clone(&disk.image));
    let rebase = Rebase {
        overlay: overlay.as_ref(),
        old: chain(open.below.as_ref()),
        new: chain(new),
        common: match (&open.below, new) {
            (Some(old), Some(new)) => in_common(old, new)?,
            _ => 0,
        },
        compressed: plan.compressed,
    };
    convert::rebase(&rebase, plan.workers, observer)?;
    for disk in open.below.iter().chain(new) {
        disk.check_lengths()?;
    }
    // All data is on stable storage before the header names the new backing file.
    overlay.close()
}

/// Returns the number of base images that both chains share.
///
/// # Errors
/// Returns the system's error.
fn in_common(old: &Disk, new: &Disk) -> Result<usize> {
    let pairs = old.layers.iter().rev().zip(new.layers.iter().rev());
    let mut common = 0;
    for (one, other) in pairs {
        if !is_same(one, other)? {
            break;
        }
        common += 1;
    }
    Ok(common)
}

fn is_same(one: &ChainImage, other: &ChainImage) -> Result<bool> {
    let read_alike = one.format == other.format
        && one.start == other.start
        && one.image.size() == other.image.size()
        && one.files.len() == other.files.len();
    if !read_alike {
        return Ok(false);
    }
    for (one, other) in one.files.iter().zip(&other.files) {
        if !one.identity()?.is(&other.identity()?) {
            return Ok(false);
        }
    }
    Ok(true)
}
