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
    fn nothing_is_offered_for_a_name_that_is_like_none() {
        assert_eq!(question("frobnicate", ["create", "info"]), None);
        assert_eq!(question("", ["create", "info"]), None);
        assert_eq!(question("x", []), None);
    }
}
