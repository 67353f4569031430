//! `check`: is the image consistent in itself? And if not, with `-r`, is made so.

use super::{Purpose, Source};
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::formats::qcow2::check::Event;
use crate::formats::qcow2::{self, CheckReport, Repair};

/// What a check says.
#[derive(Debug)]
pub enum Outcome {
    /// The image was checked.
    Checked {
        /// The image's format.
        format: Format,
        /// What was found, in numbers; after a repair that changed something, what a second check
        /// found, with what was repaired.
        report: CheckReport,
    },
    /// The format has nothing that could be checked.
    NoCheck,
}

/// Checks an image, and repairs what is to be repaired; `on_event` is told of everything that is wrong.
///
/// # Errors
/// The image can't be opened, or the check can't be completed (`Check failed: …`).
pub fn run(
    source: &Source<'_>,
    what: Option<Repair>,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    let opened = source.open_file(match what {
        Some(_) => Purpose::Change,
        None => Purpose::Read,
    })?;
    if opened.format == Format::Raw {
        return Ok(Outcome::NoCheck);
    }
    source.all_is_open();
    let storage = opened.storage.as_ref();
    let read_header = || {
        qcow2::Header::read_for_check(storage)
            .and_then(|header| {
                header.check_data_file_raw()?;
                source.check_header(&header)?;
                Ok(header)
            })
            .map_err(|error| error.context(format!("Could not open '{}'", source.name)))
    };
    let failed = |error: Error| error.context("Check failed");
    let header = read_header()?;
    source.warn_of(&header);
    let report = match what {
        None => qcow2::check(storage, &header, on_event).map_err(failed)?,
        Some(what) => {
            let repaired = qcow2::repair(storage, &header, what, on_event).map_err(failed)?;
            if repaired.leaks_fixed == 0 && repaired.corruptions_fixed == 0 {
                repaired
            } else {
                let again = qcow2::check(storage, &read_header()?, on_event).map_err(failed)?;
                CheckReport {
                    leaks_fixed: repaired.leaks_fixed,
                    corruptions_fixed: repaired.corruptions_fixed,
                    ..again
                }
            }
        }
    };
    Ok(Outcome::Checked {
        format: opened.format,
        report,
    })
}
