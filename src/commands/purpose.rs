//! What an image is opened for: it decides what others may do with it meanwhile.
//!
//! The rules are those that `qemu-img` shows under `strace`, so that both tools refuse the same.

use crate::error::{Error, Result};
use crate::formats::Format;
use crate::storage::{Access, Claim};

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Looking at its header.
    Inspect,
    /// Looking at all of it.
    Read,
    /// Copying it, so that it must stay what it is.
    Copy,
    /// Changing it where it is, its length too.
    Change,
}

impl Purpose {
    /// How its files are opened.
    pub(super) fn access(self) -> Access {
        match self {
            Self::Inspect | Self::Read | Self::Copy => Access::Read,
            Self::Change => Access::ReadWrite,
        }
    }

    /// What is said to others of the file that holds it. A raw image is nobody's in particular unless
    /// it is copied.
    ///
    /// # Errors
    /// What is changed can't be shared by force.
    pub(super) fn claim(self, format: Format, force_share: bool) -> Result<Option<Claim>> {
        let shared = force_share || format == Format::Raw;
        Ok(match self {
            Self::Inspect if shared => None,
            Self::Inspect => Some(Claim::READ_METADATA),
            Self::Read if shared => Some(Claim::READ_SHARED),
            Self::Copy if force_share => Some(Claim::READ_SHARED),
            Self::Read | Self::Copy => Some(Claim::READ),
            Self::Change if force_share => return Err(only_for_reading()),
            Self::Change if shared => Some(Claim::RESIZE_SHARED),
            Self::Change => Some(Claim::WRITE),
        })
    }

    /// What is said to others of its external data file, whose length the image relies on.
    ///
    /// # Errors
    /// As [`Purpose::claim`].
    pub(super) fn claim_of_data_file(self, force_share: bool) -> Result<Option<Claim>> {
        Ok(match self {
            Self::Inspect => None,
            Self::Change if force_share => return Err(only_for_reading()),
            _ if force_share => Some(Claim::READ_SHARED),
            Self::Read => Some(Claim::READ_LENGTH),
            Self::Copy => Some(Claim::READ),
            Self::Change => Some(Claim::WRITE),
        })
    }
}

fn only_for_reading() -> Error {
    Error::invalid("force-share=on can only be used with read-only images")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_not_shared() {
        let expected = "force-share=on can only be used with read-only images";
        let refused = Purpose::Change.claim(Format::Qcow2, true).unwrap_err();
        assert_eq!(refused.to_string(), expected);
        let refused = Purpose::Change.claim_of_data_file(true).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn raw_images_are_shared_unless_copied() {
        let claim = |purpose: Purpose| purpose.claim(Format::Raw, false).unwrap();
        assert_eq!(claim(Purpose::Inspect), None);
        assert_eq!(claim(Purpose::Read), Some(Claim::READ_SHARED));
        assert_eq!(claim(Purpose::Copy), Some(Claim::READ));
        assert_eq!(claim(Purpose::Change), Some(Claim::RESIZE_SHARED));
    }
}
