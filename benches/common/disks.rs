//! Disks to convert, and folders for that.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// A file system in memory.
pub const TMPFS: &str = "/dev/shm";

/// A generator of noise (xorshift64*), in which no program finds zeroes to skip. It is faster than the system's.
#[derive(Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// Fills a buffer, whose length is a multiple of 8.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for bytes in buffer.chunks_exact_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Writes a disk of `size` random bytes (a multiple of 1 MiB).
///
/// # Errors
/// Returns the system's error.
pub fn write_random(path: &Path, size: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut noise = Noise(0x0C0F_FEE0_C0DE);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        noise.fill(&mut buffer);
        file.write_all(&buffer)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Writes a disk of `size` bytes with 64 evenly spread runs of 1 MiB, and holes elsewhere.
///
/// # Errors
/// Returns the system's error, for example if the file system can't have files of that size.
pub fn write_sparse(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(size)?;
    let mut noise = Noise(0x5EED);
    let mut buffer = vec![0; 1 << 20];
    for run in 0..64 {
        noise.fill(&mut buffer);
        file.write_all_at(&buffer, size / 64 * run)?;
    }
    Ok(())
}

/// Writes a disk of 512 MiB with an ext4 file system that has programs and texts of this machine. Sizes and times can
/// only be compared on the same machine.
///
/// # Errors
/// Returns the system's error, or an error if there is no `mke2fs`, or less than 256 MiB of such files.
pub fn write_file_system(path: &Path) -> Result<()> {
    const MOST: u64 = 400 << 20;
    let tree = tempfile::tempdir_in(path.parent().unwrap_or(Path::new(".")))?;
    let mut total = 0;
    for folder in ["/usr/bin", "/usr/share/doc", "/usr/share/man"] {
        total += copy_files(Path::new(folder), tree.path(), MOST - total)?;
    }
    ensure!(total >= 256 << 20, "only {} MiB of files", total >> 20);
    File::create(path)?.set_len(512 << 20)?;
    let status = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([tree.path(), path])
        .status()
        .context("running mke2fs")?;
    ensure!(status.success(), "mke2fs failed");
    Ok(())
}

/// Copies the files below a folder, in the order of their names and without links, up to `most` bytes. Returns the
/// number of bytes.
fn copy_files(from: &Path, to: &Path, most: u64) -> Result<u64> {
    let mut entries: Vec<_> = std::fs::read_dir(from)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let to = to.join(from.file_name().unwrap_or_default());
    std::fs::create_dir_all(&to)?;
    let mut total = 0;
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            total += copy_files(&entry.path(), &to, most - total)?;
        } else if kind.is_file() {
            let length = entry.metadata()?.len();
            // Files that can't be read are skipped.
            if total + length <= most
                && std::fs::copy(entry.path(), to.join(entry.file_name())).is_ok()
            {
                total += length;
            }
        }
    }
    Ok(total)
}

/// Returns true if two files have the same bytes.
///
/// # Errors
/// Returns the system's error.
pub fn same_contents(one: &Path, other: &Path) -> Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if other.metadata()?.len() != left {
        return Ok(false);
    }
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    while left > 0 {
        let length = usize::try_from(left.min(1 << 20))?;
        let [ours, theirs] = buffers.each_mut().map(|buffer| &mut buffer[..length]);
        one.read_exact(ours)?;
        other.read_exact(theirs)?;
        if ours != theirs {
            return Ok(false);
        }
        left -= length as u64;
    }
    Ok(true)
}

/// Returns a temporary folder in `parent`, with space for `needed` bytes.
///
/// # Errors
/// Returns the system's error, or an error if there isn't enough space.
pub fn work_folder(parent: &Path, needed: u64) -> Result<TempDir> {
    let room =
        rustix::fs::statvfs(parent).with_context(|| format!("looking at {}", parent.display()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    ensure!(
        free >= needed,
        "{} has {} MiB free and {} MiB are needed: choose a smaller --size",
        parent.display(),
        free >> 20,
        needed >> 20
    );
    tempfile::Builder::new()
        .prefix(".cowhide-bench-")
        .tempdir_in(parent)
        .with_context(|| format!("making a folder in {}", parent.display()))
}
