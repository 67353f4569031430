//! A check of names of open descriptors (`/dev/fd/3`). They may only name files that the caller left open.
//!
//! A number that the caller left unused is given to one of the files that this program opens. `compare /dev/fd/3
//! /dev/fd/4` without a 4 would compare an image with itself and find no difference, and a target would be its own
//! source. The close-on-exec flag distinguishes the two kinds: all descriptors of this program have it, and no
//! inherited one does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The most symbolic links that are followed, as in the kernel.
const MOST_LINKS: usize = 40;

/// Checks that a path to a descriptor of this process is of one that the caller left open. Any other path passes.
///
/// # Errors
/// Returns `ENOENT` if the descriptor was not open when the program started.
pub fn check_name(path: &Path) -> io::Result<()> {
    let Some((folder, number)) = descriptor(path) else {
        return Ok(());
    };
    let info = folder.with_file_name("fdinfo").join(number.to_string());
    let info = fs::read_to_string(info)?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    match flags {
        Some(flags) if flags & OFlags::CLOEXEC.bits() != 0 => Err(Errno::NOENT.into()),
        _ => Ok(()),
    }
}

/// Returns the descriptor of this process that a path means, and its folder in `/proc`.
fn descriptor(path: &Path) -> Option<(PathBuf, u32)> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let number = path
            .file_name()?
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Some(number), Some(folder)) = (number, path.parent()) {
            let ours = Path::new("/proc").join(std::process::id().to_string());
            if let Ok(folder) = folder.canonicalize()
                && folder.starts_with(ours)
                && folder.ends_with("fd")
            {
                return Some((folder, number));
            }
        }
        // A link's target is relative to its folder.
        path = path.parent()?.join(fs::read_link(&path).ok()?);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    use rustix::io::{FdFlags, fcntl_setfd};

    use super::*;

    #[test]
    fn only_what_the_caller_left_open_has_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile().unwrap();
        let number = file.as_raw_fd();
        let link = folder.path().join("link");
        symlink(format!("/dev/fd/{number}"), &link).unwrap();
        let names = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"];
        let names = names.map(|folder| PathBuf::from(format!("{folder}/{number}")));
        for name in names.iter().chain([&link]) {
            fcntl_setfd(&file, FdFlags::CLOEXEC).unwrap();
            let kind = check_name(name).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::NotFound, "{name:?}");
            // This makes it look inherited.
            fcntl_setfd(&file, FdFlags::empty()).unwrap();
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        drop(file);
        assert!(check_name(Path::new("/dev/fd/1000000")).is_err());
    }

    #[test]
    fn other_names_pass() {
        for name in ["", "3", "no/such/3", "/proc/1/fd/3", "/dev/null", "/"] {
            assert!(check_name(Path::new(name)).is_ok(), "{name}");
        }
    }
}
