//! Refusals while the options are still being read.
//!
//! `qemu-img` makes objects and looks at most values as soon as it comes to them. So a value that makes no
//! sense is refused even where the same option follows with a better one. A mistake further right isn't
//! reported, and `--object help` ends the program. Each value is parsed by the same functions by which the
//! subcommand parses it again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::anyhow;

use super::getopt::Mistake;
use super::{Failure, bench, check, convert, map, objects, operands, print, resize, warn_of_short};
use crate::crypto::Secrets;
use crate::options::list;

/// The reason for which the reading of options ended early.
pub(super) enum Stop {
    /// A mistake in the grammar.
    Mistake(Mistake),
    /// A question for help, which has been answered.
    Helped,
    /// A value that makes no sense, or an object that can't be made; the subcommand; and the option.
    Refused(Failure, String, String),
}

impl From<Mistake> for Stop {
    fn from(mistake: Mistake) -> Self {
        Self::Mistake(mistake)
    }
}

/// The state of the options as they are read.
#[derive(Default)]
pub(super) struct Reading {
    /// The secrets defined so far.
    pub(super) secrets: Secrets,
}

impl Reading {
    /// Checks the value of an option of a subcommand. Both names are those of the definition.
    ///
    /// # Errors
    /// Returns [`Stop::Refused`] if the value is refused, and [`Stop::Helped`] if it asks for help, which is
    /// then printed.
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

    /// Checks a value. Returns true if it asked for help, which is then printed.
    fn look(&mut self, subcommand: &str, option: &str, value: &OsStr) -> Result<bool, Failure> {
        // The values of these need not be text: they may be or hold names.
        match (subcommand, option) {
            (_, "object") => {
                let help = objects::add(&mut self.secrets, value)?;
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
        // The others have to be text, which is checked when all options are parsed.
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
