//! The test of internal errors from outside of the process. It is a separate program, which starts itself
//! again to convert an image that panics when it is read, in a worker and in the main thread.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, ExitCode};

use cowhide::convert::{Settings, copy};
use cowhide::error::Result;
use cowhide::formats::raw::NewRaw;
use cowhide::formats::{Extent, ExtentKind, Image, Preallocation};
use cowhide::storage::{CacheMode, Unfinished as _, UnfinishedFile};
use cowhide::units::{GuestOffset, HostOffset};

/// The environment variable with the path of the target.
const TARGET: &str = "COWHIDE_TEST_TARGET";

const SIZE: u64 = 64 << 20;

/// A disk whose reads panic from an offset on.
struct Faulty(u64);

impl Image for Faulty {
    fn size(&self) -> u64 {
        SIZE
    }

    fn extent_at(&self, start: GuestOffset, limit: u64) -> Result<Extent> {
        Ok(Extent {
            start,
            length: limit.min(SIZE - start.0),
            kind: ExtentKind::Data(HostOffset(start.0)),
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        assert!(offset.0 < self.0, "a mistake\nof ours");
        buf.fill(1);
        Ok(())
    }
}

fn convert(target: &Path, workers: usize) -> Result<()> {
    let mut file = UnfinishedFile::create(target, CacheMode::Unsafe, |_| Ok(()))?;
    let storage = file.take_storage()?;
    let new = NewRaw::create(storage, SIZE, Preallocation::Off, false)?;
    let settings = Settings {
        workers: NonZeroUsize::new(workers).unwrap(),
        ..Settings::default()
    };
    copy(&Faulty(SIZE / 2), &new, settings, &())?;
    UnfinishedFile::keep(vec![file], false)
}

fn main() -> ExitCode {
    if let Some(target) = std::env::var_os(TARGET) {
        let workers = std::env::args().nth(1).unwrap().parse().unwrap();
        return cowhide::cli::guard(|| match convert(Path::new(&target), workers) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        });
    }
    // The other options of cargo have no effect.
    for workers in [1, 2, 7] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.raw");
        let output = Command::new(std::env::current_exe().unwrap())
            .arg(workers.to_string())
            .env(TARGET, &target)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(70), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        let start = "cowhide: internal error: a mistake\\nof ours at tests/internal_error.rs:";
        assert!(said.starts_with(start), "{said}");
        assert!(!target.exists(), "an unfinished target is left");
        println!("test one line and nothing left, with {workers} workers ... ok");
    }
    ExitCode::SUCCESS
}
