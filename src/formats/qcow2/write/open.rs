//! The checks and repairs before an image may be written to.
//!
//! A damaged image is refused before anything is written. Damage is a corrupt bit, a table beyond the end of the
//! file, an invalid entry in the L1 or refcount table, or overlapping structures. The refcounts of an image that
//! wasn't closed are repaired. Then the autoclear bits that this version doesn't maintain are cleared. A raw external
//! data file is kept raw, and bitmaps are updated, so their bits stay.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, RwLock};

use super::super::entries::{L1Entry, L1Target};
use super::super::geometry::{ENTRY_SIZE, Geometry};
use super::super::header::{Header, TablePlace, Version};
use super::super::snapshots::SnapshotTable;
use super::super::{check, missing_secret, repaired_header};
use super::bitmaps::EnabledBitmaps;
use super::metadata::{Metadata, MetadataParts};
use super::metadata_map::{MetadataMap, Structure};
use super::refcounts::Refcounts;
use super::{LockedState, WritableQcow2};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::Image;
use crate::formats::encryption::Cipher;
use crate::formats::qcow2::header::features;
use crate::formats::qcow2::header::fields;
use crate::formats::qcow2::read::cluster::ClusterReader;
use crate::formats::qcow2::read::tables::read_table;
use crate::storage::Storage;
use crate::units::HostOffset;

/// The inputs with which an image is opened for writing.
pub struct Qcow2WriteParts {
    /// The cipher of its data, if and only if the image is encrypted.
    pub cipher: Option<Cipher>,
    /// The external data file, if and only if the image has one.
    pub data: Option<Arc<dyn Storage>>,
    /// The disk of its backing file, if and only if the image has one.
    pub backing: Option<Arc<dyn Image>>,
    /// True if flushes reach stable storage. Otherwise a power cut may leave the image damaged.
    pub flush: bool,
}

impl Default for Qcow2WriteParts {
    fn default() -> Self {
        Self {
            cipher: None,
            data: None,
            backing: None,
            flush: true,
        }
    }
}

impl WritableQcow2 {
    /// Opens the image with this header for writing.
    ///
    /// # Errors
    /// Returns an error if the image is damaged or marked as corrupt, or if it has features that this version can't
    /// write. Returns an error if the options don't match the image, or the system's error.
    pub fn open(
        storage: Arc<dyn Storage>,
        header: &Header,
        options: Qcow2WriteParts,
    ) -> Result<Self> {
        let Qcow2WriteParts {
            cipher,
            data,
            backing,
            flush,
        } = options;
        refuse_corrupt(header)?;
        if cipher.is_some() != header.encryption().is_some() {
            return Err(missing_secret());
        }
        if data.is_some() != header.has_incompatible(features::DATA_FILE) {
            return Err(Error::invalid(
                "an image is written together with its external data file",
            ));
        }
        if backing.is_some() != header.backing_file().is_some() {
            return Err(Error::invalid(
                "an image is written together with its backing file",
            ));
        }
        let header = &*repaired_header(storage.as_ref(), header)?;
        let (state, kept) = open_state(&storage, data.clone(), header, flush)?;
        let data = data.unwrap_or(storage);
        let length = data.len()?;
        Ok(Self {
            clusters: ClusterReader::new(data, header, cipher),
            is_external: header.has_incompatible(features::DATA_FILE),
            is_raw: kept & features::DATA_FILE_RAW != 0,
            geometry: header.geometry(),
            size: header.size(),
            zero_flag: header.version() == Version::V3,
            backing,
            length: AtomicU64::new(length),
            gate: RwLock::new(()),
            state: Mutex::new(state),
            idle: Condvar::new(),
        })
    }
}

/// Reads the metadata of an image that may be written to, and clears the autoclear bits that this version doesn't
/// maintain. Also returns the other bits.
///
/// # Errors
/// Returns the system's error. Returns an error if a table or another structure is invalid, beyond the end of the
/// file, or overlaps with another one.
pub(super) fn open_state(
    storage: &Arc<dyn Storage>,
    data: Option<Arc<dyn Storage>>,
    header: &Header,
    flush: bool,
) -> Result<(LockedState, u64)> {
    let geometry = header.geometry();
    let length = storage.len()?;
    let mut map = MetadataMap::default();
    let l1 = map_tables(storage.as_ref(), header, &mut map, length)?;
    let refcounts = Refcounts::open(Arc::clone(storage), header, &mut map)?;
    map_snapshots(storage.as_ref(), header, &mut map)?;
    if let Some(luks) = header.luks() {
        map_bytes(
            &mut map,
            geometry,
            luks.host,
            luks.length,
            Structure::LuksHeader,
        )?;
    }
    let bitmaps = EnabledBitmaps::open(Arc::clone(storage), header, &mut map)?;
    let known = |is_known: bool, bit| if is_known { bit } else { 0 };
    let kept = header.autoclear()
        & (known(
            header.has_incompatible(features::DATA_FILE),
            features::DATA_FILE_RAW,
        ) | known(header.bitmaps().is_some(), features::BITMAPS));
    if header.autoclear() != kept {
        fields::set_autoclear(storage.as_ref(), kept)?;
        storage.flush_if(flush)?;
    }
    let parts = MetadataParts {
        storage: Arc::clone(storage),
        data,
        geometry,
        version: header.version(),
        incompatible: header.incompatible(),
        lazy: header.has_compatible(features::LAZY_REFCOUNTS),
        flush,
        l1,
        l1_place: header.l1(),
        refcounts,
        map,
    };
    let state = LockedState {
        metadata: Metadata::new(parts),
        bitmaps,
        busy: Vec::new(),
    };
    Ok((state, kept))
}

/// Refuses an image that is marked as corrupt.
///
/// # Errors
/// Returns an error if it is.
pub fn refuse_corrupt(header: &Header) -> Result<()> {
    if header.has_incompatible(features::CORRUPT) {
        return Err(Error::corrupt(
            "qcow2: Image is corrupt; cannot be opened read/write",
        ));
    }
    Ok(())
}

/// Refuses an image with damaged metadata. Leaks are accepted, since they do no harm.
///
/// # Errors
/// Returns an error if it is, or if it can't be read.
pub fn refuse_damaged(storage: &dyn Storage, header: &Header) -> Result<()> {
    match check(storage, header, &mut |_| {}) {
        Ok(report) if report.corruptions > 0 => Err(Error::corrupt(format!(
            "the image is damaged in {} places; repair it first (check -r all)",
            report.corruptions
        ))),
        Err(error) if error.kind() != ErrorKind::Unsupported => Err(error),
        // An image that can't be checked can still be written to, since every write is checked against the map of
        // metadata.
        _ => Ok(()),
    }
}

/// Reads the L1 table, and adds the header, the L1 table and the L2 tables to `map`.
fn map_tables(
    storage: &dyn Storage,
    header: &Header,
    map: &mut MetadataMap,
    length: u64,
) -> Result<Vec<L1Entry>> {
    let geometry = header.geometry();
    map.insert(0..1, Structure::Header)?;
    map_table(map, geometry, header.l1(), Structure::ActiveL1)?;
    let l1 = read_table(storage, header.l1(), "the L1 table")?;
    let l1: Vec<L1Entry> = l1.into_iter().map(L1Entry).collect();
    for (index, entry) in l1.iter().enumerate() {
        let invalid = |why: &dyn std::fmt::Display| {
            Error::corrupt(format!("L1 entry {index} is invalid: {why}"))
        };
        match entry.target(geometry) {
            Ok(L1Target::Unallocated) => {}
            Ok(L1Target::Table { host, .. }) => {
                if host.0.saturating_add(geometry.cluster_size()) > length {
                    let why = format!("its L2 table at {host} is beyond the end of the file");
                    return Err(invalid(&why));
                }
                let cluster = geometry.host_cluster(host);
                map.insert(cluster..cluster + 1, Structure::ActiveL2)?;
            }
            Err(why) => return Err(invalid(&why)),
        }
    }
    Ok(l1)
}

fn map_table(
    map: &mut MetadataMap,
    geometry: Geometry,
    place: TablePlace,
    kind: Structure,
) -> Result<()> {
    map_bytes(map, geometry, place.host, place.entries * ENTRY_SIZE, kind)
}

fn map_bytes(
    map: &mut MetadataMap,
    geometry: Geometry,
    host: HostOffset,
    bytes: u64,
    kind: Structure,
) -> Result<()> {
    let first = geometry.host_cluster(host);
    map.insert(first..first + geometry.clusters(bytes), kind)
}

/// Adds the snapshot table and the snapshots' L1 tables to `map`.
fn map_snapshots(storage: &dyn Storage, header: &Header, map: &mut MetadataMap) -> Result<()> {
    if header.snapshots() == 0 {
        return Ok(());
    }
    let geometry = header.geometry();
    let table = SnapshotTable::read(storage, header)?;
    let start = header.snapshots_offset();
    map_bytes(map, geometry, start, table.length, Structure::SnapshotTable)?;
    for snapshot in &table.snapshots {
        let place = snapshot.l1_table(geometry)?;
        map_table(map, geometry, place, Structure::InactiveL1)?;
    }
    Ok(())
}
