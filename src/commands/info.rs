//! `info`: what an image's header says.
//!
//! Only the file that the user named is opened: names found inside it (backing file, data file) are
//! shown, and not followed unless the whole chain is asked for. No password is needed, and nothing but the header is read, so that it is
//! cheap for any image. The report has the field names of QEMU's `ImageInfo`, which scripts know.

use serde::Serialize;

use super::source::{Opened, infinite_loop};
use super::{Source, names};
use crate::error::Result;
use crate::formats::qcow2::{self, EncryptionMethod, Version, extensions, features};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// An image, or the file that holds one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// What the image is made of: its file.
    pub children: Vec<Child>,
    /// The size of the virtual disk in bytes (of a file: its length in whole sectors).
    pub virtual_size: u64,
    /// How the user named it.
    pub filename: String,
    /// The cluster size in bytes, for formats that have clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The format's name, or the protocol's.
    pub format: &'static str,
    /// How many bytes it takes on its medium, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// The backing file's name as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing file's name as seen from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file's format as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// `true` when the data is encrypted, else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Whether the image was not closed properly.
    pub dirty_flag: bool,
}

impl ImageInfo {
    /// What there is to say of anything; the rest is left out until it is filled in.
    fn new(filename: String, format: &'static str, size: u64, actual_size: Option<u64>) -> Self {
        Self {
            children: Vec::new(),
            virtual_size: size,
            filename,
            cluster_size: None,
            format,
            actual_size,
            format_specific: None,
            backing_filename: None,
            full_backing_filename: None,
            backing_filename_format: None,
            encrypted: None,
            dirty_flag: false,
        }
    }
}

/// A node below an image.
#[derive(Debug, Serialize)]
pub struct Child {
    /// Its role.
    pub name: &'static str,
    /// What it is.
    pub info: ImageInfo,
}

/// What only one format has.
#[derive(Debug, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum FormatSpecific {
    /// A plain file: nothing.
    File {},
    /// A qcow2 image.
    Qcow2(Qcow2Info),
}

/// What only qcow2 images have. Version 2 has no features and leaves those out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2Info {
    /// The oldest QEMU that reads the image.
    pub compat: &'static str,
    /// How compressed clusters are compressed.
    pub compression_type: &'static str,
    /// Whether refcounts may be updated late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// The width of a refcount.
    pub refcount_bits: u32,
    /// How the data is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<EncryptInfo>,
    /// The name of the external data file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether the external data file can be read as a raw image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether the metadata is known to be damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether L2 entries have subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
}

/// How an image is encrypted.
#[derive(Debug, Serialize)]
pub struct EncryptInfo {
    /// The method's name.
    pub format: &'static str,
}

/// Looks at an image and at those below it, top first; `shown` is what the report calls the first.
///
/// # Errors
/// One of them can't be opened, or its header is invalid; a chain that leads back into itself.
pub fn chain(source: &Source<'_>, shown: String) -> Result<Vec<ImageInfo>> {
    let mut infos = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some((source.clone(), shown));
    while let Some((source, shown)) = next {
        let (mut info, opened) = look(&source)?;
        let identity = opened.file.identity()?;
        if seen.contains(&identity) {
            return Err(infinite_loop(&source.name));
        }
        seen.push(identity);
        info.filename = shown;
        infos.push(info);
        let header = opened.header()?;
        let below = header.map(|header| source.backing(&header)).transpose()?;
        next = below.flatten().map(|below| (below.clone(), below.name));
    }
    Ok(infos)
}

/// Looks at an image.
///
/// # Errors
/// It can't be opened, or its header is invalid.
pub fn run(source: &Source<'_>) -> Result<ImageInfo> {
    look(source).map(|(info, _)| info)
}

fn look(source: &Source<'_>) -> Result<(ImageInfo, Opened)> {
    let opened = source.open_file()?;
    let file = opened.file.as_ref();
    let length = file.len()?.next_multiple_of(SECTOR_SIZE);
    let actual_size = file.allocated()?;
    let protocol = if file.is_device() {
        "host_device"
    } else {
        "file"
    };
    let path = source.path.to_string_lossy().into_owned();
    let mut child = ImageInfo::new(path, protocol, length, actual_size);
    child.format_specific = Some(FormatSpecific::File {});
    let name = source.name.clone();
    let mut info = ImageInfo::new(name, opened.format.name(), length, actual_size);
    info.children.push(Child {
        name: "file",
        info: child,
    });
    let header = opened
        .header()
        .map_err(|error| error.context(format!("Could not open '{}'", source.name)))?;
    if let Some(header) = header {
        describe_qcow2(&header, source, &mut info);
    }
    Ok((info, opened))
}

fn describe_qcow2(header: &qcow2::Header, source: &Source<'_>, info: &mut ImageInfo) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let v3 = header.version() == Version::V3;
    let data_file = header.has_incompatible(features::DATA_FILE);
    info.virtual_size = header.size();
    info.cluster_size = Some(header.geometry().cluster_size());
    info.dirty_flag = header.has_incompatible(features::DIRTY);
    info.encrypted = (header.encryption() != EncryptionMethod::None).then_some(true);
    info.backing_filename = header.backing_file().map(text);
    info.backing_filename_format = header.extension(extensions::BACKING_FORMAT).map(text);
    info.full_backing_filename = header.backing_file().map(|name| {
        let full = names::beside(&source.path, name);
        full.to_string_lossy().into_owned()
    });
    info.format_specific = Some(FormatSpecific::Qcow2(Qcow2Info {
        compat: header.version().compat(),
        compression_type: header.compression().name(),
        lazy_refcounts: v3.then(|| header.has_compatible(features::LAZY_REFCOUNTS)),
        refcount_bits: header.geometry().refcount_bits(),
        encrypt: match header.encryption() {
            EncryptionMethod::None => None,
            method => Some(EncryptInfo {
                format: method.name(),
            }),
        },
        data_file: header
            .extension(extensions::DATA_FILE)
            .filter(|_| data_file)
            .map(text),
        data_file_raw: (v3 && data_file).then(|| header.has_autoclear(features::DATA_FILE_RAW)),
        corrupt: v3.then(|| header.has_incompatible(features::CORRUPT)),
        extended_l2: v3.then(|| header.has_incompatible(features::EXTENDED_L2)),
    }));
}
