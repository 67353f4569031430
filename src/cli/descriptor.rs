//! Duplication of a file descriptor that the caller left open, by its number.
//!
//! The number means the file that was open when the program started. An unused number is given to the next file that
//! the program opens, which may be the disk. So descriptors are duplicated before any file is opened. Opening
//! `/dev/fd/N` instead would read files from their start and not from their current position, and doesn't work for
//! sockets.
//!
//! Safe Rust can't duplicate a descriptor by its number, since the number may not be open. The kernel checks that for
//! descriptors that are sent over a socket, so this process sends them to itself.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Duplicates the descriptor `number` for reading. It shares its position in the file with the caller's descriptor.
/// The program calls this before it opens files.
///
/// # Errors
/// Returns `EBADF` if the descriptor isn't open, or isn't readable. Returns the system's error if no more descriptors
/// can be opened.
pub(super) fn take(number: i32) -> io::Result<File> {
    take_but(number, OFlags::WRONLY)
}

/// Does the same as [`take`] for writing.
///
/// # Errors
/// Returns `EBADF` if the descriptor isn't open, or isn't writable. Returns the system's error if no more descriptors
/// can be opened.
pub(super) fn take_to_write(number: i32) -> io::Result<File> {
    take_but(number, OFlags::RDONLY)
}

/// Duplicates a descriptor, unless it is open in the mode `refused`.
fn take_but(number: i32, refused: OFlags) -> io::Result<File> {
    let (sender, receiver) = UnixStream::pair()?;
    // The sockets may have got the number if it was unused.
    if [sender.as_raw_fd(), receiver.as_raw_fd()].contains(&number) {
        return Err(Errno::BADF.into());
    }
    sendmsg::<()>(
        sender.as_raw_fd(),
        &[IoSlice::new(b"d")],
        &[ControlMessage::ScmRights(&[number])],
        MsgFlags::empty(),
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        &receiver,
        &mut [IoSliceMut::new(&mut [0])],
        &mut messages,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let taken = messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    // The kernel omits the descriptor from the message if no more can be opened.
    let taken = taken.ok_or(Errno::MFILE)?;
    let flags = fcntl_getfl(&taken)?;
    if flags.contains(OFlags::PATH) || flags.intersection(OFlags::RWMODE) == refused {
        return Err(Errno::BADF.into());
    }
    Ok(taken.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    fn read(number: i32) -> io::Result<String> {
        let mut text = String::new();
        take(number)?.take(100).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn files_are_read_from_where_they_stand() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first\nsecond").unwrap();
        file.seek(io::SeekFrom::Start(6)).unwrap();
        assert_eq!(read(file.as_raw_fd()).unwrap(), "second");
    }

    #[test]
    fn sockets_and_pipes_are_read() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"socket").unwrap();
        drop(one);
        assert_eq!(read(other.as_raw_fd()).unwrap(), "socket");
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"pipe").unwrap();
        drop(writer);
        assert_eq!(read(reader.as_raw_fd()).unwrap(), "pipe");
    }

    #[test]
    fn pipes_are_written_to_at_their_ends() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut taken = take_to_write(writer.as_raw_fd()).unwrap();
        drop(writer);
        taken.write_all(b"line").unwrap();
        drop(taken);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "line");
        assert!(take_to_write(reader.as_raw_fd()).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let (_reader, writer) = io::pipe().unwrap();
        let path = rustix::fs::open("/", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        for number in [writer.as_raw_fd(), path.as_raw_fd(), -1, 1_000_000] {
            let error = take(number).map(drop).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::BADF.raw_os_error()),
                "{number}"
            );
        }
    }
}
