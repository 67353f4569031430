//! The options of a driver, checked against its specs: the names are known, and the values have the right kind.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::list::{self, KeyValue};
use super::similar;
use super::spec::{Kind, OptionSpec, united};
use super::tree::Tree;
use crate::error::{Error, Result, printable_bytes};
use crate::units::{SizeError, parse_size};

/// The options that were given to a driver. The last value of a repeated option counts.
#[derive(Debug, Clone, Default)]
pub struct Values {
    specs: Vec<&'static OptionSpec>,
    given: Vec<Given>,
}

/// An option that was given.
#[derive(Debug, Clone)]
struct Given {
    key: String,
    /// The normalised value: a switch is `on` or `off`, a number has decimal digits.
    value: OsString,
    /// The form in which `Formatting '…'` prints it.
    shown: OsString,
}

impl Values {
    /// Parses lists such as those of `-o`, for drivers with these options.
    ///
    /// # Errors
    /// Returns an error if a name isn't known or a value is of the wrong kind.
    pub fn of_lists(specs: &[&'static [OptionSpec]], lists: &[OsString]) -> Result<Self> {
        let specs = united(specs);
        let mut given: Vec<Given> = Vec::new();
        for list in lists {
            for option in list::parse(list, None) {
                let option = normalise(&specs, option)?;
                given.retain(|earlier| earlier.key != option.key);
                given.push(option);
            }
        }
        Ok(Self { specs, given })
    }

    /// Takes a driver's options out of the tree of a node; the others stay there.
    ///
    /// # Errors
    /// Returns an error if a value is of the wrong kind.
    pub fn of_tree(specs: &[&'static [OptionSpec]], tree: &mut Tree) -> Result<Self> {
        let mut values = Self {
            specs: united(specs),
            given: Vec::new(),
        };
        for spec in united(specs) {
            let name = spec.name;
            let value = match spec.kind {
                Kind::Text => tree.take_name(name),
                Kind::Switch => {
                    let on = tree.take_switch(name)?;
                    on.map(|on| if on { "on" } else { "off" }.into())
                }
                Kind::Size => tree.take_size(name)?.map(|size| size.to_string().into()),
                Kind::Number => {
                    let given = tree.take_text(name);
                    let number = given.map(|text| number(name, &text)).transpose()?;
                    number.map(|number| number.to_string().into())
                }
            };
            if let Some(value) = value {
                values.set(name, value);
            }
        }
        Ok(values)
    }

    /// Returns true if the specs have an option of that name, given or not.
    pub fn knows(&self, name: &str) -> bool {
        self.specs.iter().any(|spec| spec.name == name)
    }

    /// Returns the value of an option. Bytes that are no UTF-8 become text that matches nothing; only names
    /// may have such, see [`name`](Self::name).
    pub fn text(&self, name: &str) -> Option<&str> {
        self.name(name)
            .map(|value| value.to_str().unwrap_or("\u{fffd}"))
    }

    /// Returns the value of an option that is the name of a file.
    pub fn name(&self, name: &str) -> Option<&OsStr> {
        self.given(name).map(|given| given.value.as_os_str())
    }

    /// Returns the value of a switch.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "on")
    }

    /// Returns the value of a size or number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(|value| value.parse().ok())
    }

    /// Returns the value as it was written.
    pub fn as_written(&self, name: &str) -> Option<&str> {
        self.given(name)?.shown.to_str()
    }

    fn given(&self, name: &str) -> Option<&Given> {
        self.given.iter().find(|given| given.key == name)
    }

    /// Sets an option, as if it had been given last.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        let value = value.into();
        self.given.retain(|option| option.key != name);
        self.given.push(Given {
            key: name.to_owned(),
            shown: value.clone(),
            value,
        });
    }

    /// Returns the option `size` in bytes. The value 2^64 − 1 means that it isn't given.
    pub fn size(&self) -> Option<u64> {
        self.number("size").filter(|size| *size != u64::MAX)
    }

    /// Sets the option `size`, in bytes.
    pub fn set_size(&mut self, size: u64) {
        self.set("size", size.to_string());
        if let Some(given) = self.given.last_mut() {
            given.shown = signed(size).into();
        }
    }

    /// Returns the line that `create` prints before it starts: options that were given or have a default, in
    /// the order of the specs. The bytes of names are kept.
    pub fn formatting_line(&self, filename: &OsStr, driver: &str) -> Vec<u8> {
        let mut line = b"Formatting '".to_vec();
        line.extend(printable_bytes(filename.as_bytes()));
        line.extend(format!("', fmt={driver}").into_bytes());
        for (name, value) in self.shown() {
            line.extend(format!(" {name}=").into_bytes());
            for byte in value.as_bytes() {
                line.push(*byte);
                if *byte == b',' {
                    line.push(b',');
                }
            }
        }
        line
    }

    /// Returns the options that were given or have a default, in the order of the specs, with their values as they are
    /// shown.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.specs.iter().filter_map(|spec| {
            let given = self.given(spec.name).map(|given| given.shown.as_os_str());
            Some((spec.name, given.or(spec.default.map(OsStr::new))?))
        })
    }
}

/// Returns the error for an invalid value of a parameter, in the words of QEMU's visitors.
pub fn not_accepted(parameter: &str, value: &str) -> Error {
    Error::invalid(format!(
        "Parameter '{parameter}' does not accept value '{value}'"
    ))
}

/// Returns the value of an option that accepts only `values`.
///
/// # Errors
/// Returns an error, in QEMU's words, if it has another value.
pub fn one_of<T: AsRef<str>>(value: Option<T>, values: &[&str]) -> Result<Option<T>> {
    match value.as_ref().map(T::as_ref) {
        Some(other) if !values.contains(&other) => {
            Err(Error::invalid(format!("invalid parameter value: {other}")))
        }
        _ => Ok(value),
    }
}

/// Formats a number as `Formatting '…'` prints it: from 2^63 on, QEMU shows it as a negative one.
fn signed(number: u64) -> String {
    number.cast_signed().to_string()
}

/// Parses the value of an option that is a number.
fn number(key: &str, value: &str) -> Result<u64> {
    list::parse_number(value).map_err(|error| match error {
        SizeError::OutOfRange => Error::invalid(format!(
            "Value '{value}' is too large for parameter '{key}'"
        )),
        SizeError::Malformed => Error::invalid(format!("Parameter '{key}' expects a number")),
    })
}

/// Checks an option's name and kind, and normalises its value.
fn normalise(specs: &[&OptionSpec], option: KeyValue) -> Result<Given> {
    let key = option.key.clone();
    let Some(spec) = specs.iter().find(|spec| spec.name == key) else {
        let unknown = Error::invalid(format!("Invalid parameter '{key}'"));
        let known = specs.iter().map(|spec| spec.name);
        return Err(unknown.with_hints(similar::question(&key, known)));
    };
    if spec.kind == Kind::Text {
        return Ok(Given {
            key,
            shown: option.value.clone(),
            value: option.value,
        });
    }
    let value = option.text();
    let mut shown = None;
    let value = match spec.kind {
        Kind::Text => value,
        Kind::Switch => {
            let on = match value.as_str() {
                "on" | "yes" | "true" | "y" => "on",
                "off" | "no" | "false" | "n" => "off",
                _ => {
                    return Err(Error::invalid(format!(
                        "Parameter '{key}' expects 'on' or 'off'"
                    )));
                }
            };
            shown = Some(value);
            on.to_owned()
        }
        Kind::Size => {
            let size = parse_size(&value);
            let size = size.map_err(|error| list::no_size(&key, &value, error))?;
            shown = Some(signed(size));
            size.to_string()
        }
        Kind::Number => {
            let number = number(&key, &value)?;
            shown = Some(signed(number));
            number.to_string()
        }
    };
    Ok(Given {
        shown: shown.unwrap_or_else(|| value.clone()).into(),
        key,
        value: value.into(),
    })
}
