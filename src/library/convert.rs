//! Conversions of images into other formats.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::create::NewImageOptions;
use super::open::OpenOptions;
use super::password::GivenPasswords;
use crate::commands::convert::{BitmapCopies, Conversion, Sources, run};
use crate::convert::{MOST_WORKERS, Observer, Settings};
use crate::crypto::{Secret, Secrets};
use crate::error::{Error, ErrorKind, Result};

/// A receiver of progress: the bytes that are done, and the total.
type OnProgress<'a> = dyn Fn(u64, u64) + Send + Sync + 'a;

/// The options of a conversion: for opening the source, and for the new target.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let disk = folder.path().join("disk.img");
/// # std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
/// # let encrypted = folder.path().join("disk.qcow2");
/// let summary = cowhide::ConvertOptions::new("qcow2")
///     .source(cowhide::OpenOptions::new().format("raw"))
///     .option("encrypt.format", "aes")
///     .password("correct horse")
///     .convert(&disk, &encrypted)?;
/// assert_eq!(summary.size, 1 << 20);
/// # Ok::<(), cowhide::Error>(())
/// ```
pub struct ConvertOptions<'a> {
    source: OpenOptions,
    new: NewImageOptions,
    is_compressed: bool,
    verifies: bool,
    threads: Option<NonZeroUsize>,
    on_progress: Option<Box<OnProgress<'a>>>,
    is_cancelled: Option<&'a AtomicBool>,
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConvertSummary {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The bytes of data of the source that were read.
    pub read: u64,
    /// The bytes of the disk that the target stores.
    pub stored: u64,
    /// The bytes that were written for them. They are fewer if data is compressed or shared.
    pub written: u64,
    /// The bytes whose blocks the target shares with the source.
    pub shared: u64,
}

impl<'a> ConvertOptions<'a> {
    /// Returns the options of a conversion into an image of a format, such as `qcow2`.
    pub fn new(format: impl Into<String>) -> Self {
        Self {
            source: OpenOptions::new(),
            new: NewImageOptions::new(format.into()),
            is_compressed: false,
            verifies: false,
            threads: None,
            on_progress: None,
            is_cancelled: None,
        }
    }

    /// Sets the options for opening the source.
    #[must_use]
    pub fn source(mut self, options: OpenOptions) -> Self {
        self.source = options;
        self
    }

    /// Sets an option of the target's format, by its name for `qemu-img convert -o`.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.new.options.push((name.into(), value.into()));
        self
    }

    /// Sets the password of an encrypted target.
    #[must_use]
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.new.password = Some(Secret::new(password.into()));
        self
    }

    /// Compresses the target's data. Converting fails if the format can't do that.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.is_compressed = true;
        self
    }

    /// Reads the target back after it has been written, and compares it with the source.
    #[must_use]
    pub fn verified(mut self) -> Self {
        self.verifies = true;
        self
    }

    /// Sets the number of threads, at most 16. The default is one for each processor.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets a receiver of progress: the bytes of the disk that are done, and the total. It is called from several
    /// threads.
    #[must_use]
    pub fn on_progress(mut self, observer: impl Fn(u64, u64) + Send + Sync + 'a) -> Self {
        self.on_progress = Some(Box::new(observer));
        self
    }

    /// Sets a flag that cancels the conversion once it is true, within the time of a few requests. Another thread, the
    /// receiver of progress or a signal handler may set it.
    #[must_use]
    pub fn cancelled_by(mut self, flag: &'a AtomicBool) -> Self {
        self.is_cancelled = Some(flag);
        self
    }

    /// Converts the image at `source` into a new one at `target_path`. An existing regular file is overwritten in
    /// place.
    ///
    /// The library handles no signals. If one ends the process, the target stays unfinished: a new file mostly has no
    /// name yet and is gone, and a file that was overwritten has no header.
    ///
    /// # Errors
    /// Returns an error if the source can't be read or the target can't be written, or
    /// [`ErrorKind::Cancelled`] if the conversion was cancelled. No new file is left then, and an existing file that
    /// was overwritten is empty.
    pub fn convert(
        &self,
        source: impl AsRef<Path>,
        target_path: impl AsRef<Path>,
    ) -> Result<ConvertSummary> {
        let mut settings = Settings::default();
        if let Some(threads) = self.threads {
            if threads.get() > MOST_WORKERS {
                let message = format!("there can be at most {MOST_WORKERS} threads");
                return Err(Error::invalid(message));
            }
            settings.workers = threads;
        }
        let secrets = Secrets::default();
        let node = self.source.node(source.as_ref())?;
        let mut target = self.new.target(target_path.as_ref(), &secrets)?;
        target.compressed = self.is_compressed;
        if self.is_compressed && !target.driver.format().capabilities().compresses {
            return Err(Error::unsupported(
                "Compression not supported for this file format",
            ));
        }
        let passwords = GivenPasswords {
            writing: self.new.password.as_ref(),
            ..self.source.passwords()
        };
        let plan = Conversion {
            sources: Sources::open(&[node], &passwords)?,
            target,
            settings,
            verify: self.verifies,
            checksum: None,
            bitmaps: BitmapCopies::Leave,
        };
        let caller = Caller {
            tell: self.on_progress.as_deref(),
            is_cancelled: self.is_cancelled,
        };
        let converted = run(&plan, &passwords, &caller)?;
        let bytes = converted.bytes;
        Ok(ConvertSummary {
            size: converted.size,
            read: bytes.read,
            stored: bytes.stored,
            written: bytes.written,
            shared: bytes.shared,
        })
    }
}

impl fmt::Debug for ConvertOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConvertOptions")
            .field("source", &self.source)
            .field("new", &self.new)
            .field("compressed", &self.is_compressed)
            .field("verified", &self.verifies)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// The caller of a conversion, who is told of its progress and may cancel it.
struct Caller<'a> {
    tell: Option<&'a OnProgress<'a>>,
    is_cancelled: Option<&'a AtomicBool>,
}

impl Observer for Caller<'_> {
    fn progress(&self, done: u64, total: u64) {
        if let Some(tell) = self.tell {
            tell(done, total);
        }
    }

    fn go_on(&self) -> Result<()> {
        match self.is_cancelled {
            Some(flag) if flag.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Cancelled, "cancelled"))
            }
            _ => Ok(()),
        }
    }
}
