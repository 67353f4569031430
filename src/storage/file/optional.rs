//! System calls that only improve speed, and the meaning of their errors.
//!
//! They copy within the kernel, make holes, reserve space and give advice. File systems, old kernels and the seccomp
//! profiles of containers refuse them with any error. A profile that doesn't know a call returns EPERM, a file system
//! in user space EIO, and an unaligned range gives EINVAL. So none of these errors is reported: the caller reads and
//! writes instead. If the medium has failed, that fails too, and names the offset. The exception is an error for lack
//! of space from a call that reserves space, since the call was made to find that out.

use rustix::io::Errno;

/// Makes a call, again if a signal interrupts it. Returns `None` if it failed.
pub(super) fn attempt<T>(call: impl FnMut() -> Result<T, Errno>) -> Option<T> {
    rustix::io::retry_on_intr(call).ok()
}

/// Does the same as [`attempt`] for a call that reserves space. Returns false if it failed.
///
/// # Errors
/// Returns the system's error if there is no space.
pub(super) fn attempt_to_reserve(call: impl FnMut() -> Result<(), Errno>) -> Result<bool, Errno> {
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
            assert_eq!(attempt_to_reserve(|| Err(error)), Ok(false));
        }
        for error in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(attempt(|| Err::<(), _>(error)), None);
            assert_eq!(attempt_to_reserve(|| Err(error)), Err(error));
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
