//! `info`: what an image's header says.
//!
//! Only the file that the user named is opened: names found inside it (backing file, data file) are
//! shown, and not followed unless the whole chain is asked for. No password is needed, and nothing
//! but the header and the lists of snapshots and bitmaps is read, so that it is cheap for any image.
//! The report has the field names of QEMU's `ImageInfo`, which scripts know.

use std::sync::Arc;

use super::{Purpose, sandbox};
use crate::error::{Error, Result, printable};
use crate::formats::driver::Load;
use crate::formats::info::{ImageInfo, Specific};
use crate::formats::{Format, ImageFile};
use crate::nodes::{self, Loaded, Node, file_name, infinite_loop, inside};
use crate::storage::{Identity, Protocol, Storage};
use crate::units::SECTOR_SIZE;

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
        let found = Found::open(&image)?;
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
    let found = Found::open(source)?;
    if found.has_snapshots() {
        prepare();
    }
    sandbox::all_is_open(source);
    let mut info = found.describe(source)?;
    info.filename = source.shown_as(found.opened.format)?.unwrap_or(shown);
    Ok(info)
}

/// An image that is open, and its header: that much is read before privileges are given up, since it
/// says what else is to be opened.
struct Found {
    /// The same of the image that holds this one.
    outer: Option<Box<Self>>,
    opened: Loaded,
    image: Box<dyn ImageFile>,
}

impl Found {
    fn open(source: &Node<'_>) -> Result<Self> {
        let outer = source.inside.as_deref().map(|outer| {
            // It is told of by the name of what is inside.
            let outer = Node {
                name: String::new(),
                ..outer.clone()
            };
            Self::open(&outer).map_err(could_not_open(source))
        });
        let outer = outer.transpose()?;
        let opened = source.open_file(Purpose::Inspect)?;
        let image = opened.load(Load::Use).map_err(could_not_open(source))?;
        source
            .accept(image.as_ref(), &opened.options)
            .map_err(could_not_open(source))?;
        Ok(Self {
            outer: outer.map(Box::new),
            opened,
            image,
        })
    }

    fn has_snapshots(&self) -> bool {
        let snapshots = self.image.snapshots();
        snapshots.is_some_and(|snapshots| snapshots.count() > 0)
    }

    fn describe(&self, source: &Node<'_>) -> Result<ImageInfo> {
        let outer = match (&self.outer, &source.inside) {
            (Some(found), Some(outer)) => Some(found.describe(outer)?),
            _ => None,
        };
        let cluster_size = outer.as_ref().and_then(|outer| outer.cluster_size);
        let mut info = describe_file(&self.opened, source, outer)?;
        if source.is_bare {
            return Ok(info);
        }
        info.virtual_size = self.image.size();
        if self.opened.format.capabilities().transparent {
            info.cluster_size = cluster_size;
        }
        info.encrypted = self.image.encryption().map(|_| true);
        if let Some(backing) = self.image.backing() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            info.backing_filename = Some(text(backing.name));
            info.backing_filename_format = backing.format.map(text);
            let full = file_name::beside(&source.path, backing.name);
            info.full_backing_filename = Some(full.to_string_lossy().into_owned());
        }
        self.image
            .describe(&mut info)
            .map_err(could_not_open(source))?;
        Ok(info)
    }
}

fn could_not_open(source: &Node<'_>) -> impl Fn(Error) -> Error {
    move |error| nodes::could_not_open(&source.name, error)
}

/// The report of what is known of any image. `outer` is that of the image which holds it.
fn describe_file(
    opened: &Loaded,
    source: &Node<'_>,
    outer: Option<ImageInfo>,
) -> Result<ImageInfo> {
    let file = opened.file.as_ref();
    let length = file.len()?.next_multiple_of(SECTOR_SIZE);
    let actual_size = file.allocated()?;
    let mut below = match outer {
        Some(outer) => outer,
        None => {
            let path = source.path.to_string_lossy().into_owned();
            let mut below = ImageInfo::new(path, file.driver(), length, actual_size);
            let protocol = Protocol::from_name(file.driver());
            let specific = protocol.and_then(|protocol| protocol.specific());
            below.format_specific = specific.map(Specific::nothing);
            below.dirty_flag = specific.map(|_| false);
            below
        }
    };
    let dirty_flag = below.dirty_flag;
    if source.is_bare {
        return Ok(below);
    }
    let mut storage: Arc<dyn Storage> = Arc::clone(&opened.file);
    for node in &source.between {
        storage = inside(storage, node.window.as_slice())?;
        let length = storage.len()?.next_multiple_of(SECTOR_SIZE);
        let mut raw = ImageInfo::new(node.name.clone(), Format::RAW.name(), length, actual_size);
        raw.dirty_flag = dirty_flag;
        raw.cluster_size = below.cluster_size;
        below = raw.over(below);
    }
    let name = source.name.clone();
    let length = opened.storage.len()?.next_multiple_of(SECTOR_SIZE);
    let mut info = ImageInfo::new(name, opened.format.name(), length, actual_size);
    info.dirty_flag = dirty_flag;
    Ok(info.over(below))
}
