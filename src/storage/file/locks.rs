//! QEMU's image locks: the operations of a process on an image, and those that it denies to others.
//!
//! Every process that opens an image takes shared locks on single bytes of its file. These have nothing to do with
//! the data at these offsets. It locks byte 100 + *n* for each operation *n* that it does, and byte 200 + *n* for
//! each that it denies to others. Nobody waits. After it has taken its locks, a process fails if another one denies
//! what it does, or does what it denies. Since all take locks before they test, two processes can't miss each other.
//! Any number of processes can lock the same byte, and a file that is open for reading can be locked too.
//!
//! The locks belong to the open file description and not to the process (`F_OFD_SETLK`). So closing another
//! descriptor of the same file releases none, and the end of the process releases all. On a file system without locks
//! nothing is locked, as in QEMU.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, c_int, c_short};

use super::holder;
use crate::error::{Error, ErrorKind};

/// The first lock byte for operations that a process does.
const USES: u16 = 100;

/// The first lock byte for operations that a process denies to others.
const DENIES: u16 = 200;

/// The names of the operations in messages, in the order of their bytes.
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];

const CONSISTENT_READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;
const RESIZE: u8 = 1 << 3;

/// The operations that a process does with a file, and those that it denies to others: two sets of the [`NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    uses: u8,
    denies: u8,
}

impl Claim {
    /// Reads metadata, which others must not change.
    pub const READ_METADATA: Self = Self {
        uses: 0,
        denies: WRITE | RESIZE,
    };

    /// Reads everything, which others must not change.
    pub const READ: Self = Self {
        uses: CONSISTENT_READ,
        denies: WRITE | RESIZE,
    };

    /// Reads everything, and others may change it but not its length.
    pub const READ_LENGTH: Self = Self {
        uses: CONSISTENT_READ,
        denies: RESIZE,
    };

    /// Reads everything, and others may change it.
    pub const READ_SHARED: Self = Self {
        uses: CONSISTENT_READ,
        denies: 0,
    };

    /// Writes a file whose format allows several writers.
    pub const WRITE_SHARED: Self = Self {
        uses: CONSISTENT_READ | WRITE,
        denies: 0,
    };

    /// Writes a file like [`Claim::WRITE_SHARED`], and changes its length.
    pub const RESIZE_SHARED: Self = Self {
        uses: CONSISTENT_READ | WRITE | RESIZE,
        denies: 0,
    };

    /// Writes a file that nobody else may write.
    pub const WRITE: Self = Self {
        uses: CONSISTENT_READ | WRITE | RESIZE,
        denies: WRITE | RESIZE,
    };

    /// Takes the locks on `file`, and tests for conflicting locks of others. The locks stay until `file` and its
    /// duplicates are closed, even after an error.
    ///
    /// # Errors
    /// Returns an error of the kind [`ErrorKind::Locked`] if there are conflicting locks.
    pub(super) fn take(self, file: &File, name: &str) -> Result<(), Error> {
        for (byte, _) in bytes(USES, self.uses).chain(bytes(DENIES, self.denies)) {
            match lock(file, byte) {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let error =
                        Error::new(ErrorKind::Locked, format!("Failed to lock byte {byte}"));
                    return Err(match holder::find(file) {
                        Some(holder) => error.with_hint(holder),
                        None => error,
                    });
                }
                // The file system has no locks.
                Err(_) => return Ok(()),
            }
        }
        let denied = find_held(file, DENIES, self.uses).map(|what| format!("\"{what}\""));
        let done = || find_held(file, USES, self.denies).map(|what| format!("shared \"{what}\""));
        match denied.or_else(done) {
            None => Ok(()),
            Some(what) => {
                let message = format!("Failed to get {what} lock");
                let mut hint = format!("Is another process using the image [{name}]?");
                if let Some(holder) = holder::find(file) {
                    hint += "\n";
                    hint += &holder;
                }
                Err(Error::new(ErrorKind::Locked, message).with_hint(hint))
            }
        }
    }
}

/// Returns the lock bytes of a set, with the names of their operations.
fn bytes(first: u16, set: u8) -> impl Iterator<Item = (u16, &'static str)> {
    (first..)
        .zip(NAMES)
        .filter(move |(byte, _)| set & (1 << (byte - first)) != 0)
}

/// Returns the name of the first operation of a set whose byte is locked by another process.
fn find_held(file: &File, first: u16, set: u8) -> Option<&'static str> {
    bytes(first, set).find_map(|(byte, name)| is_held(file, byte).then_some(name))
}

/// Takes a shared lock on a byte.
fn lock(file: &File, byte: u16) -> Result<(), Errno> {
    let range = range(libc::F_RDLCK, byte);
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns true if another open file has a lock on a byte, shared or not.
fn is_held(file: &File, byte: u16) -> bool {
    let mut range = range(libc::F_WRLCK, byte);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut range));
    asked.is_ok() && c_int::from(range.l_type) != libc::F_UNLCK
}

/// Returns the argument of a lock call for one byte. The constants have different types in C, and are small.
#[allow(clippy::cast_possible_truncation)]
fn range(kind: c_int, byte: u16) -> libc::flock {
    libc::flock {
        l_type: kind as c_short,
        l_whence: libc::SEEK_SET as c_short,
        l_start: byte.into(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::{Access, CacheMode, FileStorage, Storage as _};

    fn open(path: &Path, access: Access) -> FileStorage {
        FileStorage::open(path, access, CacheMode::Writeback).unwrap()
    }

    /// Returns the error of the second of two claims on the same file.
    fn second(first: Claim, second: Claim) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = open(file.path(), Access::ReadWrite);
        one.claim(first).unwrap();
        let other = open(file.path(), Access::Read);
        let refused = other.claim(second).err()?;
        assert_eq!(refused.kind(), ErrorKind::Locked);
        let place = file.path().display();
        let hint = format!("Is another process using the image [{place}]?");
        assert_eq!(refused.hint(), Some(hint.as_str()));
        // The lock ends when the file is closed.
        drop(one);
        let later = open(file.path(), Access::Read);
        drop(other);
        later.claim(second).unwrap();
        Some(refused.to_string())
    }

    #[test]
    fn who_goes_with_whom() {
        let shared = Some("Failed to get shared \"write\" lock".to_owned());
        let denied = Some("Failed to get \"write\" lock".to_owned());
        for reader in [Claim::READ_METADATA, Claim::READ] {
            assert_eq!(second(Claim::READ, reader), None);
            assert_eq!(second(Claim::READ_SHARED, reader), None);
            assert_eq!(second(Claim::WRITE, reader), shared);
            assert_eq!(second(Claim::WRITE_SHARED, reader), shared);
            assert_eq!(second(reader, Claim::WRITE), denied);
            assert_eq!(second(reader, Claim::WRITE_SHARED), denied);
        }
        assert_eq!(second(Claim::WRITE, Claim::READ_SHARED), None);
        assert_eq!(second(Claim::READ_SHARED, Claim::WRITE), None);
        assert_eq!(second(Claim::WRITE_SHARED, Claim::RESIZE_SHARED), None);
        assert_eq!(second(Claim::WRITE_SHARED, Claim::WRITE), shared);
        assert_eq!(second(Claim::WRITE, Claim::WRITE), denied);
    }

    #[test]
    fn bytes_that_are_not_shared_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let range = range(libc::F_WRLCK, 201);
        fcntl(file.as_file(), FcntlArg::F_OFD_SETLK(&range)).unwrap();
        let refused = open(file.path(), Access::Read).claim(Claim::READ);
        assert_eq!(refused.unwrap_err().to_string(), "Failed to lock byte 201");
    }
}
