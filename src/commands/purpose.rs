//! What an image is opened for: it decides what others may do with it meanwhile, unless that is
//! overruled.
//!
//! The rules are those that `qemu-img` shows under `strace`, so that both tools refuse the same.

use crate::error::{Error, Result};
use crate::formats::Format;
use crate::storage::{Access, Claim};

/// What an image is opened for.
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
    /// Changing it where it is, its length too.
    Change,
}

impl Purpose {
    /// How its files are opened.
    pub(super) fn access(self) -> Access {
        match self {
            Self::Probe | Self::Inspect | Self::Read | Self::Copy => Access::Read,
            Self::Change => Access::ReadWrite,
        }
    }

    /// What is said to others of the file that holds it. A raw image is nobody's in particular unless
    /// it is copied.
    ///
    /// # Errors
    /// What is changed can't be shared by force.
    pub(super) fn claim(self, format: Format, sharing: Sharing) -> Result<Option<Claim>> {
        let nobodys = format.capabilities().transparent;
        self.claim_unless(sharing, |purpose| match purpose {
            Self::Probe => None,
            Self::Inspect => (!nobodys).then_some(Claim::READ_METADATA),
            Self::Read if nobodys => Some(Claim::READ_SHARED),
            Self::Read | Self::Copy => Some(Claim::READ),
            Self::Change if nobodys => Some(Claim::RESIZE_SHARED),
            Self::Change => Some(Claim::WRITE),
        })
    }

    /// What is said to others of its external data file, whose length the image relies on.
    ///
    /// # Errors
    /// As [`Purpose::claim`].
    pub(super) fn claim_of_data_file(self, sharing: Sharing) -> Result<Option<Claim>> {
        self.claim_unless(sharing, |purpose| match purpose {
            Self::Probe | Self::Inspect => None,
            Self::Read => Some(Claim::READ_LENGTH),
            Self::Copy => Some(Claim::READ),
            Self::Change => Some(Claim::WRITE),
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
            (Sharing::Forced, Self::Change) => Err(Error::invalid(
                "force-share=on can only be used with read-only images",
            )),
        }
    }
}

/// Whether others keep from an image what its purpose says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// They do: that is what the locks are for.
    Agreed,
    /// They may do what they like with an image that is only read.
    Forced,
    /// Nobody is asked or told anything.
    Unlocked,
}

impl Sharing {
    /// What holds for the images below: force does, but locks are left out for one file only.
    pub(super) fn below(self) -> Self {
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
        let refused = Purpose::Change
            .claim(Format::from_name("qcow2").unwrap(), Sharing::Forced)
            .unwrap_err();
        assert_eq!(refused.to_string(), expected);
        let refused = Purpose::Change
            .claim_of_data_file(Sharing::Forced)
            .unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn raw_images_are_shared_unless_copied() {
        let claim = |purpose: Purpose| purpose.claim(Format::RAW, Sharing::Agreed).unwrap();
        assert_eq!(claim(Purpose::Inspect), None);
        assert_eq!(claim(Purpose::Read), Some(Claim::READ_SHARED));
        assert_eq!(claim(Purpose::Copy), Some(Claim::READ));
        assert_eq!(claim(Purpose::Change), Some(Claim::RESIZE_SHARED));
    }
}
