//! The format's options of a node. The format takes those that it knows, and the rest is refused.
//!
//! Without a given format they can't be checked yet. They are kept unparsed until the file has been probed.

use crate::error::{Error, Result};
use crate::formats::{FORMATS, Format};
use crate::options::{Tree, Values};

/// The options for the format of a node.
#[derive(Debug, Clone)]
pub enum NodeOptions {
    /// Options that the format has checked.
    Taken(Values),
    /// Options of a format that isn't known yet.
    Unread(Tree),
}

impl Default for NodeOptions {
    fn default() -> Self {
        // Any format accepts an empty tree.
        Self::Unread(Tree::default())
    }
}

impl NodeOptions {
    /// Returns true if an option of this name is given.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Taken(values) => values.text(name).is_some(),
            Self::Unread(tree) => tree.has(name),
        }
    }

    /// Returns the options as checked values of `format`.
    ///
    /// # Errors
    /// Returns an error if a value is invalid, or names an option that the format doesn't know.
    pub fn of(&self, format: Format) -> Result<Values> {
        match self {
            Self::Taken(values) => Ok(values.clone()),
            Self::Unread(tree) => take_options(format, tree.clone()),
        }
    }
}

/// Takes all options out of a tree as options of `format`.
///
/// # Errors
/// Returns an error if a value is invalid, or if the format doesn't know one of the options.
pub(super) fn take_options(format: Format, mut tree: Tree) -> Result<Values> {
    let values = Values::of_tree(&[format.open_options()], &mut tree)?;
    format.check_options(&values)?;
    match tree.first() {
        None => Ok(values),
        Some((key, _)) => Err(unsupported_option(format, key)),
    }
}

/// Returns the error for an option that a format doesn't know.
pub(super) fn unsupported_option(format: Format, option: &str) -> Error {
    Error::invalid(format!(
        "Block format '{format}' does not support the option '{option}'"
    ))
}

/// Returns the first format that has options with all of these names.
pub(super) fn format_with(keys: &[&str]) -> Option<Format> {
    let has = |format: &Format, key: &str| {
        let mut specs = format.open_options().iter();
        specs.any(|spec| spec.name == key)
    };
    let mut formats = FORMATS.iter().copied();
    formats.find(|format| keys.iter().all(|key| has(format, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_takes_its_options_and_no_others() {
        for format in FORMATS.iter().copied() {
            let taken = |list: &str| {
                let taken = NodeOptions::Unread(Tree::from_list(list, "file")).of(format);
                taken.map_err(|error| error.to_string())
            };
            let unknown = format!("Block format '{format}' does not support the option 'zoo'");
            assert_eq!(taken("zoo=1").unwrap_err(), unknown);
            for other in FORMATS {
                for name in other.shown_options() {
                    let knows = format.open_options().iter().any(|spec| spec.name == *name);
                    let list = format!("{name}=1");
                    // The value may be wrong for all that.
                    let is_unknown = taken(&list)
                        .err()
                        .is_some_and(|message| message.contains("does not support the option"));
                    assert_eq!(!is_unknown, knows, "{format}: {list}");
                }
            }
        }
    }
}
