//! The purpose for which an image is opened. It decides what other processes may do with the image meanwhile, unless
//! options overrule that.
//!
//! The rules were taken from `qemu-img` with `strace`, so that both tools refuse the same.

use super::Claim;
use crate::error::{Error, Result};

/// The access to a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing of an existing storage.
    ReadWrite,
}

/// The purposes for which an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Probing of its format and its size.
    Probe,
    /// Reading of its header.
    Inspect,
    /// Reading of all of it.
    Read,
    /// Copying of it, so that its data must not change.
    Copy,
    /// Overwriting of its data. A plain file keeps its length.
    Overwrite,
    /// Changing of it in place, including its length.
    Change,
}

impl Purpose {
    /// Returns the access with which the image's files are opened.
    pub fn access(self) -> Access {
        match self {
            Self::Probe | Self::Inspect | Self::Read | Self::Copy => Access::Read,
            Self::Overwrite | Self::Change => Access::ReadWrite,
        }
    }

    /// Returns the claim on a file with an image that has metadata.
    ///
    /// # Errors
    /// Returns an error if the image is opened for writing with `force-share=on`.
    pub fn claim(self, sharing: Sharing) -> Result<Option<Claim>> {
        self.claim_unless(sharing, |purpose| match purpose {
            Self::Probe => None,
            Self::Inspect => Some(Claim::READ_METADATA),
            Self::Read | Self::Copy => Some(Claim::READ),
            Self::Overwrite | Self::Change => Some(Claim::WRITE),
        })
    }

    /// Returns the claim on a file whose bytes are the disk itself. Others may write such a file too, unless it is
    /// copied.
    ///
    /// # Errors
    /// Returns the errors of [`Purpose::claim`].
    pub fn claim_of_plain(self, sharing: Sharing) -> Result<Option<Claim>> {
        self.claim_unless(sharing, |purpose| match purpose {
            Self::Probe | Self::Inspect => None,
            Self::Read => Some(Claim::READ_SHARED),
            Self::Copy => Some(Claim::READ),
            Self::Overwrite => Some(Claim::WRITE_SHARED),
            Self::Change => Some(Claim::RESIZE_SHARED),
        })
    }

    /// Returns the claim on an external data file, whose length the image relies on.
    ///
    /// # Errors
    /// Returns the errors of [`Purpose::claim`].
    pub fn claim_of_data_file(self, sharing: Sharing) -> Result<Option<Claim>> {
        self.claim_unless(sharing, |purpose| match purpose {
            Self::Probe | Self::Inspect => None,
            Self::Read => Some(Claim::READ_LENGTH),
            Self::Copy => Some(Claim::READ),
            Self::Overwrite | Self::Change => Some(Claim::WRITE),
        })
    }

    fn claim_unless(
        self,
        sharing: Sharing,
        claim: impl FnOnce(Self) -> Option<Claim>,
    ) -> Result<Option<Claim>> {
        match (sharing, self) {
            (Sharing::Unlocked, _) => Ok(None),
            (Sharing::Agreed, purpose) => Ok(claim(purpose)),
            (Sharing::Forced, Self::Probe | Self::Inspect) => Ok(None),
            (Sharing::Forced, Self::Read | Self::Copy) => Ok(Some(Claim::READ_SHARED)),
            (Sharing::Forced, Self::Overwrite | Self::Change) => Err(Error::invalid(
                "force-share=on can only be used with read-only images",
            )),
        }
    }
}

/// The rule by which an image is shared with other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Locks deny to others what the purpose denies.
    Agreed,
    /// Others may do anything with an image that is only read: `force-share=on`.
    Forced,
    /// No locks are taken or tested: `locking=off`.
    Unlocked,
}

impl Sharing {
    /// Returns the sharing of the backing files: `force-share=on` holds for them too, but `locking=off` is for one
    /// file only.
    pub fn below(self) -> Self {
        match self {
            Self::Agreed | Self::Unlocked => Self::Agreed,
            Self::Forced => Self::Forced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_not_shared() {
        let expected = "force-share=on can only be used with read-only images";
        for claim in [
            Purpose::claim,
            Purpose::claim_of_plain,
            Purpose::claim_of_data_file,
        ] {
            let refused = claim(Purpose::Change, Sharing::Forced).unwrap_err();
            assert_eq!(refused.to_string(), expected);
        }
    }

    #[test]
    fn plain_bytes_are_shared_unless_copied() {
        let claim = |purpose: Purpose| purpose.claim_of_plain(Sharing::Agreed).unwrap();
        assert_eq!(claim(Purpose::Inspect), None);
        assert_eq!(claim(Purpose::Read), Some(Claim::READ_SHARED));
        assert_eq!(claim(Purpose::Copy), Some(Claim::READ));
        assert_eq!(claim(Purpose::Change), Some(Claim::RESIZE_SHARED));
    }
}
