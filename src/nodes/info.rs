//! The report on an image and on its storage: the node of its file, raw nodes between, an image that contains it.

use std::sync::Arc;

use super::disk::Loaded;
use super::file_name;
use super::names::Names;
use super::node::Node;
use super::open::{self, inside};
use crate::error::{Error, Result};
use crate::formats::info::{ChildInfo, ImageInfo, Specific};
use crate::formats::{Format, ImageFile};
use crate::storage::{Protocol, Purpose, Storage};
use crate::units::SECTOR_SIZE;

/// An image whose file is open and whose header has been read. That is done before the process drops privileges,
/// since the header names the other files to open.
pub struct Inspected {
    /// The image that contains this one, inspected as well.
    outer: Option<Box<Self>>,
    /// Its file, and its format.
    pub opened: Loaded,
    /// Its header.
    pub image: Box<dyn ImageFile>,
    /// The other files whose headers were read.
    others: Vec<Arc<dyn Storage>>,
}

impl Inspected {
    /// Opens the file, and reads its header. Other files are opened only if they have headers too, and if names are
    /// followed.
    ///
    /// # Errors
    /// Returns an error, as `Could not open 'name': …`, if it can't be opened or its header is invalid.
    pub fn open(source: &Node<'_>) -> Result<Self> {
        let outer = source.inside.as_deref().map(|outer| {
            // Messages name the outer image by the name of the inner one.
            let outer = Node {
                name: String::new(),
                ..outer.clone()
            };
            Self::open(&outer).map_err(could_not_open(source))
        });
        let outer = outer.transpose()?;
        let (opened, mut image) = source.open_header(Purpose::Inspect)?;
        // Options, and not an image, named the file of a separate header.
        let may_open = opened.is_headless || matches!(source.policy.names, Names::Follow(_));
        let others = match may_open && image.has_headers_elsewhere() {
            true => {
                let others = source.attach(image.as_mut(), Purpose::Inspect);
                others.map_err(could_not_open(source))?
            }
            false => Vec::new(),
        };
        Ok(Self {
            outer: outer.map(Box::new),
            opened,
            image,
            others,
        })
    }

    /// Returns true if the image has internal snapshots.
    pub fn has_snapshots(&self) -> bool {
        let snapshots = self.image.snapshots();
        snapshots.is_some_and(|snapshots| snapshots.count() > 0)
    }

    /// Reports the contents of the image's header, and the files that it is in.
    ///
    /// # Errors
    /// Returns an error if tables that the report lists can't be read, or the system's error.
    pub fn describe(&self, source: &Node<'_>) -> Result<ImageInfo> {
        let outer = match (&self.outer, &source.inside) {
            (Some(found), Some(outer)) => Some(found.describe(outer)?),
            _ => None,
        };
        let cluster_size = outer.as_ref().and_then(|outer| outer.cluster_size);
        let mut info = describe_file(&self.opened, source, outer)?;
        if source.is_bare {
            return Ok(info);
        }
        self.add_others(&mut info)?;
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
        let image = self.image.as_ref();
        let described = image
            .refuse_truncated()
            .and_then(|()| image.describe(&mut info));
        described.map_err(could_not_open(source))?;
        Ok(info)
    }
}

impl Inspected {
    /// Adds the other files to a report, the last one first.
    fn add_others(&self, info: &mut ImageInfo) -> Result<()> {
        if self.others.is_empty() {
            return Ok(());
        }
        let roles = self.image.other_files()?;
        for (file, role) in self.others.iter().zip(&roles) {
            let name = file.location().to_string_lossy().into_owned();
            let length = file.len()?.next_multiple_of(SECTOR_SIZE);
            let size = file.allocated()?;
            info.actual_size = info.actual_size.zip(size).map(|(all, size)| all + size);
            let mut below = ImageInfo::new(name, file.driver(), length, size);
            let specific = Protocol::from_name(file.driver()).and_then(|found| found.specific());
            below.format_specific = specific.map(Specific::nothing);
            let child = ChildInfo {
                name: role.role.clone().into_owned().into(),
                info: below,
            };
            info.children.insert(0, child);
        }
        Ok(())
    }
}

fn could_not_open(source: &Node<'_>) -> impl Fn(Error) -> Error {
    move |error| open::could_not_open(&source.name, error)
}

/// Reports the properties that any image has. `outer` is the report on the image that contains it.
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
