//! The subcommand `check`: a check of an image's metadata, and with `-r` its repair.

use super::{Purpose, sandbox};
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair};
use crate::formats::driver::Load;
use crate::nodes::Node;

/// The outcome of a check.
#[derive(Debug)]
pub enum CheckOutcome {
    /// The report of a check.
    Checked {
        /// The image's format.
        format: Format,
        /// The numbers of findings. After a repair that changed something they are those of a second check, with the
        /// numbers of repairs.
        report: CheckReport,
    },
    /// The answer of a format without a check, or without a repair.
    NoCheck {
        /// The image's format.
        format: Format,
    },
}

/// A line about a finding.
pub struct CheckLine<'a> {
    /// The text.
    pub text: &'a CheckEvent<'a>,
    /// True if `qemu-img` prints its name in front of the text.
    pub is_complaint: bool,
}

/// Checks an image, and repairs the wanted kinds of damage. `on_line` is called with each finding.
///
/// # Errors
/// Returns an error if the image can't be opened, or `Check failed: …` if the check can't be completed.
pub fn run(
    source: &Node<'_>,
    what: Option<Repair>,
    on_line: &mut dyn FnMut(&CheckLine<'_>),
) -> Result<CheckOutcome> {
    let purpose = match what {
        Some(_) => Purpose::Change,
        None => Purpose::Read,
    };
    let opened = source.open_file(purpose)?;
    let could_not_open = |error: Error| error.context(format!("Could not open '{}'", source.name));
    let mut image = opened.load(Load::Check).map_err(could_not_open)?;
    let attached = source.attach(image.as_mut(), purpose);
    attached.map_err(could_not_open)?;
    let can_check = |check: &dyn Check| what.is_none() || check.repairs();
    if !image.check().is_some_and(can_check) {
        sandbox::all_is_open(source);
        image.refuse_truncated().map_err(could_not_open)?;
        return Ok(CheckOutcome::NoCheck {
            format: opened.format,
        });
    }
    sandbox::all_is_open(source);
    source
        .accept(image.as_mut(), &opened.options)
        .map_err(could_not_open)?;
    let Some(check) = image.check() else {
        return Ok(CheckOutcome::NoCheck {
            format: opened.format,
        });
    };
    let is_complaint = check.complains();
    let mut on_event = |text: &CheckEvent<'_>| on_line(&CheckLine { text, is_complaint });
    let report = match what {
        None => check.check(&mut on_event),
        Some(what) => check.repair(what, &mut on_event),
    };
    let report = report.map_err(|error| error.context("Check failed"))?;
    Ok(CheckOutcome::Checked {
        format: opened.format,
        report,
    })
}
