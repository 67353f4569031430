//! The subcommand `bench`: the time that an image takes for many requests of one kind.
//!
//! The time excludes opening the image, and storing its metadata at the end.

mod plan;
mod requests;

use std::time::Duration;

pub use self::plan::RequestPlan;

use self::requests::{RequestRun, Requests};
use super::{Passwords, Purpose};
use crate::error::Result;
use crate::formats::WritableImage;
use crate::nodes::{Disk, Node, WritableFile, WriteAccess};

/// An open image to be measured.
pub struct Measurable<'a> {
    plan: RequestPlan,
    open: Opened<'a>,
}

enum Opened<'a> {
    Reading(Disk),
    Writing {
        image: Box<dyn WritableImage>,
        /// Keeps the files open and their locks taken.
        _file: WritableFile<'a>,
    },
}

impl<'a> Measurable<'a> {
    /// Opens an image for the requests of a plan.
    ///
    /// # Errors
    /// Returns an error as [`Node::open`] does, or if the image can't be written.
    pub fn open(
        node: &'a Node<'a>,
        plan: RequestPlan,
        passwords: &'a dyn Passwords,
    ) -> Result<Self> {
        let open = match plan.pattern {
            None => Opened::Reading(node.open(Purpose::Read, passwords)?),
            Some(_) => {
                let access = WriteAccess::to_change(node.policy.cache.flushes());
                let file = node.open_to_write(&access, passwords)?;
                Opened::Writing {
                    image: file.image.open_writable(file.parts.clone())?,
                    _file: file,
                }
            }
        };
        Ok(Self { plan, open })
    }

    /// Does the requests, and returns the time that they took.
    ///
    /// # Errors
    /// Returns the first request's error, as `Failed request: …`, or an error if there is no memory for the requests.
    pub fn run(&self) -> Result<Duration> {
        let requests = match &self.open {
            Opened::Reading(disk) => Requests::Reads(disk.image.as_ref()),
            Opened::Writing { image, .. } => Requests::Writes(image.as_ref()),
        };
        let time = RequestRun::new(self.plan, requests).run()?;
        if let Opened::Writing { image, .. } = &self.open {
            image.close()?;
        }
        Ok(time)
    }
}
