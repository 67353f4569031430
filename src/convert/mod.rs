//! The copy of a disk into a new image, by many threads. [`mod@compare`] and `rebase` are here as well, since they
//! read disks in the same way.
//!
//! The parts of the source with data are divided into chunks, which are numbered in guest order ([`chunks`]). Worker
//! threads take chunks ([`job`]), read them (which decrypts), find zeroes ([`zero`]), and compress. They wait until
//! all earlier chunks have reserved space in the target ([`place`], [`ordering`]), and then encrypt and write. Only
//! the reservation is done in guest order, and it is short. All expensive work is done by the workers in parallel.
//!
//! Two limits apply. [`processors`] lets no more threads compute than there are processors. [`flow`] limits the
//! requests in flight. They are few if the storage answers at once, as the page cache does, and many if requests wait
//! ([`window`]). Chunks are longer then, too. But space is always reserved in blocks of a fixed size. So the target
//! is the same for any number of workers and requests, and any length of them.
//!
//! A checksum of the disk needs the chunks in guest order too, before they are encrypted ([`sequential`]).
//!
//! The first error stops every worker at its next step, and is returned. The target is finished only after every
//! chunk has been written.
//!
//! The memory is that of a few buffers for each request, for any size of the disk. It is at most 64 MiB, unless large
//! clusters or many workers need more.

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
/// Returns the first error of reading or writing, with its offset.
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
    /// The numbers of copied bytes.
    pub bytes: CopiedBytes,
    /// The checksum of the disk, if one was wanted.
    pub digest: Option<Digest>,
}

/// Does the same as [`copy`], and returns the checksum of the copied disk if an algorithm is given. The kernel copies
/// nothing by itself then, since every byte has to be hashed.
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
