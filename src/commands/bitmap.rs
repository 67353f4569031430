//! The subcommand `bitmap`: changes of one persistent bitmap of an image.
//!
//! Bitmaps are metadata: only the named file is opened, and that of the image whose bitmaps are merged. No password
//! is needed. All changes are made in memory and stored at once, so that a failed call changes nothing.

use super::Purpose;
use crate::error::Result;
use crate::formats::Format;
use crate::formats::bitmap_changes::BitmapChanges;
use crate::formats::bitmaps::PersistentBitmap;
use crate::nodes::{Node, could_not_open};

/// A change of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapChange {
    /// Adds the bitmap, which is enabled.
    Add,
    /// Removes it.
    Remove,
    /// Clears all its bits.
    Clear,
    /// Enables it, so that writes set bits from now on.
    Enable,
    /// Disables it, so that writes don't change it from now on.
    Disable,
    /// Sets the bits that the bitmap of that name has.
    Merge(Vec<u8>),
}

impl BitmapChange {
    /// Returns the word for messages.
    fn word(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }
}

/// The parameters of `bitmap`.
pub struct BitmapRequest<'a> {
    /// The image.
    pub image: Node<'a>,
    /// The bitmap's name.
    pub name: Vec<u8>,
    /// The changes, in order.
    pub changes: Vec<BitmapChange>,
    /// The granularity of an added bitmap in bytes, or 0 for the default.
    pub granularity: u64,
    /// The image whose bitmaps are merged, if it is another one.
    pub source: Option<Node<'a>>,
}

/// Changes a bitmap. `found` is called with the image's format before anything else is done.
///
/// # Errors
/// Returns an error if an image can't be opened, or `Operation add on bitmap name failed: …`. Nothing has changed
/// then, unless it is the system's error.
pub fn run(changes: &BitmapRequest<'_>, found: &dyn Fn(Format)) -> Result<()> {
    let node = &changes.image;
    let failed = |error| could_not_open(&node.name, error);
    let (opened, mut image) = node.open_metadata(Purpose::Change)?;
    found(opened.format);
    // The bitmaps need no other table, and reading all of them would take far longer than the change.
    image.prepare_to_change(false).map_err(failed)?;
    let source = changes.source.as_ref().map(source_bitmaps).transpose()?;
    let bitmaps = image.bitmaps();
    let mut planned = BitmapChanges::new(&changes.name, image.size(), bitmaps).map_err(failed)?;
    for change in &changes.changes {
        let made = match change {
            BitmapChange::Add => planned.add(changes.granularity, &node.name, image.as_ref()),
            BitmapChange::Remove => planned.remove(),
            BitmapChange::Clear => planned.clear(),
            BitmapChange::Enable => planned.enable(true),
            BitmapChange::Disable => planned.enable(false),
            BitmapChange::Merge(source_name) => planned.merge(source_name, source.as_ref()),
        };
        made.map_err(|error| {
            let name = String::from_utf8_lossy(&changes.name);
            let word = change.word();
            error.context(format!("Operation {word} on bitmap {name} failed"))
        })?;
    }
    let stored = planned.store(node.policy.cache.flushes());
    stored.map_err(|error| {
        let name = String::from_utf8_lossy(&changes.name);
        error.context(format!("Bitmap {name} of '{}'", node.name))
    })
}

/// Reads the bitmap directory of the image whose bitmaps are merged, and the size of its disk.
fn source_bitmaps(node: &Node<'_>) -> Result<(u64, Vec<PersistentBitmap>)> {
    let (_, image) = node.open_metadata(Purpose::Read)?;
    let bitmaps = image
        .bitmaps()
        .map(|bitmaps| bitmaps.to_merge())
        .transpose();
    let bitmaps = bitmaps.map_err(|error| could_not_open(&node.name, error))?;
    Ok((image.size(), bitmaps.unwrap_or_default()))
}
