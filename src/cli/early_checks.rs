//! Checks of values while the options are parsed.
//!
//! `qemu-img` creates objects and checks most values while it parses the options. So an invalid value is refused even
//! if the same option follows with a valid one. Mistakes after it aren't reported, and `--object help` ends the
//! program. Each value is parsed by the same functions that the subcommand uses.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::anyhow;

use super::getopt::Mistake;
use super::{Failure, bench, check, convert, map, objects, operands, print, resize, warn_of_short};
use crate::crypto::Secrets;
use crate::error::Error;
use crate::options::list;

/// The reason why the parsing of options ended early.
pub(super) enum Stop {
    /// A mistake in the syntax.
    Mistake(Mistake),
    /// A request for help, which has been printed.
    Helped,
    /// An invalid value or object, with the names of the subcommand and of the option.
    Refused(Failure, String, String),
}

impl From<Mistake> for Stop {
    fn from(mistake: Mistake) -> Self {
        Self::Mistake(mistake)
    }
}

/// Returns the error of an invalid object with a line of help on its form.
fn with_form(error: Error) -> Error {
    let is_form = ["Parameter ", "Either ", "invalid object type"];
    let message = error.to_string();
    if error.hint().is_some() || !is_form.iter().any(|start| message.starts_with(start)) {
        return error;
    }
    error.with_hint(
        "The form is --object secret,id=ID,file=FILE; 'secret,help' lists what else there is",
    )
}

/// The state of the parsing of options.
#[derive(Default)]
pub(super) struct Reading {
    /// The secrets defined so far.
    pub(super) secrets: Secrets,
}

impl Reading {
    /// Checks the value of an option of a subcommand. Both names are those of the definition.
    ///
    /// # Errors
    /// Returns [`Stop::Refused`] if the value is refused, and [`Stop::Helped`] if it asks for help, which has been
    /// printed.
    pub(super) fn option(
        &mut self,
        subcommand: &str,
        option: &str,
        value: &OsStr,
    ) -> Result<(), Stop> {
        match self.look(subcommand, option, value) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Stop::Helped),
            Err(failure) => Err(Stop::Refused(failure, subcommand.into(), option.into())),
        }
    }

    /// Checks a value. Returns true if it asks for help, which has been printed.
    fn look(&mut self, subcommand: &str, option: &str, value: &OsStr) -> Result<bool, Failure> {
        // These values needn't be UTF-8, since they may have names of files.
        match (subcommand, option) {
            (_, "object") => {
                let help = objects::add(&mut self.secrets, value).map_err(with_form)?;
                print(help.as_deref().unwrap_or_default())?;
                return Ok(help.is_some());
            }
            ("measure" | "convert", "snapshot") => {
                if value.as_bytes().starts_with(b"snapshot.") {
                    warn_of_short(value, None);
                }
                convert::snapshot_name(value)?;
            }
            ("amend" | "create" | "measure", "options") | ("convert", "target_options")
                if !list::is_valid_list(value) =>
            {
                return Err(anyhow!("Invalid option list: {}", value.display()).into());
            }
            _ => {}
        }
        // The others must be UTF-8, which is checked after all options have been parsed.
        let Some(value) = value.to_str() else {
            return Ok(false);
        };
        match (subcommand, option) {
            ("map", "output") => {
                map::output(value)?;
            }
            (_, "output") => {
                operands::output(value)?;
            }
            ("check", "repair") => {
                check::repair(value)?;
            }
            ("create" | "convert", "encrypt") => operands::encryption(value)?,
            ("bitmap", "granularity") => {
                operands::size(value, "granularity")?;
            }
            ("map", "start_offset") => {
                operands::size(value, "start offset")?;
            }
            ("map", "max_length") => {
                operands::size(value, "max length")?;
            }
            ("measure", "size") => {
                operands::size(value, "image size")?;
            }
            ("resize", "preallocation") => {
                resize::preallocation(value)?;
            }
            ("convert", "sparse_size") => {
                convert::sparse_size(value)?;
            }
            ("convert", "parallel") => {
                convert::workers(value)?;
            }
            ("convert" | "commit", "rate") => {
                operands::size(value, "rate limit")?;
            }
            ("bench", option) => bench::check_option(option, value)?,
            _ => {}
        }
        Ok(false)
    }
}
