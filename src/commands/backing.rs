//! The backing file of a new image.
//!
//! Its name is stored as it was given, and is relative to the new image. The file is opened before the image is
//! created. It must exist and have the given format, and the new image must not replace it. The size of its disk
//! decides where the new image reads as zeroes. The same holds for the whole backing chain: an image over a chain
//! with a missing file or a loop could never be opened.
//!
//! Only headers are read, so no password is asked for. All files stay open as long as the [`Base`] lives, and locked
//! against writers if the purpose says so: a conversion depends on their contents.

use std::path::Path;
use std::sync::Arc;

use super::{Passwords, Purpose};
use crate::error::Result;
use crate::formats::driver::{Backing, BaseFacts, Load};
use crate::formats::{Chain, Format};
use crate::nodes::{NAMED_IMAGES, Names, Node, refuse_loop};
use crate::storage::Storage;

/// An existing backing file, with its own backing chain.
pub(super) struct Base {
    source: Node<'static>,
    /// The image files, top first.
    layers: Vec<Arc<dyn Storage>>,
    /// The other files of these images.
    data: Vec<Arc<dyn Storage>>,
    /// Its format.
    format: Format,
    /// The size of its disk in bytes.
    pub(super) size: u64,
    /// Its content id.
    content_id: Option<u64>,
    /// True if it can be read without a password, and if all names in it may be followed.
    is_readable: bool,
}

impl Base {
    /// Returns all files of the backing chain.
    pub(super) fn files(&self) -> impl Iterator<Item = &dyn Storage> {
        self.layers.iter().chain(&self.data).map(AsRef::as_ref)
    }

    /// Returns the facts about it that some formats store in the overlay.
    pub(super) fn facts(&self) -> BaseFacts {
        BaseFacts {
            format: self.format.name(),
            content_id: self.content_id,
        }
    }

    /// Opens the disk. Returns `None` if reading it needs a password.
    ///
    /// # Errors
    /// Returns the errors of [`Node::open`].
    pub(super) fn open(&self, passwords: &dyn Passwords) -> Result<Option<Arc<Chain>>> {
        if !self.is_readable {
            return Ok(None);
        }
        let opened = self.source.open(Purpose::Read, passwords)?;
        Ok(Some(opened.image))
    }
}

/// Opens the backing file of the new image at `image`, and its backing chain. `names` is the policy for its name, and
/// `below` for the names inside of it. Others may write files that are only probed, so that the disk of a running
/// machine can get an overlay.
///
/// # Errors
/// Returns an error if one of the files can't be opened, doesn't have the given format, or is in the chain twice.
pub(super) fn find(
    image: &Path,
    backing: &Backing,
    names: Names,
    below: Names,
    purpose: Purpose,
) -> Result<Base> {
    let mut source = names.backing_file(image, &backing.name, backing.format.as_deref())?;
    source.policy.names = below;
    let (mut next, top) = open_layer(&source, purpose, &[])?;
    let mut base = Base {
        source,
        layers: Vec::new(),
        data: Vec::new(),
        format: top.format,
        size: top.size,
        content_id: top.content_id,
        is_readable: true,
    };
    base.add(top);
    while let Some(source) = next {
        let depth = base.layers.len();
        let opened = open_layer(&source, purpose, &base.layers);
        let (below, layer) = opened.map_err(|error| {
            // Only the ends of a long chain are named in the message.
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
    data: Vec<Arc<dyn Storage>>,
    format: Format,
    size: u64,
    content_id: Option<u64>,
    is_readable: bool,
}

/// Opens one image of the chain. Returns the node of its backing file, too. `above` are the files of its overlays.
fn open_layer(
    source: &Node<'static>,
    purpose: Purpose,
    above: &[Arc<dyn Storage>],
) -> Result<(Option<Node<'static>>, BaseImage)> {
    let opened = source.open_below(purpose)?;
    refuse_loop(&source.name, opened.file.as_ref(), above)?;
    let mut layer = BaseImage {
        file: Arc::clone(&opened.file),
        data: Vec::new(),
        format: opened.format,
        size: 0,
        content_id: None,
        is_readable: true,
    };
    let image = opened.load(Load::Use)?;
    layer.size = image.size();
    layer.content_id = image.content_id();
    if opened.format.capabilities().transparent {
        return Ok((None, layer));
    }
    // The file that the user named may be opened, but the names inside of it aren't followed.
    if matches!(source.policy.names, Names::Refuse) {
        layer.is_readable = false;
        return Ok((None, layer));
    }
    layer.is_readable = image.encryption().is_none();
    if purpose != Purpose::Probe {
        layer.data = source.other_files(image.as_ref(), purpose)?;
    }
    Ok((source.backing_node(image.as_ref())?, layer))
}

/// Returns the size of the backing file's disk in bytes, and its format.
///
/// # Errors
/// Returns the errors of [`find`].
pub fn size_and_format(
    image: &Path,
    backing: &Backing,
    names: Names,
    below: Names,
) -> Result<(u64, Format)> {
    let base = find(image, backing, names, below, Purpose::Probe)?;
    Ok((base.size, base.format))
}
