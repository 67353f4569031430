//! The tables in a property list. The list is XML, but it is only searched for the tables, like in QEMU.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// Returns the tables under the key `blkx` of the list.
///
/// # Errors
/// Returns an error if one of them is invalid, or if there is none.
pub(super) fn tables(list: &[u8]) -> Result<Vec<Vec<u8>>> {
    let list = match find(list, b"<key>blkx</key>") {
        Some(start) => list.get(start..).unwrap_or_default(),
        None => list,
    };
    let list = match find(list, b"</array>") {
        Some(end) => list.get(..end).unwrap_or_default(),
        None => list,
    };
    let mut rest = list;
    let mut tables = Vec::new();
    while let Some(start) = find(rest, b"<data>") {
        rest = rest.get(start + 6..).unwrap_or_default();
        let end = find(rest, b"</data>");
        let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
        if end.is_none() {
            return Err(Error::corrupt("a table of the image has no end"));
        }
        rest = after;
        let mut text = text.to_vec();
        text.retain(|byte| !byte.is_ascii_whitespace());
        let table = STANDARD.decode(&text);
        tables.push(table.map_err(|_| Error::corrupt("a table of the image isn't base64"))?);
    }
    Ok(tables)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|part| part == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_are_found() {
        let list = b"<data>bm8=</data><key>blkx</key><array><data>\n\teWV\n\tz</data><data></data></array>\
                     <data>bm8=</data>";
        assert_eq!(tables(list).unwrap(), [b"yes".to_vec(), Vec::new()]);
        for wrong in [
            &b"<data>bm8=</dat"[..],
            b"<data>!!</data>",
            b"<data>b</data>",
        ] {
            assert!(tables(wrong).is_err());
        }
        assert!(tables(b"").unwrap().is_empty());
    }
}
