//! `check`: is the image consistent in itself?

use super::Source;
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::formats::qcow2::check::Event;
use crate::formats::qcow2::{self, CheckReport};

/// What a check says.
#[derive(Debug)]
pub enum Outcome {
    /// The image was checked.
    Checked {
        /// The image's format.
        format: Format,
        /// What was found, in numbers.
        report: CheckReport,
    },
    /// The format has nothing that could be checked.
    NoCheck,
}

/// Checks an image; `on_event` is told of everything that is wrong.
///
/// # Errors
/// The image can't be opened, or the check can't be completed (`Check failed: …`).
pub fn run(source: &Source<'_>, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
    let opened = source.open_file()?;
    match opened.format {
        Format::Raw => Ok(Outcome::NoCheck),
        Format::Qcow2 => {
            let storage = opened.file.as_ref();
            let header = qcow2::Header::read(storage)
                .map_err(|error| error.context(format!("Could not open '{}'", source.name)))?;
            let report = qcow2::check(storage, &header, on_event)
                .map_err(|error: Error| error.context("Check failed"))?;
            Ok(Outcome::Checked {
                format: opened.format,
                report,
            })
        }
    }
}
