//! The report of `info`, as text.

use std::fmt::Write as _;

use serde_json::Value;

use super::snapshots;
use crate::error::{Result, printable};
use crate::formats::info::ImageInfo;
use crate::options::qemu_json;
use crate::units::human_size;

/// Renders the reports of a chain, with a blank line between them.
///
/// # Errors
/// Returns the errors of [`qemu_json::ordered`].
pub fn human_list(infos: &[ImageInfo]) -> Result<String> {
    let texts: Result<Vec<String>> = infos.iter().map(human).collect();
    Ok(texts?.join("\n"))
}

/// Renders a report as `qemu-img info` prints it.
///
/// # Errors
/// Returns the errors of [`qemu_json::ordered`].
pub fn human(info: &ImageInfo) -> Result<String> {
    let mut text = String::new();
    node(&mut text, info)?;
    children(&mut text, info, "")?;
    Ok(text)
}

/// Renders the report on the image itself.
fn node(text: &mut String, info: &ImageInfo) -> Result<()> {
    // Writing to a string can't fail, here and below.
    let _ = writeln!(text, "image: {}", printable(&info.filename));
    let _ = writeln!(text, "file format: {}", info.format);
    let size = info.virtual_size;
    let _ = writeln!(text, "virtual size: {} ({size} bytes)", human_size(size));
    disk_size(text, info.actual_size);
    if info.encrypted == Some(true) {
        text.push_str("encrypted: yes\n");
    }
    if let Some(cluster_size) = info.cluster_size {
        let _ = writeln!(text, "cluster_size: {cluster_size}");
    }
    if info.dirty_flag == Some(true) {
        text.push_str("cleanly shut down: no\n");
    }
    if let Some(name) = &info.backing_filename {
        let _ = write!(text, "backing file: {}", printable(name));
        match &info.full_backing_filename {
            Some(full) if full != name => {
                let _ = write!(text, " (actual path: {})", printable(full));
            }
            _ => {}
        }
        text.push('\n');
    }
    if let Some(format) = &info.backing_filename_format {
        let _ = writeln!(text, "backing file format: {}", printable(format));
    }
    text.push_str(&snapshots::list(&info.snapshots));
    let specific = info.format_specific.as_ref();
    if let Some(specific) = specific.filter(|specific| !specific.is_empty()) {
        text.push_str("Format specific information:\n");
        fields(text, &qemu_json::ordered(&specific.data)?, 1);
    }
    Ok(())
}

/// Renders the children of an image, below the node at `path`. A child is a file, which has another format, or an
/// image.
fn children(text: &mut String, info: &ImageInfo, path: &str) -> Result<()> {
    for child in &info.children {
        let path = format!("{path}/{}", child.name);
        let _ = writeln!(text, "Child node '{path}':");
        let below = if child.info.children.is_empty() {
            file(&child.info)
        } else {
            let mut below = String::new();
            node(&mut below, &child.info)?;
            children(&mut below, &child.info, &path)?;
            below
        };
        for line in below.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    Ok(())
}

/// Renders the node of a file.
fn file(info: &ImageInfo) -> String {
    let length = info.virtual_size;
    let mut text = format!(
        "filename: {}\nprotocol type: {}\nfile length: {} ({length} bytes)\n",
        printable(&info.filename),
        info.format,
        human_size(length)
    );
    disk_size(&mut text, info.actual_size);
    text
}

fn disk_size(text: &mut String, size: Option<u64>) {
    let size = size.map_or_else(|| "unavailable".to_owned(), human_size);
    let _ = writeln!(text, "disk size: {size}");
}

/// Renders fields, one on each line, with spaces for the dashes of their names, and the items of lists by number.
fn fields(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                field(text, &key.replace('-', " "), value, depth);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                field(text, &format!("[{index}]"), item, depth);
            }
        }
        _ => {}
    }
}

fn field(text: &mut String, name: &str, value: &Value, depth: usize) {
    let indent = "    ".repeat(depth);
    let _ = match value {
        Value::Object(_) | Value::Array(_) => {
            let _ = writeln!(text, "{indent}{name}:");
            fields(text, value, depth + 1);
            Ok(())
        }
        Value::String(string) => writeln!(text, "{indent}{name}: {}", printable(string)),
        other => writeln!(text, "{indent}{name}: {other}"),
    };
}
