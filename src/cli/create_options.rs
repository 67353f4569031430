//! The `-o` options of each format: their names, how they are printed, and what they mean.
//!
//! [`specs()`] of a format is the one list from which `-o help`, the check of names, and the line
//! `Formatting '…'` are made.

mod specs;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

pub use self::specs::help;

use self::specs::{Kind, Spec, specs};
use crate::commands::{Protocol, measure};
use crate::error::{Error, Result, printable_bytes};
use crate::formats::qcow2::{
    self, Backing, CompressionType, CreateOptions, EncryptionMethod, Version,
};
use crate::formats::{Format, Preallocation};
use crate::options::list::{self, KeyValue};
use crate::units::{SizeError, parse_size};

/// Names the kind of a new image: a format, or the driver of what holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Format(Format),
    Protocol(Protocol),
}

impl Driver {
    /// The driver of that name, if this version has it for new images.
    pub fn from_name(name: &str) -> Option<Self> {
        let protocol = || Protocol::from_name(name).map(Self::Protocol);
        Format::from_name(name).map(Self::Format).or_else(protocol)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Format(format) => format.name(),
            Self::Protocol(protocol) => protocol.name(),
        }
    }

    /// The format of the image: what is named by what holds it is raw.
    pub fn format(self) -> Format {
        match self {
            Self::Format(format) => format,
            Self::Protocol(_) => Format::RAW,
        }
    }

    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Format(_) => None,
            Self::Protocol(protocol) => Some(protocol),
        }
    }
}

impl From<Format> for Driver {
    fn from(format: Format) -> Self {
        Self::Format(format)
    }
}

/// The options of a new image as the user gave them, checked for names and kinds.
#[derive(Debug, Clone)]
pub struct Options {
    driver: Driver,
    values: Vec<Given>,
}

/// An option that was given.
#[derive(Debug, Clone)]
struct Given {
    key: String,
    /// What it is set to: a switch is `on` or `off`, a number has decimal digits.
    value: OsString,
    /// How `Formatting '…'` prints it.
    shown: OsString,
}

impl Options {
    /// Reads the strings that were given with `-o`; of an option given twice the last one counts.
    ///
    /// # Errors
    /// Malformed lists, unknown names, values of the wrong kind.
    pub fn parse(driver: impl Into<Driver>, lists: &[OsString]) -> Result<Self> {
        let driver = driver.into();
        let mut values: Vec<Given> = Vec::new();
        for list in lists {
            for option in list::parse(list, None) {
                let option = normalise(driver, option)?;
                values.retain(|earlier| earlier.key != option.key);
                values.push(option);
            }
        }
        Ok(Self { driver, values })
    }

    /// The value of an option, if it was given. Bytes that are no text mean nothing; only names may have
    /// such, see [`name`](Self::name).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.name(name)
            .map(|value| value.to_str().unwrap_or("\u{fffd}"))
    }

    /// The value of an option that is the name of a file, if it was given.
    pub fn name(&self, name: &str) -> Option<&OsStr> {
        self.given(name).map(|given| given.value.as_os_str())
    }

    fn given(&self, name: &str) -> Option<&Given> {
        self.values.iter().find(|given| given.key == name)
    }

    /// Sets an option, as if it had been given last.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        let value = value.into();
        self.values.retain(|option| option.key != name);
        self.values.push(Given {
            key: name.to_owned(),
            shown: value.clone(),
            value,
        });
    }

    /// The size option in bytes, if it was given. The greatest number there is stands for none.
    pub fn size(&self) -> Option<u64> {
        let size = self.get("size").and_then(|size| size.parse().ok());
        size.filter(|size| *size != u64::MAX)
    }

    /// Sets the size, in bytes.
    pub fn set_size(&mut self, size: u64) {
        self.set("size", size.to_string());
        if let Some(given) = self.values.last_mut() {
            given.shown = signed(size).into();
        }
    }

    /// The line that `create` prints before it starts: options that were given or have a default, in
    /// the format's order. Names have the bytes that they have.
    pub fn formatting_line(&self, filename: &OsStr) -> Vec<u8> {
        let mut line = b"Formatting '".to_vec();
        line.extend(printable_bytes(filename.as_bytes()));
        line.extend(format!("', fmt={}", self.driver.name()).into_bytes());
        for Spec { name, default, .. } in specs(self.driver) {
            let given = self.given(name).map(|given| given.shown.as_os_str());
            if let Some(value) = given.or(default.map(OsStr::new)) {
                line.extend(format!(" {name}=").into_bytes());
                for byte in value.as_bytes() {
                    line.push(*byte);
                    if *byte == b',' {
                        line.push(b',');
                    }
                }
            }
        }
        line
    }

    /// Whether the file's blocks are to be written where they are, by a file system that would rather copy
    /// them.
    ///
    /// # Errors
    /// Another option of file systems is out of range.
    pub fn avoids_copies(&self) -> Result<bool> {
        let hint = self
            .get("extent_size_hint")
            .and_then(|size| size.parse().ok());
        if hint.is_some_and(|size: u64| size > u64::from(u32::MAX)) {
            return Err(Error::invalid("Extent size hint is too large"));
        }
        Ok(self.get("nocow") == Some("on"))
    }

    /// Sets the backing file and its format, as `-b` and `-F` do.
    ///
    /// # Errors
    /// The format has no backing files.
    pub fn set_backing(&mut self, file: Option<&OsStr>, format: Option<&str>) -> Result<()> {
        for (key, value, what) in [
            ("backing_file", file, "Backing file"),
            ("backing_fmt", format.map(OsStr::new), "Backing file format"),
        ] {
            let Some(value) = value else { continue };
            if !specs(self.driver).iter().any(|spec| spec.name == key) {
                return Err(Error::invalid(format!(
                    "{what} not supported for file format '{}'",
                    self.driver.name()
                )));
            }
            self.set(key, value);
        }
        Ok(())
    }

    /// The options of a qcow2 image, but for its size. They are looked at in the order in which QEMU does,
    /// so that of several mistakes the same one is reported.
    ///
    /// # Errors
    /// Values out of range or that exclude each other, worded as `qemu-img` words it.
    pub fn qcow2(&self) -> Result<CreateOptions> {
        let mut options = CreateOptions::new(0);
        self.check_encryption()?;
        if let Some(size) = self.get("cluster_size").and_then(|size| size.parse().ok()) {
            options.cluster_size = size;
        }
        options.version = match self.get("compat") {
            None | Some("1.1" | "v3") => Version::V3,
            Some("0.10" | "v2") => Version::V2,
            Some(other) => return Err(not_accepted("version", other)),
        };
        if let Some(format) = self.get("backing_fmt")
            && !specs::DRIVERS.contains(&format)
        {
            return Err(not_accepted("backing-fmt", format));
        }
        options.encryption = self.encryption()?;
        self.preallocation()?;
        options.lazy_refcounts = self.get("lazy_refcounts") == Some("on");
        options.compression = match self.get("compression_type") {
            None | Some("zlib") => CompressionType::Zlib,
            Some("zstd") => CompressionType::Zstd,
            Some(other) => return Err(not_accepted("compression-type", other)),
        };
        if let Some(bits) = self.get("refcount_bits") {
            options.refcount_bits = bits.parse().unwrap_or(u64::MAX);
        }
        options.backing = self.backing()?;
        options.extended_l2 = self.get("extended_l2") == Some("on");
        options.data_file = self.name("data_file").map(|name| name.as_bytes().to_vec());
        options.data_file_raw = self.get("data_file_raw") == Some("on");
        Ok(options)
    }

    /// What of the options matters to how big the image's file will be. They are read as `qemu-img
    /// measure` reads them, which knows fewer names of versions and looks at nothing else.
    ///
    /// # Errors
    /// Values out of range or that exclude each other; an encryption whose header isn't measured.
    pub fn measured(&self) -> Result<measure::Target> {
        if self.driver.format() == Format::RAW {
            return Ok(measure::Target::Raw);
        }
        let number = |name: &str, default| {
            let value = self.get(name).and_then(|value| value.parse().ok());
            value.unwrap_or(default)
        };
        let defaults = CreateOptions::new(0);
        let mut options = CreateOptions {
            cluster_size: number("cluster_size", defaults.cluster_size),
            extended_l2: self.get("extended_l2") == Some("on"),
            ..defaults.clone()
        };
        options.check()?;
        let allocated = match self.get("preallocation") {
            None | Some("off" | "metadata") => false,
            Some("falloc" | "full") => true,
            Some(other) => {
                return Err(Error::invalid(format!("invalid parameter value: {other}")));
            }
        };
        if self.get("encrypt.format") == Some("luks") {
            return Err(Error::unsupported(
                "encrypt.format=luks is not measured by this version",
            ));
        }
        let version = match self.get("compat") {
            None | Some("1.1") => Version::V3,
            Some("0.10") => Version::V2,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "Invalid compatibility level: '{other}'"
                )));
            }
        };
        options.refcount_bits = number("refcount_bits", defaults.refcount_bits);
        let geometry = options.check()?;
        if version == Version::V2 && options.refcount_bits != defaults.refcount_bits {
            return Err(Error::invalid(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above \
                 (use compat=1.1 or greater)",
            ));
        }
        // A size that is too large is refused although the source's, or that of --size, counts.
        let size = self.get("size").and_then(|size| size.parse::<u64>().ok());
        let size = size.and_then(|size| size.checked_next_multiple_of(geometry.cluster_size()));
        qcow2::measure(geometry, size.unwrap_or(0), 0)?;
        Ok(measure::Target::Qcow2 {
            version,
            geometry,
            allocated,
            backed: self.get("backing_file").is_some(),
        })
    }

    /// The backing file, of which the options don't say how big it is.
    ///
    /// # Errors
    /// A format without a file, or an empty name.
    pub fn backing(&self) -> Result<Option<Backing>> {
        let format = self.get("backing_fmt").map(str::to_owned);
        match (self.name("backing_file"), &format) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::invalid(
                "Backing format cannot be used without backing file",
            )),
            (Some(name), _) if name.is_empty() => Err(Error::invalid(
                "Expected backing file name, got empty string",
            )),
            (Some(name), _) => Ok(Some(Backing {
                name: name.as_bytes().to_vec(),
                format,
                size: u64::MAX,
            })),
        }
    }

    /// How much of the space is taken beforehand.
    ///
    /// # Errors
    /// An unknown mode.
    pub fn preallocation(&self) -> Result<Preallocation> {
        match self.get("preallocation") {
            None => Ok(Preallocation::Off),
            Some(name) => {
                Preallocation::from_name(name).ok_or_else(|| match self.driver.format() {
                    format if format == Format::RAW => {
                        Error::invalid(format!("invalid parameter value: {name}"))
                    }
                    _ => not_accepted("preallocation", name),
                })
            }
        }
    }

    /// What `encryption` says as it was written: only `on` and `off` have a meaning, whatever else a switch
    /// may be.
    fn alias_of_encryption(&self) -> Option<&str> {
        let given = self.given("encryption")?.shown.to_str();
        given.filter(|given| *given != "off")
    }

    /// Whether an encryption is asked for, of whatever format.
    pub fn is_encrypted(&self) -> bool {
        self.get("encrypt.format").is_some() || self.get("encryption") == Some("on")
    }

    fn check_encryption(&self) -> Result<()> {
        if self.get("encrypt.format").is_some() && self.alias_of_encryption().is_some() {
            return Err(Error::invalid(
                "'encrypt.format' and its alias 'encryption' can't be used at the same time",
            ));
        }
        Ok(())
    }

    fn encryption(&self) -> Result<EncryptionMethod> {
        match (self.get("encrypt.format"), self.alias_of_encryption()) {
            (Some("aes" | "qcow"), _) | (None, Some("on")) => Ok(EncryptionMethod::Aes),
            (Some("luks"), _) => Ok(EncryptionMethod::Luks),
            (Some(other), _) | (None, Some(other)) => Err(not_accepted("format", other)),
            (None, None) if self.get("encrypt.key-secret").is_some() => {
                Err(Error::invalid("Parameter 'encrypt.format' is missing"))
            }
            (None, None) => Ok(EncryptionMethod::None),
        }
    }
}

fn not_accepted(parameter: &str, value: &str) -> Error {
    Error::invalid(format!(
        "Parameter '{parameter}' does not accept value '{value}'"
    ))
}

/// A number as `Formatting '…'` prints it: from 2^63 on, QEMU shows it below zero.
fn signed(number: u64) -> String {
    number.cast_signed().to_string()
}

/// Checks an option's name and kind and brings its value into one form.
fn normalise(driver: Driver, option: KeyValue) -> Result<Given> {
    let key = option.key.clone();
    let Some(spec) = specs(driver).iter().find(|spec| spec.name == key) else {
        return Err(Error::invalid(format!("Invalid parameter '{key}'")));
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
            let number = list::parse_number(&value).map_err(|error| match error {
                SizeError::OutOfRange => Error::invalid(format!(
                    "Value '{value}' is too large for parameter '{key}'"
                )),
                SizeError::Malformed => {
                    Error::invalid(format!("Parameter '{key}' expects a number"))
                }
            })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(list: &str) -> Result<Options> {
        Options::parse(Format::QCOW2, &[list.into()])
    }

    fn line(options: &Options) -> String {
        String::from_utf8(options.formatting_line(OsStr::new("x"))).unwrap()
    }

    #[test]
    fn names_have_any_bytes() {
        let list = OsStr::from_bytes(b"data_file=\xff,,\x1b").to_owned();
        let options = Options::parse(Format::QCOW2, &[list]).unwrap();
        let typed = options.qcow2().unwrap();
        assert_eq!(typed.data_file.unwrap(), b"\xff,\x1b");
        let line = options.formatting_line(OsStr::from_bytes(b"\xfe\x1b"));
        assert!(line.starts_with(b"Formatting '\xfe\\u{1b}', fmt=qcow2 "));
        let shown = b" data_file=\xff,,\x1b ";
        assert!(line.windows(shown.len()).any(|part| part == shown));
    }

    #[test]
    fn formatting_line_has_given_options_and_defaults_in_order() {
        let mut options = qcow2("compat=v3,encryption,encrypt.key-secret=a,,b").unwrap();
        options.set_size(1_048_576);
        assert_eq!(
            line(&options),
            "Formatting 'x', fmt=qcow2 encryption=on encrypt.key-secret=a,,b cluster_size=65536 \
             extended_l2=off compression_type=zlib size=1048576 compat=v3 lazy_refcounts=off \
             refcount_bits=16"
        );
    }

    #[test]
    fn values_are_shown_as_qemu_img_shows_them() {
        let line = |list: &str| line(&qcow2(list).unwrap());
        for (list, shown) in [
            ("lazy_refcounts=yes", "lazy_refcounts=yes"),
            ("extended_l2", "extended_l2=on"),
            ("cluster_size=0x1000", "cluster_size=4096"),
            ("refcount_bits=0x10", "refcount_bits=16"),
            ("refcount_bits=020", "refcount_bits=16"),
            ("refcount_bits=-18446744073709551608", "refcount_bits=8"),
            ("refcount_bits=-1", "refcount_bits=-1"),
        ] {
            assert!(line(list).contains(shown), "{}", line(list));
        }
        let options = qcow2("lazy_refcounts=y").unwrap().qcow2().unwrap();
        assert!(options.lazy_refcounts);
        for bits in ["4294967312", "-1"] {
            let options = qcow2(&format!("refcount_bits={bits}")).unwrap();
            assert!(options.qcow2().unwrap().check().is_err(), "{bits}");
        }
    }

    #[test]
    fn the_last_of_repeated_options_counts() {
        let lists = ["cluster_size=512".into(), "cluster_size=4k".into()];
        let options = Options::parse(Format::QCOW2, &lists).unwrap();
        assert_eq!(options.qcow2().unwrap().cluster_size, 4096);
    }

    #[test]
    fn mistakes_are_named() {
        for (list, message) in [
            ("foo=1", "Invalid parameter 'foo'"),
            (
                "lazy_refcounts=maybe",
                "'lazy_refcounts' expects 'on' or 'off'",
            ),
            (
                "cluster_size=abc",
                "'cluster_size' expects a non-negative number",
            ),
            ("compat=7", "Parameter 'version' does not accept value '7'"),
            ("encrypt.format=foo", "'format' does not accept value 'foo'"),
            ("encryption=yes", "'format' does not accept value 'yes'"),
            ("encryption=n", "'format' does not accept value 'n'"),
            (
                "backing_fmt=nope",
                "'backing-fmt' does not accept value 'nope'",
            ),
            (
                "encrypt.key-secret=s",
                "Parameter 'encrypt.format' is missing",
            ),
            (
                "encryption,encrypt.format=aes",
                "can't be used at the same time",
            ),
            (
                "backing_fmt=raw",
                "Backing format cannot be used without backing file",
            ),
        ] {
            let result = qcow2(list).and_then(|options| options.qcow2());
            let text = result.unwrap_err().to_string();
            assert!(text.contains(message), "{list}: {text}");
        }
    }
}
