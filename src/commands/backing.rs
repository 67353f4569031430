//! The backing file that a new image is to have.
//!
//! Its name is stored as it was given, and is relative to the new image. It is looked at before the
//! image is made: it must be there and of the format that was stated, the image must not replace it,
//! and how big its disk is says where the new image reads as zeroes by itself. The same holds for what
//! it is itself over: an image above a chain that ends nowhere, or in itself, could never be opened.
//!
//! Only headers are read for that, so nobody is asked for a key. All files stay open, and closed to
//! writers where that was asked for, as long as the [`Base`] lives: what is converted over them relies on
//! what they hold now.

use std::path::Path;
use std::sync::Arc;

use super::{Passwords, Purpose};
use crate::error::Result;
use crate::formats::driver::{Backing, Load};
use crate::formats::{Chain, Format};
use crate::nodes::{NAMED_IMAGES, Names, Node, refuse_loop};
use crate::storage::Storage;

/// A backing file that is there, with all that is below it.
pub(super) struct Base {
    source: Node<'static>,
    /// The image files, top first.
    layers: Vec<Arc<dyn Storage>>,
    /// The external data files.
    data: Vec<Arc<dyn Storage>>,
    /// Its format.
    format: Format,
    /// The size of its disk in bytes.
    pub(super) size: u64,
    /// It can be read without a key, and all of it may be.
    is_readable: bool,
}

impl Base {
    /// Every file of it.
    pub(super) fn files(&self) -> impl Iterator<Item = &dyn Storage> {
        self.layers.iter().chain(&self.data).map(AsRef::as_ref)
    }

    /// The disk, where reading it takes no key.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub(super) fn open(&self, passwords: &dyn Passwords) -> Result<Option<Arc<Chain>>> {
        if !self.is_readable {
            return Ok(None);
        }
        let opened = self.source.open(Purpose::Read, passwords)?;
        Ok(Some(opened.image))
    }
}

/// Looks at the backing file that the new image at `image` is to have, whose name is read by `names`, and
/// at what is below it, as far as `below` lets names be followed. Others may write them when they are only
/// probed: that is how a running machine's disk gets an overlay.
///
/// # Errors
/// One can't be opened, isn't of the format that was stated, or is there twice.
pub(super) fn find(
    image: &Path,
    backing: &Backing,
    names: Names,
    below: Names,
    purpose: Purpose,
) -> Result<Base> {
    let mut source = names.backing_file(image, &backing.name, backing.format.as_deref())?;
    source.names = below;
    let (mut next, top) = open_layer(&source, purpose, &[])?;
    let mut base = Base {
        source,
        layers: Vec::new(),
        data: Vec::new(),
        format: top.format,
        size: top.size,
        is_readable: true,
    };
    base.add(top);
    while let Some(source) = next {
        let depth = base.layers.len();
        let opened = open_layer(&source, purpose, &base.layers);
        let (below, layer) = opened.map_err(|error| {
            // Of a long chain some of it says enough.
            (0..depth.min(2 * NAMED_IMAGES)).fold(error, |error, _| {
                error.context("Could not open backing file")
            })
        })?;
        base.add(layer);
        next = below;
    }
    Ok(base)
}

impl Base {
    fn add(&mut self, layer: BaseImage) {
        self.is_readable &= layer.is_readable;
        self.layers.push(layer.file);
        self.data.extend(layer.data);
    }
}

/// An image of the chain.
struct BaseImage {
    file: Arc<dyn Storage>,
    data: Option<Arc<dyn Storage>>,
    format: Format,
    size: u64,
    is_readable: bool,
}

/// Opens one image of the chain; gives what is below it too. `above` are the files that led to it.
fn open_layer(
    source: &Node<'static>,
    purpose: Purpose,
    above: &[Arc<dyn Storage>],
) -> Result<(Option<Node<'static>>, BaseImage)> {
    let opened = source.open_below(purpose)?;
    refuse_loop(&source.name, opened.file.as_ref(), above)?;
    let mut layer = BaseImage {
        file: Arc::clone(&opened.file),
        data: None,
        format: opened.format,
        size: 0,
        is_readable: true,
    };
    let image = opened.load(Load::Use)?;
    layer.size = image.size();
    if opened.format.capabilities().transparent {
        return Ok((None, layer));
    }
    // What the user named may be used; what that names in turn is left alone.
    if matches!(source.names, Names::Refuse) {
        layer.is_readable = false;
        return Ok((None, layer));
    }
    layer.is_readable = image.encryption().is_none();
    if purpose != Purpose::Probe {
        layer.data = source.data_file(image.as_ref(), purpose)?;
    }
    Ok((source.below(image.as_ref())?, layer))
}

/// The size of the backing file's disk in bytes, and its format; as [`find`].
///
/// # Errors
/// Returns an error as [`find`] does.
pub fn size_and_format(
    image: &Path,
    backing: &Backing,
    names: Names,
    below: Names,
) -> Result<(u64, Format)> {
    let base = find(image, backing, names, below, Purpose::Probe)?;
    Ok((base.size, base.format))
}
