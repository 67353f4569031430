//! Conversion of stored clusters to the guest's data: decryption and decompression.
//!
//! A data cluster that starts at or beyond the end of the file is missing, which is an error. If the file ends inside
//! a data cluster, the rest of it reads as zeroes: QEMU may leave out trailing zeroes of the last cluster. In an
//! encrypted image a truncated cluster is an error: QEMU always writes the whole ciphertext, and missing ciphertext
//! has no meaning. An end inside a sector is an error as well, since no program writes such a file. An external data
//! file may have any length.

use std::cell::RefCell;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::ExtentKind;
use crate::formats::codec;
use crate::formats::encryption::Cipher;
use crate::formats::qcow2::entries::{
    EntryError, L2Entry, L2Slot, L2Target, SUBCLUSTERS, Subcluster, SubclusterBitmap,
};
use crate::formats::qcow2::geometry::Geometry;
use crate::formats::qcow2::header::features;
use crate::formats::qcow2::header::{CompressionType, Header, Version};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset, SECTOR_SIZE};

/// The files and the cipher for reading a cluster at a known place.
pub(in crate::formats::qcow2) struct ClusterReader {
    /// The file with the guest's data: the image's own file or its external data file.
    data: Arc<dyn Storage>,
    external: bool,
    geometry: Geometry,
    zero_flag: bool,
    compression: CompressionType,
    cipher: Option<Cipher>,
}

impl ClusterReader {
    /// Returns a reader for the image with this header. `cipher` decrypts its data.
    pub(in crate::formats::qcow2) fn new(
        data: Arc<dyn Storage>,
        header: &Header,
        cipher: Option<Cipher>,
    ) -> Self {
        Self {
            data,
            external: header.has_incompatible(features::DATA_FILE),
            geometry: header.geometry(),
            zero_flag: header.version() == Version::V3,
            compression: header.compression(),
            cipher,
        }
    }

    /// Returns the geometry of the image.
    pub(in crate::formats::qcow2) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the cipher of the guest's data.
    pub(in crate::formats::qcow2) fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }

    /// Returns the compression type of compressed clusters.
    pub(in crate::formats::qcow2) fn compression(&self) -> CompressionType {
        self.compression
    }

    /// Returns the file with the guest's data.
    pub(in crate::formats::qcow2) fn storage(&self) -> &dyn Storage {
        self.data.as_ref()
    }

    /// Returns the file that holds the data as the guest sees it, or `None` if the data is encrypted.
    pub(in crate::formats::qcow2) fn plain_storage(&self) -> Option<&dyn Storage> {
        match self.cipher {
            Some(_) => None,
            None => Some(self.data.as_ref()),
        }
    }

    /// Decodes an L2 entry.
    ///
    /// # Errors
    /// Returns an error if the entry is invalid.
    pub(in crate::formats::qcow2) fn target(
        &self,
        entry: L2Entry,
        guest: GuestOffset,
    ) -> Result<L2Target> {
        if !self.external {
            return entry
                .target(self.geometry, self.zero_flag)
                .map_err(|why| self.bad_entry(guest, &why));
        }
        let target = entry
            .target_in_data_file(self.geometry, self.zero_flag)
            .map_err(|why| self.bad_entry(guest, &why))?;
        // Every cluster of an external data file is at its guest offset ("Standard Cluster Descriptor" in the
        // specification). Data at another offset belongs to another cluster.
        let place = guest.0 - self.geometry.within_cluster(guest.0);
        match target {
            L2Target::Data { host, .. }
            | L2Target::Zero {
                kept: Some((host, _)),
            } if host.0 != place => {
                let why = format!(
                    "External data file host cluster offset {host} does not match guest cluster \
                     offset: {place:#x}"
                );
                Err(self.bad_entry(guest, &why))
            }
            _ => Ok(target),
        }
    }

    /// Returns the error for an invalid L2 entry of a guest offset.
    pub(in crate::formats::qcow2) fn bad_entry(
        &self,
        guest: GuestOffset,
        why: &dyn std::fmt::Display,
    ) -> Error {
        Error::corrupt(format!(
            "L2 entry {} of L1 entry {} (guest offset {guest}) is invalid: {why}",
            self.geometry.l2_index(guest),
            self.geometry.l1_index(guest),
        ))
    }

    /// Returns the way in which the guest's data is stored from `guest` on. Also returns the number of bytes up to
    /// the end of the cluster, or of the subclusters in the same state. `slot` is the cluster's L2 entry, and
    /// `length` is the length of the file in bytes.
    ///
    /// # Errors
    /// Returns an error if the entry is invalid, or refers to a cluster beyond the end of the file.
    pub(in crate::formats::qcow2) fn part(
        &self,
        slot: L2Slot,
        guest: GuestOffset,
        length: u64,
    ) -> Result<(ExtentKind, u64)> {
        let L2Slot { entry, bitmap } = slot;
        let target = self.target(entry, guest)?;
        let within = self.geometry.within_cluster(guest.0);
        let rest = self.geometry.cluster_size() - within;
        match (target, bitmap) {
            (L2Target::Compressed(_), _) if self.external => Err(self.bad_entry(
                guest,
                &"a compressed cluster can't be in an external data file",
            )),
            (L2Target::Compressed(range), _) => {
                self.check_start(guest, range.host, length, "compressed cluster")?;
                Ok((ExtentKind::Encoded, rest))
            }
            (_, Some(bitmap)) => self.subclusters(target, bitmap, guest, length),
            (L2Target::Unallocated, None) => Ok((ExtentKind::Unallocated { kept: None }, rest)),
            (L2Target::Zero { kept }, None) => {
                let kept = kept.map(|(host, _)| HostOffset(host.0 + within));
                Ok((ExtentKind::Zero { kept }, rest))
            }
            (L2Target::Data { host, .. }, None) => {
                self.check_start(guest, host, length, "cluster")?;
                Ok((ExtentKind::Data(HostOffset(host.0 + within)), rest))
            }
        }
    }

    /// Returns the result of [`part`](Self::part) for a cluster with subclusters.
    fn subclusters(
        &self,
        target: L2Target,
        bitmap: SubclusterBitmap,
        guest: GuestOffset,
        length: u64,
    ) -> Result<(ExtentKind, u64)> {
        let within = self.geometry.within_cluster(guest.0);
        let first = self.geometry.subcluster_index(guest);
        let state = |number| {
            bitmap
                .get(number)
                .map_err(|why| self.bad_entry(guest, &why))
        };
        let kind = state(first)?;
        let same = |number: &u32| state(*number).ok() == Some(kind);
        let count = (first..SUBCLUSTERS).take_while(same).count() as u64;
        let end = (u64::from(first) + count) * self.geometry.subcluster_size();
        let host = match target {
            L2Target::Data { host, .. } => Some(host),
            _ => None,
        };
        let kept = host.map(|host| HostOffset(host.0 + within));
        let kind = match (kind, host, kept) {
            (Subcluster::Unallocated, ..) => ExtentKind::Unallocated { kept },
            (Subcluster::Zero, ..) => ExtentKind::Zero { kept },
            (Subcluster::Data, Some(host), Some(kept)) => {
                self.check_start(guest, host, length, "cluster")?;
                ExtentKind::Data(kept)
            }
            (Subcluster::Data, ..) => {
                return Err(self.bad_entry(guest, &EntryError::Subcluster(first)));
            }
        };
        Ok((kind, end - within))
    }

    /// Checks that a cluster starts inside the file.
    fn check_start(
        &self,
        guest: GuestOffset,
        host: HostOffset,
        length: u64,
        what: &str,
    ) -> Result<()> {
        if host.0 < length {
            return Ok(());
        }
        let why = format!("its {what} at {host} is beyond the end of the file ({length} bytes)");
        Err(self.bad_entry(guest, &why))
    }

    /// Reads whole sectors of the data at `host`, whose guest offset is `guest`. `length` is the length of the file
    /// in bytes.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the file has become shorter, or if ciphertext is missing.
    pub(in crate::formats::qcow2) fn read_data(
        &self,
        guest: GuestOffset,
        host: HostOffset,
        length: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let read = self.data.read_padded_at(host.0, buf, length)?;
        if read < buf.len() && !self.external && !length.is_multiple_of(SECTOR_SIZE) {
            return Err(Error::corrupt(format!(
                "the cluster at guest offset {guest} is cut off inside of a sector by the end of the \
                 file ({length} bytes)",
            )));
        }
        if let Some(cipher) = &self.cipher {
            if read < buf.len() {
                return Err(Error::corrupt(format!(
                    "the encrypted cluster at guest offset {guest} is cut off by the end of the \
                     file ({length} bytes)",
                )));
            }
            cipher.decrypt(guest, host, buf);
        }
        Ok(())
    }

    /// Reads from the compressed cluster at `guest`, up to its end at most. `length` is the length of the file in
    /// bytes. Compressed clusters are never encrypted.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the compressed data is damaged.
    pub(in crate::formats::qcow2) fn read_compressed(
        &self,
        slot: L2Slot,
        guest: GuestOffset,
        length: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let L2Target::Compressed(range) = self.target(slot.entry, guest)? else {
            return Err(self.bad_entry(guest, &"not compressed any more"));
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { stored, cluster } = scratch;
            // The last sector of the range may extend beyond the end of the file.
            let most = range.length.min(length.saturating_sub(range.host.0));
            stored.resize(usize::try_from(most).unwrap_or(0), 0);
            let what = format!("the compressed cluster of guest offset {guest}");
            self.data.read_exact_at(range.host.0, stored, &what)?;
            let decode = |cluster: &mut [u8]| {
                codec::decompress(self.compression.codec(), stored, cluster)
                    .map_err(|why| self.bad_entry(guest, &why))
            };
            if buf.len() == self.geometry.cluster_len() {
                return decode(buf);
            }
            cluster.resize(self.geometry.cluster_len(), 0);
            decode(cluster)?;
            let within = usize::try_from(self.geometry.within_cluster(guest.0)).unwrap_or(0);
            let part = cluster.get(within..).and_then(|rest| rest.get(..buf.len()));
            let part = part.ok_or_else(|| Error::invalid("reading over a cluster's end"))?;
            buf.copy_from_slice(part);
            Ok(())
        })
    }
}

/// The buffers for compressed clusters, one set for each thread.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    cluster: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}
