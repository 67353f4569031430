//! The options of a new VMDK image as data, and their interpretation.
//!
//! They are checked in QEMU's order, so that of several errors the same one is reported.

use std::os::unix::ffi::OsStrExt as _;

use crate::error::{Error, Result};
use crate::formats::driver::Backing;
use crate::options::{Kind, OptionSpec, Values};

/// The value of `hwversion` that means none.
const UNDEFINED: &str = "undefined";

/// The options.
pub(super) const CREATE_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("size", Kind::Size, "Virtual disk size"),
    OptionSpec::new(
        "adapter_type",
        Kind::Text,
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
    ),
    OptionSpec::new("backing_file", Kind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", Kind::Text, "Must be 'vmdk' if present"),
    OptionSpec::new("compat6", Kind::Switch, "VMDK version 6 image").with_default("off"),
    OptionSpec::new("hwversion", Kind::Text, "VMDK hardware version").with_default(UNDEFINED),
    OptionSpec::new(
        "subformat",
        Kind::Text,
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | \
         twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
    ),
    OptionSpec::new("toolsversion", Kind::Text, "VMware guest tools version"),
    OptionSpec::new(
        "zeroed_grain",
        Kind::Switch,
        "Enable efficient zero writes using the zeroed-grain GTE feature",
    ),
];

/// The create types of new images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subformat {
    MonolithicSparse,
    MonolithicFlat,
    SplitSparse,
    SplitFlat,
    Stream,
}

impl Subformat {
    const ALL: [Self; 5] = [
        Self::MonolithicSparse,
        Self::MonolithicFlat,
        Self::SplitSparse,
        Self::SplitFlat,
        Self::Stream,
    ];

    /// Returns the create type in the descriptor.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::SplitSparse => "twoGbMaxExtentSparse",
            Self::SplitFlat => "twoGbMaxExtentFlat",
            Self::Stream => "streamOptimized",
        }
    }

    /// Returns true if its extents are flat.
    pub(super) fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::SplitFlat)
    }

    /// Returns true if its descriptor is embedded in the file of the only extent.
    pub(super) fn is_embedded(self) -> bool {
        matches!(self, Self::MonolithicSparse | Self::Stream)
    }
}

/// The checked options of a new image.
#[derive(Debug, Clone)]
pub(super) struct VmdkOptions {
    pub(super) subformat: Subformat,
    pub(super) adapter: String,
    pub(super) hardware: String,
    pub(super) tools: String,
    pub(super) zeroed_grain: bool,
    pub(super) backing: Option<Backing>,
}

impl VmdkOptions {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if a value is invalid, or if options exclude each other.
    pub(super) fn of(values: &Values) -> Result<Self> {
        let wrong = |value: &str| Error::invalid(format!("invalid parameter value: {value}"));
        let backing = Backing::of(values)?;
        let adapter = values.text("adapter_type").unwrap_or("ide");
        let hardware = values.text("hwversion").filter(|value| *value != UNDEFINED);
        let compat6 = values.switch("compat6") == Some(true);
        if compat6 && hardware.is_some() {
            return Err(Error::invalid(
                "compat6 cannot be enabled with hwversion set",
            ));
        }
        if !["ide", "buslogic", "lsilogic", "legacyESX"].contains(&adapter) {
            return Err(wrong(adapter));
        }
        let subformat = match values.text("subformat") {
            None => Subformat::MonolithicSparse,
            Some(name) => {
                let mut all = Subformat::ALL.into_iter();
                let found = all.find(|subformat| subformat.name() == name);
                found.ok_or_else(|| wrong(name))?
            }
        };
        let zeroed_grain = values.switch("zeroed_grain") == Some(true);
        if subformat.is_flat() && backing.is_some() {
            return Err(Error::invalid("Flat image can't have backing file"));
        }
        if subformat.is_flat() && zeroed_grain {
            return Err(Error::invalid("Flat image can't enable zeroed grain"));
        }
        let default = if compat6 { "6" } else { "4" };
        let options = Self {
            subformat,
            adapter: adapter.into(),
            hardware: hardware.unwrap_or(default).into(),
            tools: values.text("toolsversion").unwrap_or("2147483647").into(),
            zeroed_grain,
            backing,
        };
        let texts = [&options.hardware, &options.tools];
        if let Some(text) = texts.into_iter().find(|text| !fits(text.as_bytes())) {
            return Err(wrong(text));
        }
        let name = values.name("backing_file");
        if name.is_some_and(|name| !fits(name.as_bytes())) {
            return Err(Error::invalid(
                "the name of the backing file can't stand in a descriptor",
            ));
        }
        Ok(options)
    }
}

/// Returns true if a text is valid between the quotation marks of a descriptor.
pub(super) fn fits(text: &[u8]) -> bool {
    let stops = |byte: &u8| *byte == b'"' || *byte < b' ';
    text.len() <= 1023 && !text.iter().any(stops)
}
