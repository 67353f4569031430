//! System calls that only make things faster, and the meaning of their failure.
//!
//! They copy within the system, make holes, set space aside and give advice. File systems, old kernels and
//! the profiles of containers refuse them with any error that there is. A profile that doesn't know a call
//! says EPERM, a file system in user space EIO. A range that isn't aligned gives EINVAL. So none of their
//! errors counts as the image's. The caller reads and writes instead. If it is the medium that has failed,
//! these fail too, and say where. The one answer that counts is that there is no room, where room was asked
//! for: the call was made to learn that.

use rustix::io::Errno;

/// Makes a call, as often as signals interrupt it; `None` if it failed.
pub(super) fn attempt<T>(call: impl FnMut() -> Result<T, Errno>) -> Option<T> {
    rustix::io::retry_on_intr(call).ok()
}

/// Does the same as [`attempt`] for a call that sets room aside. Returns false if it failed.
///
/// # Errors
/// Returns the system's error if it says that there is no room.
pub(super) fn attempt_for_room(call: impl FnMut() -> Result<(), Errno>) -> Result<bool, Errno> {
    match rustix::io::retry_on_intr(call) {
        Ok(()) => Ok(true),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_room_counts_and_signals_do_not() {
        let refusals = [
            Errno::PERM,
            Errno::NOSYS,
            Errno::OPNOTSUPP,
            Errno::INVAL,
            Errno::IO,
            Errno::ACCESS,
            Errno::TXTBSY,
            Errno::NODEV,
        ];
        for error in refusals {
            assert_eq!(attempt(|| Err::<(), _>(error)), None);
            assert_eq!(attempt_for_room(|| Err(error)), Ok(false));
        }
        for error in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(attempt(|| Err::<(), _>(error)), None);
            assert_eq!(attempt_for_room(|| Err(error)), Err(error));
        }
        let mut interruptions = 3;
        let mut call = || {
            interruptions -= 1;
            match interruptions {
                0 => Ok(7),
                _ => Err(Errno::INTR),
            }
        };
        assert_eq!(attempt(&mut call), Some(7));
    }
}
