//! The subcommand `info`: the contents of an image's header.
//!
//! Only the named file is opened. The names inside of it (backing file, data file) are reported, and only followed
//! for `--backing-chain`. No password is needed. Only the header and the lists of snapshots and bitmaps are read, so
//! that it is fast for any image. The report has the field names of QEMU's `ImageInfo`, which scripts use.

use super::sandbox;
use crate::error::{Result, printable};
use crate::formats::ImageFile;
use crate::formats::encryption::EncryptionFormat;
use crate::formats::explanation::Statement;
use crate::formats::info::ImageInfo;
use crate::nodes::{Inspected, Node, file_name, infinite_loop};
use crate::storage::Identity;
use crate::units::human_size;

/// Reports on an image and its backing chain, top first. `shown` is the name of the first image in the report.
/// `prepare` is called if there are snapshots, while files can still be opened: their dates need the time zone.
///
/// # Errors
/// Returns an error if an image can't be opened, if its header is invalid, or if the chain has a loop.
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

/// Explains an image's header in sentences. Reads no other file.
///
/// # Errors
/// Returns the errors of [`run`].
pub fn explain(source: &Node<'_>) -> Result<Vec<Statement>> {
    let found = Inspected::open(source)?;
    sandbox::all_is_open(source);
    let image = found.image.as_ref();
    let size = image.size();
    let mut all = vec![
        Statement::new("format", format!("{}.", found.opened.format)),
        Statement::new("disk", format!("{} ({size} bytes).", human_size(size))),
    ];
    if let Some(backing) = image.backing() {
        let text = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes));
        let name = text(backing.name);
        let format = match backing.format {
            Some(format) => format!("of the format {}", text(format)),
            None => "of a format that isn't stated, which a guest may be able to choose".to_owned(),
        };
        let text =
            format!("'{name}', {format}. All that this image doesn't store is read from it.");
        all.push(Statement::new("backing file", text));
    }
    let description = image.encryption().map(EncryptionFormat::description);
    all.push(Statement::new(
        "encryption",
        description.unwrap_or("None: whoever has the file reads the disk."),
    ));
    all.extend(image.explain());
    Ok(all)
}

/// Returns the node of the backing file of an image. An error in its name is reported with that name.
fn below<'a>(source: &Node<'a>, image: &dyn ImageFile) -> Result<Option<Node<'a>>> {
    source.named_below(image).map_err(|error| {
        let name = image.backing().map_or(&[][..], |backing| backing.name);
        let name = file_name::beside(&source.path, name);
        let name = name.to_string_lossy();
        // The errors of an option tree have the name already.
        if name.starts_with("json:") {
            return error;
        }
        error.context(format!("Could not open '{}'", printable(&name)))
    })
}

/// Reports on an image. `shown` and `prepare` are those of [`chain`].
///
/// # Errors
/// Returns an error if it can't be opened, or if its header is invalid.
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
