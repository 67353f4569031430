//! Refusals while the options are still being read.
//!
//! `qemu-img` makes objects and looks at most values as soon as it comes to them. So a value that makes no
//! sense is refused even where the same option follows with a better one, whatever is wrong further right
//! isn't reported, and `--object help` ends the program. Each value is read by the same functions
//! by which the subcommand reads it again, as something typed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::anyhow;

use super::getopt::Mistake;
use super::{Failure, check, convert, objects, operands, print, warn_of_short};
use crate::crypto::Secrets;
use crate::options::list;

/// Why the reading of options ended early.
pub(super) enum Stop {
    /// They break the grammar.
    Mistake(Mistake),
    /// Help was asked for and printed.
    Helped,
    /// A value makes no sense, or an object can't be made; of which subcommand, and of which option.
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
    /// The objects.
    pub(super) secrets: Secrets,
}

impl Reading {
    /// Looks at an option of a subcommand; both by their names in the definition.
    ///
    /// # Errors
    /// It is refused, or was a question for help, which has been answered.
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

    /// Help was asked for.
    fn look(&mut self, subcommand: &str, option: &str, value: &OsStr) -> Result<bool, Failure> {
        // These may be or hold names, which need not be text.
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
            ("create" | "measure", "options") | ("convert", "target_options")
                if !list::is_valid_list(value) =>
            {
                return Err(anyhow!("Invalid option list: {}", value.display()).into());
            }
            _ => {}
        }
        // The rest is refused when all are parsed, unless it is text.
        let Some(value) = value.to_str() else {
            return Ok(false);
        };
        match (subcommand, option) {
            (_, "output") => {
                operands::output(value)?;
            }
            ("check", "repair") => {
                check::repair(value)?;
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
            ("convert", "sparse_size") => {
                convert::sparse_size(value)?;
            }
            ("convert", "parallel") => {
                convert::workers(value)?;
            }
            ("convert", "rate") => {
                operands::size(value, "rate limit")?;
            }
            _ => {}
        }
        Ok(false)
    }
}
