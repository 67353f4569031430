//! The options of a qcow2 image's node.
//!
//! Most say how much memory tables may take, and what writers look out for. They have no effect here, and
//! are checked as QEMU checks them: a mistake in them is a mistake in a script.

use serde_json::{Map, json};

use super::super::{Source, Warn};
use super::{below, storage};
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::options::{Tree, Value};

/// Switches without an effect.
const QCOW2_SWITCHES: [&str; 5] = [
    "discard-no-unref",
    "lazy-refcounts",
    "pass-discard-other",
    "pass-discard-request",
    "pass-discard-snapshot",
];
/// What of an image qcow2 can keep from being written over.
const OVERLAP_CHECKS: [&str; 9] = [
    "active-l1",
    "active-l2",
    "bitmap-directory",
    "inactive-l1",
    "inactive-l2",
    "main-header",
    "refcount-block",
    "refcount-table",
    "snapshot-table",
];
/// How much of that: what may be set together.
const OVERLAP_TEMPLATES: [&str; 4] = ["none", "constant", "cached", "all"];

/// Takes the options of a qcow2 image out of its node, and puts those that `info` shows into `shown`.
///
/// # Errors
/// Values that make no sense, or not together; nodes that there aren't.
pub(super) fn read<'a>(
    tree: &mut Tree,
    shown: &mut Map<String, serde_json::Value>,
    source: &mut Source<'a>,
    secrets: &'a Secrets,
    warn: Warn,
) -> Result<()> {
    for key in QCOW2_SWITCHES {
        tree.take_switch(key)?;
    }
    cache_sizes(tree, source)?;
    overlap_checks(tree)?;
    source.encryption = match tree.take_text("encrypt.format").as_deref() {
        None => None,
        Some("aes") => Some("aes"),
        Some("luks") => Some("luks"),
        Some(other) => {
            return Err(Error::invalid(format!(
                "Parameter 'encrypt.format' does not accept value '{other}'"
            )));
        }
    };
    if let Some(id) = tree.take_text("encrypt.key-secret") {
        match secrets.get(&id) {
            Ok(secret) => source.secret = Some(secret),
            Err(error) => source.no_secret = Some(error.to_string()),
        }
        shown.insert("encrypt.key-secret".into(), json!(id));
    }
    if tree.get("data-file") == Some(&Value::Null) {
        tree.take("data-file");
    } else if tree.has("data-file") {
        let file = storage(tree, "data-file")?;
        if !file.windows.is_empty() {
            return Err(Error::unsupported(
                "a data file that is part of a file is not supported by this version",
            ));
        }
        source.data_file = Some(file.path);
    }
    source.below = below(tree, secrets, warn)?;
    Ok(())
}

/// Reads how much memory the tables may take.
fn cache_sizes(tree: &mut Tree, source: &mut Source<'_>) -> Result<()> {
    let both = tree.take_size("cache-size")?;
    let l2 = tree.take_size("l2-cache-size")?;
    let refcounts = tree.take_size("refcount-cache-size")?;
    source.stated.l2_entry = tree.take_size("l2-cache-entry-size")?;
    let exceeds = |part: Option<u64>| both.zip(part).is_some_and(|(both, part)| part > both);
    let mistake = if both.is_some() && l2.is_some() && refcounts.is_some() {
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
    } else if exceeds(l2) {
        "l2-cache-size may not exceed cache-size"
    } else if exceeds(refcounts) {
        "refcount-cache-size may not exceed cache-size"
    } else {
        let interval = tree.take_size("cache-clean-interval")?;
        if interval.is_none_or(|interval| u32::try_from(interval).is_ok()) {
            return Ok(());
        }
        "Cache clean interval too big"
    };
    Err(Error::invalid(mistake))
}

/// Reads what writers are to look out for.
fn overlap_checks(tree: &mut Tree) -> Result<()> {
    let keys = ["overlap-check", "overlap-check.template"];
    let [short, long] = keys.map(|key| tree.take_text(key));
    if let (Some(short), Some(long)) = (&short, &long)
        && short != long
    {
        return Err(Error::invalid(format!(
            "Conflicting values for qcow2 options 'overlap-check' ('{short}') and \
             'overlap-check.template' ('{long}')"
        )));
    }
    if let Some(name) = short.or(long)
        && !OVERLAP_TEMPLATES.contains(&name.as_str())
    {
        return Err(Error::invalid(format!(
            "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the \
             following: {}",
            OVERLAP_TEMPLATES.join(", ")
        )));
    }
    for key in OVERLAP_CHECKS {
        tree.take_switch(&format!("overlap-check.{key}"))?;
    }
    Ok(())
}
