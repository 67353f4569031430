//! The report of `compare`, as text and as JSON.

use serde::Serialize;

use crate::convert::compare::{Comparison, Difference};
use crate::error::Result;
use crate::options::qemu_json;

/// The result of a comparison.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ComparisonReport {
    /// True if nothing differs. Zeroes beyond the end of the shorter disk count only with `-s`.
    identical: bool,
    /// The kind of the first difference.
    difference: Option<&'static str>,
    /// The offset of the first difference in bytes. A difference in size has none.
    offset: Option<u64>,
    /// True if one disk is longer, and both are the same up to the end of the shorter one.
    longer: bool,
}

/// Renders the result as JSON. Returns an empty text if an error prevented comparing, since then there is none.
///
/// # Errors
/// Returns the errors of [`qemu_json::render`].
pub fn json(outcome: &Comparison) -> Result<String> {
    let (difference, offset) = match &outcome.finding {
        Difference::Same => (None, None),
        Difference::Size => (Some("size"), None),
        Difference::Status(offset) => (Some("status"), Some(offset.0)),
        Difference::Content(offset) => (Some("content"), Some(offset.0)),
        Difference::NoStatus(_) | Difference::NoData(_) => return Ok(String::new()),
    };
    qemu_json::render(&ComparisonReport {
        identical: difference.is_none(),
        difference,
        offset,
        longer: outcome.longer,
    })
}

/// Renders the result as `qemu-img compare` prints it.
pub fn human(outcome: &Comparison) -> String {
    let text = match &outcome.finding {
        Difference::Same => "Images are identical.\n".to_owned(),
        Difference::Content(offset) => format!("Content mismatch at offset {}!\n", offset.0),
        Difference::Size => "Strict mode: Image size mismatch!\n".to_owned(),
        Difference::Status(offset) => {
            let offset = offset.0;
            format!("Strict mode: Offset {offset} block status mismatch!\n")
        }
        Difference::NoStatus(_) | Difference::NoData(_) => String::new(),
    };
    let warning = match outcome.longer {
        true => "Warning: Image size mismatch!\n",
        false => "",
    };
    format!("{warning}{text}")
}
