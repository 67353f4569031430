//! `bitmap`: changes of one persistent bitmap of an image.
//!
//! Bitmaps are metadata: only the file that was named is opened, and that of the image whose bitmaps are
//! merged. No password is needed. All changes are made in memory and stored at once, so that a call that fails
//! changes nothing.

use super::Purpose;
use crate::error::Result;
use crate::formats::Format;
use crate::formats::bitmap_changes::BitmapChanges;
use crate::formats::bitmaps::PersistentBitmap;
use crate::nodes::{Node, could_not_open};

/// A change of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapChange {
    /// It is added, and enabled.
    Add,
    /// It is removed.
    Remove,
    /// All its bits are taken away.
    Clear,
    /// It is kept up to date from now on.
    Enable,
    /// It stays as it is from now on.
    Disable,
    /// The bits of the bitmap of that name are added.
    Merge(Vec<u8>),
}

impl BitmapChange {
    /// Returns the word that messages have.
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

/// The changes of a call.
pub struct BitmapRequest<'a> {
    /// The image.
    pub image: Node<'a>,
    /// The bitmap's name.
    pub name: Vec<u8>,
    /// The changes, in order.
    pub changes: Vec<BitmapChange>,
    /// The granularity of a bitmap that is added, in bytes; 0 for the image's own.
    pub granularity: u64,
    /// The image whose bitmaps are merged, where that is another one.
    pub source: Option<Node<'a>>,
}

/// Changes a bitmap. `found` is told the image's format before anything else is done.
///
/// # Errors
/// Returns an error if an image can't be opened, or as `Operation add on bitmap name failed: …`. Nothing has
/// changed then, unless it is the system's error.
pub fn run(changes: &BitmapRequest<'_>, found: &dyn Fn(Format)) -> Result<()> {
    let node = &changes.image;
    let failed = |error| could_not_open(&node.name, error);
    let (opened, mut image) = node.open_metadata(Purpose::Change)?;
    found(opened.format);
    // A walk through all tables would take far longer than the change.
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

/// Reads the list of the bitmaps of the image that has the merged ones, and the size of its disk.
fn source_bitmaps(node: &Node<'_>) -> Result<(u64, Vec<PersistentBitmap>)> {
    let (_, image) = node.open_metadata(Purpose::Read)?;
    let bitmaps = image
        .bitmaps()
        .map(|bitmaps| bitmaps.to_merge())
        .transpose();
    let bitmaps = bitmaps.map_err(|error| could_not_open(&node.name, error))?;
    Ok((image.size(), bitmaps.unwrap_or_default()))
}
