//! The purpose for which an image is opened: it decides what others may do with it meanwhile, unless that is
//! overruled.
//!
//! The rules are those that `qemu-img` shows under `strace`, so that both tools refuse the same.

use super::Claim;
use crate::error::{Error, Result};

/// The ways in which a storage is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only; nothing is ever changed.
    Read,
    /// Reading and writing of what is there.
    ReadWrite,
}

/// The purposes for which an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Finding out its format and size, and nothing else.
    Probe,
    /// Looking at its header.
    Inspect,
    /// Looking at all of it.
    Read,
    /// Copying it, so that it must stay what it is.
    Copy,
    /// Writing over what it holds: a plain file keeps its length.
    Overwrite,
    /// Changing it where it is, its length too.
    Change,
}

impl Purpose {
    /// Returns the access for which its files are opened.
    pub fn access(self) -> Access {
        match self {
            Self::Probe | Self::Inspect | Self::Read | Self::Copy => Access::Read,
            Self::Overwrite | Self::Change => Access::ReadWrite,
        }
    }

    /// The claim on a file that holds an image with metadata.
    ///
    /// # Errors
    /// Returns an error if it is changed and shared by force.
    pub fn claim(self, sharing: Sharing) -> Result<Option<Claim>> {
        self.claim_unless(sharing, |purpose| match purpose {
            Self::Probe => None,
            Self::Inspect => Some(Claim::READ_METADATA),
            Self::Read | Self::Copy => Some(Claim::READ),
            Self::Overwrite | Self::Change => Some(Claim::WRITE),
        })
    }

    /// Returns the claim on a file whose bytes are the disk itself. Others may use such a file too, unless it
    /// is copied.
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

/// The part that others leave to whoever opened an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Others keep from it what its purpose says: that is what the locks are for.
    Agreed,
    /// Others may do what they like with an image that is only read.
    Forced,
    /// Nobody is asked or told anything.
    Unlocked,
}

impl Sharing {
    /// The sharing of the images below: force holds for them, but locks are left out for one file only.
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
