//! Suggestions for an unknown name: the known name that is most like it.
//!
//! A name is only suggested if it is close, since a wrong suggestion misleads.

/// The least similarity, from 0 to 1, of a name that is suggested.
const CLOSE: f64 = 0.8;

/// Returns a question for the one of `known` that is most like `name`, as a line of help.
pub fn question<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let likeness = |known: &'a str| (strsim::jaro(name, known), known);
    let close = known.into_iter().map(likeness);
    let close = close.filter(|(likeness, _)| *likeness >= CLOSE);
    let (_, closest) = close.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    Some(format!("Did you mean '{closest}'?"))
}

/// Returns [`question`] for the name of a format, which people also call by its file name extension. Returns a line
/// with all of `known` if none is meant.
pub fn format<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    let name = name.trim_start_matches(['.', '=']).to_lowercase();
    let own = OTHER_NAMES.iter().find(|(other, _)| *other == name);
    let own = own.map_or(&*name, |(_, own)| *own);
    if let Some(question) = question(own, known.iter().copied()) {
        return question;
    }
    known.sort_unstable();
    format!("The formats are {}", known.join(", "))
}

/// Other names of formats, and the names that QEMU has for them.
const OTHER_NAMES: [(&str, &str); 7] = [
    ("bin", "raw"),
    ("dd", "raw"),
    ("img", "raw"),
    ("iso", "raw"),
    ("qcow3", "qcow2"),
    ("vhd", "vpc"),
    ("hdd", "parallels"),
];

/// Returns the format that a name of [`OTHER_NAMES`] means.
pub fn format_of_other_name(name: &str) -> Option<&'static str> {
    let found = OTHER_NAMES.iter().find(|(other, _)| *other == name);
    found.map(|(_, own)| *own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_offered() {
        let known = ["cluster_size", "compat", "convert", "commit"];
        let offered = |name| question(name, known);
        assert_eq!(
            offered("clustersize").as_deref(),
            Some("Did you mean 'cluster_size'?")
        );
        assert_eq!(
            offered("convrt").as_deref(),
            Some("Did you mean 'convert'?")
        );
        assert_eq!(offered("comit").as_deref(), Some("Did you mean 'commit'?"));
    }

    #[test]
    fn formats_are_known_by_other_names_too() {
        let known = ["qcow", "qcow2", "raw", "vdi", "vhdx", "vpc"];
        for (name, own) in [
            ("vhd", "vpc"),
            ("qcow3", "qcow2"),
            ("IMG", "raw"),
            ("=QCOW2", "qcow2"),
        ] {
            assert_eq!(format(name, known), format!("Did you mean '{own}'?"));
        }
        assert_eq!(format("frob", ["b", "a"]), "The formats are a, b");
    }

    #[test]
    fn nothing_is_offered_for_a_name_that_is_like_none() {
        assert_eq!(question("frobnicate", ["create", "info"]), None);
        assert_eq!(question("", ["create", "info"]), None);
        assert_eq!(question("x", []), None);
    }
}
