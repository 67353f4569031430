//! `info`: what an image's header says.
//!
//! Only the file that the user named is opened: names found inside it (backing file, data file) are
//! shown, and not followed unless the whole chain is asked for. No password is needed, and nothing
//! but the header and the lists of snapshots and bitmaps is read, so that it is cheap for any image.
//! The report has the field names of QEMU's `ImageInfo`, which scripts know.

use std::sync::Arc;

use serde::Serialize;

use super::opened::Opened;
use super::source::{infinite_loop, inside};
use super::{Purpose, Source, names};
use crate::error::{Error, Result, printable};
use crate::formats::Format;
use crate::formats::qcow2::bitmaps::{Bitmap, read_bitmaps};
use crate::formats::qcow2::snapshots::{Snapshot, read_snapshots};
use crate::formats::qcow2::{self, EncryptionMethod, Version, extensions, features, until_zero};
use crate::storage::{FileStorage, Storage};
use crate::units::SECTOR_SIZE;

/// An image, or the file that holds one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// What the image is made of: its file.
    pub children: Vec<Child>,
    /// Its internal snapshots; absent without any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
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
            snapshots: Vec::new(),
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

    /// The same, made of `below`.
    fn over(mut self, below: Self) -> Self {
        self.children.push(Child {
            name: "file",
            info: below,
        });
        self
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

/// An internal snapshot. Sizes and counts are signed numbers in QEMU's reports.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The size of the machine's saved state in bytes.
    pub vm_state_size: i64,
    /// When it was taken, in seconds since 1970 (UTC).
    pub date_sec: u32,
    /// The part of a second in nanoseconds.
    pub date_nsec: u32,
    /// How long the machine had been running, in seconds.
    pub vm_clock_sec: u64,
    /// The part of a second in nanoseconds.
    pub vm_clock_nsec: u64,
    /// How many instructions the machine had executed, where that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<i64>,
}

impl From<&Snapshot> for SnapshotInfo {
    fn from(snapshot: &Snapshot) -> Self {
        const SECOND: u64 = 1_000_000_000;
        // QEMU's reports have room for so much of a number and a name.
        let text = |bytes: &[u8], most: usize| {
            String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes)).into_owned()
        };
        Self {
            id: text(&snapshot.id, 127),
            name: text(&snapshot.name, 255),
            vm_state_size: snapshot.vm_state_size.cast_signed(),
            date_sec: snapshot.date_sec,
            date_nsec: snapshot.date_nsec,
            vm_clock_sec: snapshot.vm_clock_nsec / SECOND,
            vm_clock_nsec: snapshot.vm_clock_nsec % SECOND,
            icount: snapshot.icount.map(u64::cast_signed),
        }
    }
}

/// A persistent bitmap.
#[derive(Debug, Serialize)]
pub struct BitmapInfo {
    /// What is special about it: `in-use`, `auto`.
    pub flags: Vec<&'static str>,
    /// Its name.
    pub name: String,
    /// How many bytes of the disk one bit stands for.
    pub granularity: u64,
}

impl From<&Bitmap> for BitmapInfo {
    fn from(bitmap: &Bitmap) -> Self {
        let flags = [(bitmap.in_use, "in-use"), (bitmap.auto, "auto")];
        Self {
            flags: flags
                .into_iter()
                .filter_map(|(set, flag)| set.then_some(flag))
                .collect(),
            name: String::from_utf8_lossy(&bitmap.name).into_owned(),
            granularity: bitmap.granularity,
        }
    }
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
    /// The persistent bitmaps; absent without any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<BitmapInfo>,
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
/// `prepare` is called when there are snapshots, while files can still be opened: whoever shows their
/// dates needs the time zone.
///
/// # Errors
/// One of them can't be opened, or its header is invalid; a chain that leads back into itself.
pub fn chain(source: &Source<'_>, shown: String, prepare: &dyn Fn()) -> Result<Vec<ImageInfo>> {
    let mut images = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some(source.clone());
    while let Some(image) = next {
        let found = Found::open(&image)?;
        let identity = found.opened.file.identity()?;
        if seen.contains(&identity) {
            return Err(infinite_loop(&image.name));
        }
        seen.push(identity);
        next = match &found.header {
            Some(header) => below(&image, header)?,
            None => None,
        };
        images.push((image, found));
    }
    if images.iter().any(|(_, found)| found.has_snapshots()) {
        prepare();
    }
    source.all_is_open();
    let infos = images.iter().map(|(image, found)| found.describe(image));
    let mut infos: Vec<ImageInfo> = infos.collect::<Result<_>>()?;
    if let Some(first) = infos.first_mut() {
        first.filename = shown;
    }
    Ok(infos)
}

/// The image below another. What is wrong with its name is said of that name.
fn below<'a>(image: &Source<'a>, header: &qcow2::Header) -> Result<Option<Source<'a>>> {
    image.named_below(header).map_err(|error| {
        let name = names::beside(&image.path, header.backing_file().unwrap_or_default());
        let name = name.to_string_lossy();
        // Of a tree of options that is said already.
        if name.starts_with("json:") {
            return error;
        }
        error.context(format!("Could not open '{}'", printable(&name)))
    })
}

/// Looks at an image; `prepare` is called as by [`chain`].
///
/// # Errors
/// It can't be opened, or its header is invalid.
pub fn run(source: &Source<'_>, prepare: &dyn Fn()) -> Result<ImageInfo> {
    let found = Found::open(source)?;
    if found.has_snapshots() {
        prepare();
    }
    source.all_is_open();
    found.describe(source)
}

/// An image that is open, and its header: that much is read before privileges are given up, since it
/// says what else is to be opened.
struct Found {
    opened: Opened,
    header: Option<qcow2::Header>,
}

impl Found {
    fn open(source: &Source<'_>) -> Result<Self> {
        let opened = source.open_file(Purpose::Inspect)?;
        let header = opened.header().map_err(could_not_open(source))?;
        if let Some(header) = &header {
            source
                .check_header(header)
                .map_err(could_not_open(source))?;
            source.warn_of(header);
        }
        Ok(Self { opened, header })
    }

    fn has_snapshots(&self) -> bool {
        let header = self.header.as_ref();
        header.is_some_and(|header| header.snapshots() > 0)
    }

    fn describe(&self, source: &Source<'_>) -> Result<ImageInfo> {
        let mut info = describe_file(&self.opened, source)?;
        if let Some(header) = &self.header {
            describe_qcow2(header, source, &mut info);
            list_snapshots_and_bitmaps(self.opened.storage.as_ref(), header, &mut info)
                .map_err(could_not_open(source))?;
        }
        Ok(info)
    }
}

fn could_not_open(source: &Source<'_>) -> impl Fn(Error) -> Error {
    move |error| error.context(format!("Could not open '{}'", source.name))
}

/// What there is to say of any image.
fn describe_file(opened: &Opened, source: &Source<'_>) -> Result<ImageInfo> {
    let file = opened.file.as_ref();
    let length = file.len()?.next_multiple_of(SECTOR_SIZE);
    let actual_size = file.allocated()?;
    let protocol = if file.is_device() {
        "host_device"
    } else {
        "file"
    };
    let path = source.path.to_string_lossy().into_owned();
    let mut below = ImageInfo::new(path, protocol, length, actual_size);
    below.format_specific = Some(FormatSpecific::File {});
    if source.is_bare {
        return Ok(below);
    }
    let mut storage: Arc<dyn Storage> = Arc::<FileStorage>::clone(&opened.file);
    for node in &source.between {
        storage = inside(storage, node.window.as_slice())?;
        let length = storage.len()?.next_multiple_of(SECTOR_SIZE);
        let raw = ImageInfo::new(node.name.clone(), Format::Raw.name(), length, actual_size);
        below = raw.over(below);
    }
    let name = source.name.clone();
    let length = opened.storage.len()?.next_multiple_of(SECTOR_SIZE);
    let info = ImageInfo::new(name, opened.format.name(), length, actual_size);
    Ok(info.over(below))
}

/// Adds what isn't in the header but in tables that it leads to.
fn list_snapshots_and_bitmaps(
    file: &dyn Storage,
    header: &qcow2::Header,
    info: &mut ImageInfo,
) -> Result<()> {
    let snapshots = read_snapshots(file, header)?;
    info.snapshots = snapshots.iter().map(SnapshotInfo::from).collect();
    if let Some(FormatSpecific::Qcow2(specific)) = &mut info.format_specific {
        let bitmaps = read_bitmaps(file, header)?;
        specific.bitmaps = bitmaps.iter().map(BitmapInfo::from).collect();
    }
    Ok(())
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
    let format = header.extension(extensions::BACKING_FORMAT);
    info.backing_filename_format = format.map(until_zero).map(text);
    info.full_backing_filename = header.backing_file().map(|name| {
        let full = names::beside(&source.path, name);
        full.to_string_lossy().into_owned()
    });
    info.format_specific = Some(FormatSpecific::Qcow2(Qcow2Info {
        compat: header.version().compat(),
        compression_type: header.compression().name(),
        lazy_refcounts: v3.then(|| header.has_compatible(features::LAZY_REFCOUNTS)),
        bitmaps: Vec::new(),
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
            .map(until_zero)
            .map(text),
        data_file_raw: (v3 && data_file).then(|| header.has_autoclear(features::DATA_FILE_RAW)),
        corrupt: v3.then(|| header.has_incompatible(features::CORRUPT)),
        extended_l2: v3.then(|| header.has_incompatible(features::EXTENDED_L2)),
    }));
}
