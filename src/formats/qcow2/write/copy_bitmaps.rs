//! More bitmaps in an image that has some or none.
//!
//! Bits and tables go to new clusters, and so does the directory, which replaces the old one. The header's
//! extension for bitmaps changes last; while it changes the autoclear bit is off. So after a power cut the
//! image has all bitmaps, or none that counts.

use std::sync::Arc;

use super::super::bitmaps::{Bitmap, MAX_BITMAP_BYTES, read_bitmaps};
use super::super::entries::BitmapTableEntry;
use super::super::geometry::ENTRY_SIZE;
use super::super::header::{BitmapsPlace, MAX_BITMAPS, extensions, features};
use super::super::header::{Header, TablePlace, Version};
use super::metadata::Metadata;
use super::open::{open_state, refuse_corrupt};
use crate::error::{Error, Result, printable};
use crate::formats::bitmaps::{BitmapBits, PersistentBitmap};
use crate::formats::qcow2::header::fields;
use crate::formats::qcow2::header::room::ExtensionRoom;
use crate::storage::Storage;
use crate::units::HostOffset;

/// Adds bitmaps of another image to the image that `header` was read from, which nobody else may have open.
/// `flush` says that flushes reach the storage.
///
/// # Errors
/// Returns an error if a name is taken, if the version has no bitmaps, or if the header has no room: then
/// nothing was written. Returns an error if metadata of either image is damaged, or the system's error.
pub fn copy_bitmaps(
    storage: &Arc<dyn Storage>,
    header: &Header,
    copied: &[PersistentBitmap],
    flush: bool,
) -> Result<()> {
    if copied.is_empty() {
        return Ok(());
    }
    refuse_corrupt(header)?;
    if header.version() != Version::V3 {
        return Err(Error::unsupported(
            "Cannot store dirty bitmaps in qcow2 v2 files",
        ));
    }
    let mut all = read_bitmaps(storage.as_ref(), header)?;
    let first = all.len();
    for bitmap in copied {
        let bitmap = Bitmap {
            name: bitmap.name.clone(),
            granularity: bitmap.granularity,
            in_use: false,
            auto: bitmap.auto,
            table: TablePlace {
                host: HostOffset(0),
                entries: 0,
            },
            entry: HostOffset(0),
        };
        check(&bitmap, &all, header)?;
        all.push(bitmap);
    }
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    if count > MAX_BITMAPS {
        return Err(Error::invalid(
            "Maximum number of persistent bitmaps is already reached",
        ));
    }
    let kind = extensions::BITMAPS;
    let room = ExtensionRoom::find(storage.as_ref(), header, kind, 24)?;
    let (state, autoclear) = open_state(storage, None, header, flush)?;
    let mut metadata = state.metadata;
    for (bitmap, copied) in all.iter_mut().skip(first).zip(copied) {
        let bits = copied.bits.as_ref();
        bitmap.table = store(storage.as_ref(), header, bitmap, bits, &mut metadata)?;
    }
    let directory: Vec<u8> = all.iter().flat_map(Bitmap::directory_entry).collect();
    let place = BitmapsPlace {
        count,
        directory: metadata.allocate_run(directory.len() as u64)?,
        length: directory.len() as u64,
    };
    // Refcounts are stored before the tables that refer to what they count.
    metadata.commit()?;
    storage.write_at(place.directory.0, &directory)?;
    metadata.flush()?;

    let others = autoclear & !features::BITMAPS;
    if others != autoclear {
        fields::set_autoclear(storage.as_ref(), others)?;
        metadata.flush()?;
    }
    room.fill(storage.as_ref(), kind, &place.bytes(), &|| metadata.flush())?;
    fields::set_autoclear(storage.as_ref(), others | features::BITMAPS)?;
    metadata.flush()?;
    if let Some(old) = header.bitmaps() {
        let geometry = header.geometry();
        let first = geometry.host_cluster(old.directory);
        metadata.free(first..first + geometry.clusters(old.length), false)?;
    }
    metadata.close()
}

fn check(bitmap: &Bitmap, others: &[Bitmap], header: &Header) -> Result<()> {
    let name = String::from_utf8_lossy(&bitmap.name);
    let name = printable(&name);
    if others.iter().any(|other| other.name == bitmap.name) {
        return Err(Error::invalid(format!("Bitmap already exists: {name}")));
    }
    let (_, entries) = lengths(bitmap, header);
    if entries.saturating_mul(header.geometry().cluster_size()) > MAX_BITMAP_BYTES {
        return Err(Error::invalid(format!(
            "bitmap '{name}': Too much space will be occupied by the bitmap. Use larger granularity"
        )));
    }
    Ok(())
}

/// Returns the number of bytes of a bitmap's bits, and the number of its table's entries.
fn lengths(bitmap: &Bitmap, header: &Header) -> (u64, u64) {
    let bytes = header.size().div_ceil(bitmap.granularity).div_ceil(8);
    (bytes, header.geometry().clusters(bytes).max(1))
}

/// Writes a bitmap's bits and its table to new clusters, which nothing leads to yet; returns the table's
/// place.
fn store(
    storage: &dyn Storage,
    header: &Header,
    bitmap: &Bitmap,
    bits: &dyn BitmapBits,
    metadata: &mut Metadata,
) -> Result<TablePlace> {
    let geometry = header.geometry();
    let (bytes, entries) = lengths(bitmap, header);
    let mut table = Vec::new();
    let mut buffer = vec![0; geometry.cluster_len()];
    for index in 0..entries {
        let start = index * geometry.cluster_size();
        let length = bytes.saturating_sub(start).min(geometry.cluster_size());
        let length = usize::try_from(length).unwrap_or(buffer.len());
        let (part, rest) = buffer.split_at_mut(length);
        rest.fill(0);
        let entry = if bits.read(start, part)? {
            let host = metadata.allocate_cluster()?;
            storage.write_at(host.0, &buffer)?;
            BitmapTableEntry::to_cluster(host)
        } else {
            BitmapTableEntry::default()
        };
        table.extend(entry.0.to_be_bytes());
    }
    let place = TablePlace {
        host: metadata.allocate_run(entries * ENTRY_SIZE)?,
        entries,
    };
    storage.write_at(place.host.0, &table)?;
    Ok(place)
}
