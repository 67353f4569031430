//! Copying the contents of one disk into a new one; [`mod@compare`] has a room within, as it works alike, and
//! `rebase` compares the chains below an image.
//!
//! The source says which parts hold data ([`chunks`]); the parts are cut into chunks and numbered in guest
//! order. Worker threads take chunks ([`job`]), read them (which decrypts), look for zeroes ([`zero`]), and
//! compress. They wait until all earlier chunks have reserved room in the target ([`place`], [`ordering`]),
//! then encrypt and write. Only the reservation is done in order, and it is short; everything that costs time
//! is done by all workers at once.
//!
//! Two things bound them. [`processors`] lets no more work at once than there are processors. [`flow`] says
//! how many requests are under way. They are few where storage answers at once, as a page cache does, and
//! many where requests wait ([`window`]). Chunks are longer there, too. Room is reserved in blocks of a fixed
//! size all the same. So the target is the same for any number of workers, requests and lengths.
//!
//! A checksum of the disk needs the chunks in order too, before they are encrypted ([`sequential`]).
//!
//! The first error wins: it stops every worker at its next step and is what the caller gets. The
//! target is finished only when every chunk has been written.
//!
//! The memory, whatever the size of the disk, is that of a few chunks' buffers for each request. It is no
//! more than 64 MiB unless clusters and workers ask for it.

mod buffer;
mod checksum;
mod chunks;
pub mod compare;
mod digest;
mod flow;
mod job;
mod ordering;
mod parallel_read;
mod place;
mod processors;
mod reached;
mod reading;
mod rebase;
mod runs;
mod sequential;
mod settings;
mod share;
mod tally;
mod window;
mod workers;
mod zero;

pub(crate) use buffer::Buffer;
pub use checksum::checksum;
pub use digest::{Algorithm, Digest};
pub use rebase::{Rebase, rebase};
pub use settings::{MOST_WORKERS, Observer, Reflink, Settings};
pub use tally::CopiedBytes;

use self::job::CopyJob;
use crate::error::Result;
use crate::formats::{Image, NewImage};

/// Copies everything from `source` into `target` and finishes `target`.
///
/// # Errors
/// Returns the first error of reading or writing, with its place.
pub fn copy(
    source: &dyn Image,
    target: &dyn NewImage,
    settings: Settings,
    observer: &dyn Observer,
) -> Result<()> {
    copy_and_hash(source, target, settings, None, observer).map(drop)
}

/// The result of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The bytes that were moved.
    pub bytes: CopiedBytes,
    /// The checksum of the disk, where one was wanted.
    pub digest: Option<Digest>,
}

/// Does the same as [`copy`], and returns the checksum of the disk that was copied, where one is wanted.
/// Nothing is copied within the system then, since every byte has to be seen.
///
/// # Errors
/// Returns the errors of [`copy`].
pub fn copy_and_hash(
    source: &dyn Image,
    target: &dyn NewImage,
    mut settings: Settings,
    algorithm: Option<Algorithm>,
    observer: &dyn Observer,
) -> Result<Copied> {
    settings.copy_offload &= algorithm.is_none();
    // Parts that a target leaves to its backing file aren't read.
    let hashed = algorithm.filter(|_| target.backed().is_none());
    if settings.sparse.is_some() {
        target.clear()?;
    }
    let job = CopyJob::new(source, target, settings, hashed, observer)?;
    let digest = job.run()?;
    let digest = match (digest, algorithm) {
        (None, Some(algorithm)) => Some(checksum(source, algorithm, settings.workers, &())?),
        (digest, _) => digest,
    };
    target.finish()?;
    let total = job.total();
    observer.progress(total, total);
    Ok(Copied {
        bytes: job.bytes(),
        digest,
    })
}

#[cfg(test)]
mod backed_tests;
#[cfg(test)]
mod tests;
