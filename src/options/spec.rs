//! The options of a driver as data: names, the forms of values, and their lines in help.
//!
//! Help, the check of names and the line `Formatting '…'` are made from these lists alone. They include options of
//! `qemu-img` that this version lacks, so that these are refused as unsupported and not as unknown.

use std::fmt::Write as _;

/// The form of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any bytes.
    Text,
    /// `on` or `off`.
    Switch,
    /// A number of bytes, which may have a suffix.
    Size,
    /// A number.
    Number,
}

/// One option of a driver.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// The form of its value.
    pub kind: Kind,
    /// The value that the line `Formatting '…'` has when none is given.
    pub default: Option<&'static str>,
    /// Its line in help.
    pub help: &'static str,
}

impl OptionSpec {
    /// Returns an option without a default.
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            kind,
            default: None,
            help,
        }
    }

    /// Returns the option with a default.
    #[must_use]
    pub const fn with_default(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }
}

impl OptionSpec {
    /// Returns the values of a switch, or those that the option accepts if its line in help lists them: `{a (default) | b}`, or
    /// `choices: 'a', 'b'`, or `(allowed values: a, b)`.
    pub fn values(&self) -> Vec<&'static str> {
        if self.kind == Kind::Switch {
            return vec!["on", "off"];
        }
        let in_braces = || {
            let (_, rest) = self.help.split_once('{')?;
            Some(rest.split_once('}')?.0.split('|'))
        };
        if let Some(values) = in_braces() {
            let values = values.filter_map(|value| value.split_whitespace().next());
            return values.collect();
        }
        let lists = ["values: ", "choices: "];
        let list = lists.iter().find_map(|start| self.help.split_once(start));
        let values = list.map_or("", |(_, rest)| rest).split(", ");
        let values = values.map(|value| value.trim_matches(['\'', ')']));
        values.filter(|value| !value.is_empty()).collect()
    }
}

/// Joins the options of several drivers, in that order. Only the first of those with one name is kept.
pub fn united(lists: &[&'static [OptionSpec]]) -> Vec<&'static OptionSpec> {
    let mut united: Vec<&OptionSpec> = Vec::new();
    for spec in lists.iter().copied().flatten() {
        if united.iter().all(|there| there.name != spec.name) {
            united.push(spec);
        }
    }
    united
}

/// Returns the lines of `-o help` for these options, by name.
pub fn help_lines(lists: &[&'static [OptionSpec]]) -> String {
    let mut specs = united(lists);
    specs.sort_by_key(|spec| spec.name);
    let mut text = String::new();
    for spec in specs {
        let kind = match spec.kind {
            Kind::Text => "<str>",
            Kind::Switch => "<bool (on/off)>",
            Kind::Size => "<size>",
            Kind::Number => "<num>",
        };
        let left = format!("{}={kind}", spec.name);
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {left:<22} - {}", spec.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[OptionSpec] = &[
        OptionSpec::new("size", Kind::Size, "first").with_default("1"),
        OptionSpec::new("b", Kind::Switch, "a switch"),
    ];
    const TWO: &[OptionSpec] = &[
        OptionSpec::new("a", Kind::Text, "a text"),
        OptionSpec::new("size", Kind::Size, "second"),
    ];

    #[test]
    fn values_are_those_that_help_lists() {
        for (help, values) in [
            ("one of {a (default) | b} ", &["a", "b"][..]),
            ("Mode (allowed values: off, full)", &["off", "full"]),
            ("Encrypt, format choices: 'aes', 'luks'", &["aes", "luks"]),
            ("Size (in bytes)", &[]),
        ] {
            let spec = OptionSpec::new("x", Kind::Text, help);
            assert_eq!(spec.values(), values, "{help}");
        }
        assert_eq!(ONE[1].values(), ["on", "off"]);
    }

    #[test]
    fn of_two_with_one_name_the_first_counts() {
        let names = united(&[ONE, TWO]);
        let names: Vec<_> = names.iter().map(|spec| (spec.name, spec.help)).collect();
        assert_eq!(
            names,
            [("size", "first"), ("b", "a switch"), ("a", "a text")]
        );
    }

    #[test]
    fn help_is_in_the_order_of_names() {
        assert_eq!(
            help_lines(&[ONE, TWO]),
            "  a=<str>                - a text\n\
             \x20 b=<bool (on/off)>      - a switch\n\
             \x20 size=<size>            - first\n"
        );
    }
}
