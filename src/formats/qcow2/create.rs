//! A new image, laid out front to back from its known final size.
//!
//! ```text
//! header | L1 table | data … L2 tables … data … L2 tables | refcount blocks | refcount table
//! ```
//!
//! - The header cluster and the L1 table have fixed places, since size and options say how big they
//!   are. Data clusters follow in guest order; the L2 tables of a chunk of data stand right behind
//!   it, so that a chunk is one write and its tables another, even with the smallest clusters.
//! - In a new image everything is used exactly once. All refcounts are 1, so the refcount blocks
//!   follow from the number of clusters alone and are generated at the end, and every L1 and L2
//!   entry has the COPIED flag.
//! - On a block device nothing reads as zeroes by itself: clusters and refcount blocks are written
//!   whole there, and the old header is wiped first.
//! - The header is written last, after all that it points to (and, where the caller wants the image
//!   on stable storage, after that has been flushed). Until then the file starts with zeroes and no
//!   program takes it for a qcow2 image, however the conversion was ended.
//!
//! Memory: the L1 table (at most 32 MiB, and that for disks of petabytes), one L2 table, and what
//! the reservations carry.

use std::sync::{Arc, Mutex, PoisonError};

use super::create_options::CreateOptions;
use super::entries::L2Entry;
use super::geometry::Geometry;
use super::new_header;
use super::new_layout::Layout;
use super::new_refcounts::RefcountLayout;
use crate::crypto::AesCbc;
use crate::error::Result;
use crate::formats::{NewImage, Reservation, Run};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// A qcow2 image being written.
pub struct NewQcow2 {
    storage: Arc<dyn Storage>,
    options: CreateOptions,
    geometry: Geometry,
    cipher: Option<AesCbc>,
    flush: bool,
    /// Whether what is never written reads as zeroes.
    clean: bool,
    layout: Mutex<Layout>,
}

impl NewQcow2 {
    /// Starts a new image in `storage`, which must be empty or a block device. `cipher` encrypts the data where the
    /// options say that it is encrypted. `flush` says whether [`NewImage::finish`] puts everything
    /// on stable storage, in the order that a power cut can't hurt.
    ///
    /// # Errors
    /// As [`CreateOptions::check`]; an encryption method other than the legacy AES; the system's.
    pub fn create(
        storage: Arc<dyn Storage>,
        options: CreateOptions,
        cipher: Option<AesCbc>,
        flush: bool,
    ) -> Result<Self> {
        let geometry = options.check()?;
        options.check_cipher(cipher.as_ref())?;
        let clean = storage.starts_as_zeroes();
        if !clean {
            new_header::wipe(storage.as_ref(), geometry)?;
        }
        Ok(Self {
            storage,
            geometry,
            cipher,
            flush,
            clean,
            layout: Mutex::new(Layout::new(geometry, options.size)?),
            options,
        })
    }

    /// The runs of a chunk, widened to whole clusters and joined where they touch.
    fn clusters_of(&self, chunk: usize, runs: &[Run]) -> Vec<Run> {
        let size = self.geometry.cluster_len();
        let mut clusters: Vec<Run> = Vec::new();
        for run in runs {
            let start = run.start / size * size;
            let end = run.end.next_multiple_of(size).min(chunk);
            match clusters.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => clusters.push(start..end),
            }
        }
        clusters
    }
}

impl NewImage for NewQcow2 {
    fn allocation_unit(&self) -> usize {
        self.geometry.cluster_len()
    }

    fn zero_unit(&self) -> usize {
        match self.cipher {
            None if self.clean => self.geometry.cluster_len().min(4096),
            // All of a cluster is ciphertext, or none of it; and where zeroes have to be written to
            // be there, all of a cluster is written, or none of it.
            _ => self.geometry.cluster_len(),
        }
    }

    fn starts_as_zeroes(&self) -> bool {
        // Clusters that are never allocated read as zeroes, whatever the file holds.
        true
    }

    fn reserve(&self, guest: GuestOffset, chunk: usize, runs: &[Run]) -> Result<Reservation> {
        let clusters = self.clusters_of(chunk, runs);
        let size = self.geometry.cluster_len();
        let count: usize = clusters.iter().map(|run| run.len().div_ceil(size)).sum();

        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut host = layout.allocate(count as u64 * self.geometry.cluster_size())?;
        let mut pieces = Vec::with_capacity(clusters.len());
        let mut metadata = None;
        for run in &clusters {
            pieces.push((run.clone(), host));
            for start in run.clone().step_by(size) {
                let offset = GuestOffset(guest.0 + start as u64);
                layout.set_entry(offset, L2Entry::to_data(host), &mut metadata)?;
                host.0 += self.geometry.cluster_size();
            }
        }
        drop(layout);
        if self.cipher.is_none() && self.clean {
            pieces = narrow(&pieces, runs);
        }
        Ok(Reservation {
            guest,
            pieces,
            metadata,
        })
    }

    fn encode(&self, reservation: &Reservation, chunk: &mut [u8]) -> Result<()> {
        match &self.cipher {
            Some(cipher) => reservation.encrypt(cipher, chunk),
            None => Ok(()),
        }
    }

    fn write(&self, reservation: &Reservation, chunk: &[u8]) -> Result<()> {
        reservation.write_data(self.storage.as_ref(), chunk)?;
        self.write_metadata(reservation)
    }

    fn writes_serially(&self) -> bool {
        self.storage.writes_serially()
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        (self.cipher.is_none() && self.clean).then_some(self.storage.as_ref())
    }

    fn write_metadata(&self, reservation: &Reservation) -> Result<()> {
        reservation.write_metadata(self.storage.as_ref())
    }

    fn finish(&self) -> Result<()> {
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = None;
        layout.place_filling(&mut table)?;
        if let Some((host, table)) = table {
            self.storage.write_at(host.0, &table)?;
        }
        let used = self.geometry.host_cluster(layout.next());
        let refcounts = RefcountLayout::new(self.geometry, used, layout.next())?;
        refcounts.write(self.storage.as_ref(), self.geometry)?;
        layout.write_l1(self.storage.as_ref())?;
        let header = new_header::bytes(&self.options, self.geometry, layout.l1_host(), &refcounts)?;
        new_header::write_last(self.storage.as_ref(), &header, self.flush)
    }
}

/// Of `pieces` (whole clusters and their places), what `runs` say holds data: in a new file that
/// reads as zeroes, the rest needs no writing.
fn narrow(pieces: &[(Run, HostOffset)], runs: &[Run]) -> Vec<(Run, HostOffset)> {
    let mut pieces = pieces.iter();
    let mut piece = pieces.next();
    let mut narrowed = Vec::with_capacity(runs.len());
    for run in runs {
        while let Some((clusters, host)) = piece {
            if run.start < clusters.end {
                let within = (run.start - clusters.start) as u64;
                narrowed.push((run.clone(), HostOffset(host.0 + within)));
                break;
            }
            piece = pieces.next();
        }
    }
    narrowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_widened_for_allocation_and_narrowed_for_writing() {
        let pieces = [
            (0..2048, HostOffset(10_240)),
            (4096..5120, HostOffset(12_288)),
        ];
        let runs = [512..1024, 1536..2048, 4096..4608];
        assert_eq!(
            narrow(&pieces, &runs),
            [
                (512..1024, HostOffset(10_752)),
                (1536..2048, HostOffset(11_776)),
                (4096..4608, HostOffset(12_288)),
            ]
        );
    }
}
