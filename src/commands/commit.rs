//! The subcommand `commit`: an image's data is written into an image of its backing chain.
//!
//! The base that is committed to is the backing file, or an image further down. All data and zeroes of the images
//! above it are written into it, and put on stable storage before the top image is emptied. So the disk of the top
//! image never changes, even if the commit is interrupted. Images in between aren't changed, and are no longer valid
//! by themselves.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::{Passwords, Purpose};
use crate::convert::{self, Observer, Settings};
use crate::error::{Error, ErrorKind, Result, printable};
use crate::formats::driver::{Parts, WriteParts};
use crate::formats::{
    Chain, ExtentKind, Image, OverwriteOptions, Preallocation, Resize, ZeroImage,
};
use crate::nodes::{
    BackingNode, Disk, Node, Policy, WritableFile, WriteAccess, file_name, refuse_same,
};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The parameters of `commit`.
pub struct CommitPlan<'a> {
    /// The image.
    pub image: Node<'a>,
    /// The name of the base, an image of the backing chain; `None` for the backing file.
    pub base: Option<&'a OsStr>,
    /// True if the image isn't emptied: `-d`.
    pub keeps: bool,
    /// The settings of the copy.
    pub settings: Settings,
}

/// Commits an image to its base, and empties it.
///
/// # Errors
/// Returns an error if an image of the chain can't be opened or read, or if the base can't be written. Returns an
/// error if the base is smaller and can't be resized. The disk of the image is unchanged then.
pub fn run(
    plan: &CommitPlan<'_>,
    passwords: &dyn Passwords,
    observer: &dyn Observer,
) -> Result<()> {
    // An interrupted commit has left the base with another content id, and can be repeated.
    let image = Node {
        policy: Policy {
            takes_any_content: true,
            ..plan.image.policy
        },
        ..plan.image.clone()
    };
    let chain = image.open(Purpose::Read, passwords)?;
    observer.progress(0, 1);
    let nodes = nodes(&image, &chain)?;
    let base = base(plan, &chain, &nodes)?;
    drop(chain);
    let (above, below) = nodes.split_at(base);
    let (Some(top), Some(base)) = (above.first(), below.first()) else {
        return Err(Error::invalid("a commit to an image that isn't there"));
    };
    let flush = plan.image.policy.cache.flushes();
    let access = WriteAccess {
        opens_backing: false,
        ..WriteAccess::to_change(flush)
    };
    let top = top.open_to_write(&access, passwords)?;
    let between = open_between(above, passwords)?;
    let files = files(&top, between.as_ref());
    let refuse = |file: &dyn Storage| {
        let files: Vec<&dyn Storage> = files.iter().map(AsRef::as_ref).collect();
        refuse_same(&base.path, file, &files)
    };
    let base = Node {
        // The system's error already has the name.
        name: String::new(),
        ..base.clone()
    };
    let access = WriteAccess {
        refuse: &refuse,
        ..WriteAccess::to_change(flush)
    };
    let mut target = base.open_to_write(&access, passwords)?;
    let source = source(&top, between.as_ref())?;
    let failed = |error: Error| error.context("Block job failed");
    if target.image.size() < source.size() {
        grow(&mut target, source.size()).map_err(failed)?;
    }
    // The blocks of images in between stay theirs, and so do those of one that isn't emptied.
    let source_goes = between.is_none() && !plan.keeps;
    let copied = copy(plan, &source, &target, source_goes, observer);
    if between.is_none() {
        // The base has new contents even after a failure, and the top's disk is unchanged over them.
        let adopted = adopt(&top, &mut target, flush);
        copied.and(adopted).map_err(failed)?;
    } else {
        copied.map_err(failed)?;
    }
    if let Some(between) = &between {
        between.check_lengths()?;
    }
    if plan.keeps {
        return Ok(());
    }
    empty(&top, target.image.size())
}

/// Returns the nodes of all images of a backing chain, top first.
fn nodes<'a>(top: &Node<'a>, chain: &Disk) -> Result<Vec<Node<'a>>> {
    let mut nodes = vec![top.clone()];
    for layer in &chain.layers {
        let below = nodes
            .last()
            .map(|node| node.backing_node(layer.image.as_ref()));
        nodes.extend(below.transpose()?.flatten());
    }
    Ok(nodes)
}

/// Returns the number of images above the base.
fn base(plan: &CommitPlan<'_>, chain: &Disk, nodes: &[Node<'_>]) -> Result<usize> {
    let Some(name) = plan.base else {
        return match nodes.len() {
            0 | 1 => Err(Error::invalid("Image does not have a backing file")),
            _ => Ok(1),
        };
    };
    let above = nodes.iter().zip(&chain.layers);
    let found = above
        .zip(nodes.iter().skip(1))
        .position(|((above, layer), node)| {
            let stored = layer.image.backing().map(|backing| backing.name);
            stored == Some(name.as_bytes()) || is_file(&above.path, name, &node.path)
        });
    found.map(|index| index + 1).ok_or_else(|| {
        Error::invalid(format!(
            "Did not find '{}' in the backing chain of '{}'",
            printable(&name.to_string_lossy()),
            printable(&plan.image.name)
        ))
    })
}

/// Returns true if a name relative to an image's folder is that of the file at `path`.
fn is_file(image: &Path, name: &OsStr, path: &Path) -> bool {
    let named = file_name::beside(image, name.as_bytes());
    match (fs::canonicalize(named), fs::canonicalize(path)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Opens the images between the top and the base, if there are any.
fn open_between(above: &[Node<'_>], passwords: &dyn Passwords) -> Result<Option<Disk>> {
    let mut below = BackingNode::Nothing;
    for node in above.iter().skip(1).rev() {
        below = BackingNode::Given(Box::new(Node {
            below,
            ..node.clone()
        }));
    }
    match below {
        BackingNode::Given(node) => node.open(Purpose::Read, passwords).map(Some),
        _ => Ok(None),
    }
}

/// Returns the files of the images above the base.
fn files(top: &WritableFile<'_>, between: Option<&Disk>) -> Vec<Arc<dyn Storage>> {
    let own = std::iter::once(&top.file).chain(&top.parts.files);
    let layers = between.into_iter().flat_map(|between| &between.layers);
    let others = layers.flat_map(|layer| &layer.files);
    own.chain(others).map(Arc::clone).collect()
}

/// Opens the images above the base as one disk. Parts that none of them stores are unallocated in it.
fn source(top: &WritableFile<'_>, between: Option<&Disk>) -> Result<Chain> {
    let image = top.image.open(Parts {
        files: top.parts.files.clone(),
        secret: top.parts.secret,
        salvage: false,
        depth: 0,
    })?;
    let below = between.map(|between| Arc::clone(&between.image) as Arc<dyn Image>);
    Ok(Chain::new(image, below.into_iter().collect()))
}

/// Grows a disk to `size` bytes. What is new reads as zeroes.
fn grow(target: &mut WritableFile<'_>, size: u64) -> Result<()> {
    let old = target.image.size();
    let resize = Resize {
        size,
        preallocation: Preallocation::Off,
    };
    let resized = target.image.resize(target.parts.clone(), resize);
    resized.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Error::unsupported("Operation not supported"),
        _ => error,
    })?;
    target.reload()?;
    write_zeroes_from(old, target)
}

/// Writes zeroes beyond the `old` size of a grown disk in bytes, where it doesn't read as zeroes. That is so for
/// unwritten parts of an encrypted disk.
fn write_zeroes_from(old: u64, target: &WritableFile<'_>) -> Result<()> {
    if target.image.encryption().is_none() {
        return Ok(());
    }
    let disk = target.image.open_writable(target.parts.clone())?;
    let mut start = GuestOffset(old);
    while start.0 < disk.size() {
        let extent = disk.extent_at(start, disk.size() - start.0)?;
        if let ExtentKind::Data(_) = extent.kind {
            disk.write_zeroes(start, extent.length, false)?;
        }
        start = GuestOffset(start.0 + extent.length);
    }
    disk.close()
}

/// Writes all that `source` stores into the base, and closes the base.
fn copy(
    plan: &CommitPlan<'_>,
    source: &Chain,
    base: &WritableFile<'_>,
    source_goes: bool,
    observer: &dyn Observer,
) -> Result<()> {
    let options = OverwriteOptions {
        leaves_parts: true,
        source_goes,
        ..OverwriteOptions::default()
    };
    let target = base
        .image
        .write_over(base.parts.clone(), source.size(), options)?;
    let settings = Settings {
        leave_unallocated: true,
        // As in qemu-img, and it is the base's space now.
        shares_unread: true,
        ..plan.settings
    };
    convert::copy(source, target.as_ref(), settings, observer)
}

/// Stores the base's current content id in the top, if its format has one.
fn adopt(top: &WritableFile<'_>, base: &mut WritableFile<'_>, flush: bool) -> Result<()> {
    if top.image.backing_content_id().is_none() {
        return Ok(());
    }
    base.reload()?;
    match base.image.content_id() {
        Some(id) => top.image.set_backing_content_id(id, flush),
        None => Ok(()),
    }
}

/// Empties the top, whose data is in a base of `below` bytes now. An image that can't be emptied keeps its data, as
/// with `qemu-img`.
fn empty(top: &WritableFile<'_>, below: u64) -> Result<()> {
    let parts = WriteParts {
        // No data is copied from it.
        backing: Some(Arc::new(ZeroImage { size: below })),
        ..top.parts.clone()
    };
    match top.image.make_empty(parts) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        done => done,
    }
}
