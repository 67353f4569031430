//! `info`: what an image's header says.
//!
//! Only the file that the user named is opened: names found inside it (backing file, data file) are
//! shown, and not followed unless the whole chain is asked for. No password is needed, and nothing
//! but the header and the lists of snapshots and bitmaps is read, so that it is cheap for any image.
//! The report has the field names of QEMU's `ImageInfo`, which scripts know.

use super::sandbox;
use crate::error::{Result, printable};
use crate::formats::ImageFile;
use crate::formats::info::ImageInfo;
use crate::nodes::{Inspected, Node, file_name, infinite_loop};
use crate::storage::Identity;

/// Looks at an image and at those below it, top first; `shown` is what the report calls the first.
/// `prepare` is called when there are snapshots, while files can still be opened: whoever shows their
/// dates needs the time zone.
///
/// # Errors
/// One of them can't be opened, or its header is invalid; a chain that leads back into itself.
pub fn chain(source: &Node<'_>, shown: String, prepare: &dyn Fn()) -> Result<Vec<ImageInfo>> {
    let mut images = Vec::new();
    let mut seen: Vec<Identity> = Vec::new();
    let mut next = Some(source.clone());
    while let Some(image) = next {
        let found = Inspected::open(&image)?;
        let identity = found.opened.file.identity()?;
        if seen.iter().any(|other| other.is(&identity)) {
            return Err(infinite_loop(&image.name));
        }
        seen.push(identity);
        next = below(&image, found.image.as_ref())?;
        images.push((image, found));
    }
    if images.iter().any(|(_, found)| found.has_snapshots()) {
        prepare();
    }
    sandbox::all_is_open(source);
    let infos = images.iter().map(|(image, found)| found.describe(image));
    let mut infos: Vec<ImageInfo> = infos.collect::<Result<_>>()?;
    if let (Some(first), Some((_, found))) = (infos.first_mut(), images.first()) {
        first.filename = source.shown_as(found.opened.format)?.unwrap_or(shown);
    }
    Ok(infos)
}

/// The image below another. What is wrong with its name is said of that name.
fn below<'a>(source: &Node<'a>, image: &dyn ImageFile) -> Result<Option<Node<'a>>> {
    source.named_below(image).map_err(|error| {
        let name = image.backing().map_or(&[][..], |backing| backing.name);
        let name = file_name::beside(&source.path, name);
        let name = name.to_string_lossy();
        // Of a tree of options that is said already.
        if name.starts_with("json:") {
            return error;
        }
        error.context(format!("Could not open '{}'", printable(&name)))
    })
}

/// Looks at an image; `shown` and `prepare` are as of [`chain`].
///
/// # Errors
/// It can't be opened, or its header is invalid.
pub fn run(source: &Node<'_>, shown: String, prepare: &dyn Fn()) -> Result<ImageInfo> {
    let found = Inspected::open(source)?;
    if found.has_snapshots() {
        prepare();
    }
    sandbox::all_is_open(source);
    let mut info = found.describe(source)?;
    info.filename = source.shown_as(found.opened.format)?.unwrap_or(shown);
    Ok(info)
}
