//! Passwords from a keyring of the Linux kernel.

use linux_keyutils::{Key, KeyError, KeySerialId};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::Secret;
use crate::error::{Error, Result};

/// The length of the longest key that is accepted, in bytes. Keys of type `user` are shorter.
const MOST: usize = 64 << 10;

/// Reads the key with that serial number.
///
/// # Errors
/// Returns the kernel's error if there is no such key, no permission, or no keyrings at all.
pub fn from_keyring(serial: i32) -> Result<Secret> {
    let refused =
        |reason: &str| Error::invalid(format!("Unable to read serial key {serial:08x}: {reason}"));
    let mut bytes = Zeroizing::new(vec![0; MOST]);
    let length = Key::from_id(KeySerialId::new(serial))
        .read(&mut *bytes)
        .map_err(|error| refused(&reason(error)))?;
    let key = bytes
        .get(..length)
        .ok_or_else(|| refused("it is too long"))?;
    Ok(Secret::new(key.to_vec()))
}

/// Returns the system's words for an error of the keyring.
fn reason(error: KeyError) -> String {
    let errno = match error {
        KeyError::MissingFileOrDirectory => Errno::NOENT,
        KeyError::PermissionDenied => Errno::PERM,
        KeyError::AccessDenied => Errno::ACCESS,
        KeyError::QuotaExceeded => Errno::DQUOT,
        KeyError::InvalidArguments => Errno::INVAL,
        KeyError::KeyExpired => Errno::KEYEXPIRED,
        KeyError::KeyRevoked => Errno::KEYREVOKED,
        KeyError::KeyRejected => Errno::KEYREJECTED,
        KeyError::OutOfMemory => Errno::NOMEM,
        KeyError::KeyDoesNotExist | KeyError::KeyringDoesNotExist => Errno::NOKEY,
        KeyError::OperationNotSupported => Errno::OPNOTSUPP,
        KeyError::Unknown(number) => Errno::from_raw_os_error(number),
        other => return other.to_string(),
    };
    crate::error::os_reason(&errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_passed_on() {
        // No key has the number 0. Without keyrings there is another error.
        let error = match from_keyring(0) {
            Ok(_) => panic!("there is such a key"),
            Err(error) => error.to_string(),
        };
        assert!(
            error.starts_with("Unable to read serial key 00000000: "),
            "{error}"
        );
        assert_eq!(
            reason(KeyError::KeyDoesNotExist),
            "Required key not available"
        );
        assert_eq!(
            reason(KeyError::Unknown(libc_enosys())),
            "Function not implemented"
        );
    }

    fn libc_enosys() -> i32 {
        Errno::NOSYS.raw_os_error()
    }
}
