//! The plan of a new VMDK image, whose options have been checked.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::descriptor::MOST_EXTENTS;
use super::flat::FlatBlocks;
use super::new_extents::NewExtents;
use super::new_sparse::{self, NewGrains};
use super::new_stream::{self, NewStream};
use super::options::{Subformat, VmdkOptions};
use super::sparse_header::SparseHeader;
use super::text::{self, NamedExtents, ParentLink};
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::units::SECTOR_SIZE;

/// The largest length of an extent of a split image, in bytes.
const PIECE: u64 = 2 << 30;

/// The plan of a new image.
pub(super) struct VmdkPlan {
    options: VmdkOptions,
    size: u64,
    extents: NamedExtents,
    /// The paths of the extents' files, for a separate descriptor.
    files: Vec<PathBuf>,
    /// The headers of the sparse extents.
    headers: Vec<SparseHeader>,
    parent: Option<ParentLink>,
    /// The size of the parent's disk in bytes.
    backing_size: u64,
}

impl VmdkPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if options are invalid or exclude each other, or if the format doesn't support a disk of that
    /// size.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let options = VmdkOptions::of(new.options)?;
        let size = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let size = size.filter(|size| i64::try_from(*size).is_ok());
        let size = size
            .ok_or_else(|| Error::invalid("The image size is too large for file format 'vmdk'"))?;
        let parent = match (&options.backing, new.base) {
            (Some(backing), Some(base)) => {
                let cid = base.content_id.and_then(|id| u32::try_from(id).ok());
                let cid = cid.filter(|_| base.format == "vmdk");
                Some(ParentLink {
                    cid: cid.ok_or_else(|| Error::invalid("backing_file must be a vmdk image"))?,
                    name: backing.name.clone(),
                })
            }
            _ => None,
        };
        let subformat = options.subformat;
        let extents = text::extents(subformat, new.path, size, PIECE, MOST_EXTENTS)?;
        let folder = new.path.parent();
        let path = |name: &[u8]| match folder {
            Some(folder) => folder.join(OsStr::from_bytes(name)),
            None => OsStr::from_bytes(name).into(),
        };
        let files = match subformat.is_embedded() {
            true => Vec::new(),
            false => extents.iter().map(|(_, name)| path(name)).collect(),
        };
        let headers = match subformat {
            Subformat::MonolithicFlat | Subformat::SplitFlat | Subformat::Stream => Vec::new(),
            _ => {
                let sizes = extents.iter().map(|(length, _)| *length);
                let zeroed = options.zeroed_grain;
                let headers = sizes.map(|size| new_sparse::header(size, zeroed));
                headers.collect::<Result<_>>()?
            }
        };
        Ok(Self {
            options,
            size,
            extents,
            files,
            headers,
            parent,
            backing_size: new.backing_size.unwrap_or(0),
        })
    }
}

impl Plan for VmdkPlan {
    fn other_files(&self) -> Vec<&[u8]> {
        let files = self.files.iter();
        files.map(|path| path.as_os_str().as_bytes()).collect()
    }

    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        if self.options.backing.is_some() && self.parent.is_none() {
            return Err(Error::invalid(
                "the id of the backing file's contents is stored, so that it has to be there",
            ));
        }
        let text = text::descriptor(
            &self.options,
            self.size,
            self.parent.as_ref(),
            &self.extents,
        );
        let backing_size = self.parent.as_ref().map(|_| self.backing_size);
        let flush = parts.flush;
        if let (true, Some(header)) = (self.options.subformat.is_embedded(), self.headers.first()) {
            let grains = NewGrains::create(parts.file, *header, text, backing_size)?;
            return Ok(Box::new(grains.new_image(flush)));
        }
        if self.options.subformat == Subformat::Stream {
            let zeroed = self.options.zeroed_grain;
            let header = new_stream::header(self.size, zeroed);
            let stream = NewStream::create(parts.file, header, text, backing_size, flush)?;
            return Ok(Box::new(stream));
        }
        if !parts.file.starts_as_zeroes() {
            return Err(Error::unsupported(
                "the descriptor of an image in several files can't be a device",
            ));
        }
        let mut headers = self.headers.iter();
        let mut extents: Vec<(u64, Box<dyn NewImage>)> = Vec::with_capacity(parts.files.len());
        let mut start = 0;
        for ((length, _), file) in self.extents.iter().zip(&parts.files) {
            let part = backing_size.map(|size| size.saturating_sub(start).min(*length));
            start += length;
            let file = Arc::clone(file);
            let image: Box<dyn NewImage> = match headers.next() {
                Some(header) => {
                    let grains = NewGrains::create(file, *header, Vec::new(), part)?;
                    Box::new(grains.new_image(flush))
                }
                None => Box::new(FlatBlocks::create(file, *length)?.new_image(flush)),
            };
            extents.push((*length, image));
        }
        Ok(Box::new(NewExtents::new(extents, parts.file, text, flush)))
    }
}
