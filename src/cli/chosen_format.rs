//! The format of a new image, as it was chosen: hints at other formats, and at the options and values of this one.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::path::Path;

use super::warn;
use crate::commands::Driver;
use crate::error::{Error, ErrorKind};
use crate::formats::{FORMATS, Format};
use crate::options::spec::united;
use crate::options::{list, similar};

/// The format of a new image, as it was chosen.
#[derive(Clone, Copy)]
pub(super) struct ChosenFormat<'a> {
    /// The option that chooses it.
    pub(super) option: &'static str,
    /// The value of the option, if it was given.
    pub(super) given: Option<&'a str>,
}

impl ChosenFormat<'_> {
    /// Returns the error for a wish that the format can't fulfil, with a hint at the formats for which `fits` is true.
    /// Often the option is missing, and the format is the default one.
    pub(super) fn refuse(self, message: String, fits: impl Fn(Format) -> bool) -> Error {
        let option = self.option;
        let mut able: Vec<&str> = formats_with(fits).collect();
        able.sort_unstable();
        let able = able.join(", ");
        let error = Error::invalid(message);
        match (self.given, able.is_empty()) {
            (_, true) => error,
            (None, false) => error.with_hint(format!(
                "The format is {}, since there is no {option}; these can do it: {able}",
                Format::RAW
            )),
            (Some(_), false) => error.with_hint(format!("Formats that can do it: {able}")),
        }
    }

    /// Returns the error for wrong lists of `-o` with a hint: at other formats that have the unknown option, or at the list
    /// of options.
    pub(super) fn with_options(self, error: Error, driver: Driver, lists: &[OsString]) -> Error {
        if error.hint().is_some() {
            return error;
        }
        let own = united(&driver.create_options());
        let given = lists.iter().flat_map(|list| list::parse(list, None));
        let mut unknown = given.filter(|option| own.iter().all(|spec| spec.name != option.key));
        if let Some(option) = unknown.next() {
            let refused = self.refuse(error.to_string(), |format| has_option(format, &option.key));
            if refused.hint().is_some() {
                return refused;
            }
        }
        let option = self.option;
        error.with_hint(format!(
            "Try '{option} {} -o help' for the options",
            driver.name()
        ))
    }

    /// Warns at a terminal if a raw image gets the file name extension of another format, because no format was given.
    pub(super) fn warn_of_name(self, name: &OsStr) {
        let extension = Path::new(name).extension().and_then(OsStr::to_str);
        let extension = extension.unwrap_or_default().to_lowercase();
        let usual = similar::format_of_other_name(&extension).unwrap_or(&extension);
        let format = Format::from_name(usual).filter(|format| *format != Format::RAW);
        if let (Some(format), None) = (format, self.given)
            && io::stderr().is_terminal()
        {
            let option = self.option;
            warn(&format!(
                "'{}' becomes a raw image, since no format was given; '{option} {format}' makes a {format} image",
                name.display()
            ));
        }
    }
}

/// Returns true if new images of a format have an option.
pub(super) fn has_option(format: Format, name: &str) -> bool {
    let own = format.create_options();
    own.iter().any(|spec| spec.name == name)
}

/// Returns the names of the formats in which new images can be made, and for which `fits` is true.
pub(super) fn formats_with(fits: impl Fn(Format) -> bool) -> impl Iterator<Item = &'static str> {
    let formats = FORMATS.iter().copied();
    let fitting = formats
        .filter(move |format| Driver::Format(*format).check_creates().is_ok() && fits(*format));
    fitting.map(|format| format.name())
}

/// Returns the error of making a new image with a hint at the values of an option, if one of the lists of `-o` has
/// another value.
pub(super) fn with_values(error: Error, driver: Driver, lists: &[OsString]) -> Error {
    if error.kind() != ErrorKind::Invalid || error.hint().is_some() {
        return error;
    }
    let specs = united(&driver.create_options());
    for option in lists.iter().flat_map(|list| list::parse(list, None)) {
        let spec = specs.iter().find(|spec| spec.name == option.key);
        let values = spec.map(|spec| spec.values()).unwrap_or_default();
        let key = option.key.clone();
        let value = option.text();
        if !values.is_empty() && !values.contains(&&*value) {
            let values = values.join(", ");
            return error.with_hint(format!("The values of '{key}' are {values}"));
        }
    }
    error
}
