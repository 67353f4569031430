//! The report on an image: plain data with the field names of QEMU's `ImageInfo`, on which scripts rely.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::snapshots::SnapshotInfo;
use crate::error::{Error, Result};

/// An image, or the file that holds one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The nodes below the image, of which there is one: its file.
    pub children: Vec<ChildInfo>,
    /// Its internal snapshots; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
    /// The size of the virtual disk in bytes, or a file's length, rounded up to whole sectors.
    pub virtual_size: u64,
    /// The name as the user gave it.
    pub filename: String,
    /// The cluster size in bytes, for formats that have clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The format's name, or the protocol's.
    pub format: &'static str,
    /// The number of bytes allocated on the medium, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// The fields that only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<Specific>,
    /// The backing file's name as the header stores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing file's name relative to the current folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file's format as the header stores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// `true` if the data is encrypted, else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// `true` if the image was not closed properly; absent if the format doesn't record that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
}

impl ImageInfo {
    /// Returns a report with the facts that any image or file has. The other fields are absent until they are set.
    pub fn new(
        filename: String,
        format: &'static str,
        size: u64,
        actual_size: Option<u64>,
    ) -> Self {
        Self {
            children: Vec::new(),
            snapshots: Vec::new(),
            virtual_size: size,
            filename,
            cluster_size: None,
            format,
            actual_size,
            format_specific: None,
            backing_filename: None,
            full_backing_filename: None,
            backing_filename_format: None,
            encrypted: None,
            dirty_flag: Some(false),
        }
    }

    /// Returns the same report, with `below` as the file of the image.
    #[must_use]
    pub fn over(mut self, below: Self) -> Self {
        self.children.push(ChildInfo {
            name: "file".into(),
            info: below,
        });
        self
    }
}

/// A node below an image.
#[derive(Debug, Serialize)]
pub struct ChildInfo {
    /// Its role.
    pub name: Cow<'static, str>,
    /// The node.
    pub info: ImageInfo,
}

/// The fields that only one format or one protocol has.
#[derive(Debug, Serialize)]
pub struct Specific {
    /// The name of the set of fields in QEMU's reports.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The fields.
    pub data: Value,
}

impl Specific {
    /// Returns the fields of `data`.
    ///
    /// # Errors
    /// Returns an error if `data` can't be represented as JSON.
    pub fn new(kind: &'static str, data: &impl Serialize) -> Result<Self> {
        let data = serde_json::to_value(data)
            .map_err(|error| Error::invalid(format!("rendering JSON: {error}")))?;
        Ok(Self { kind, data })
    }

    /// Returns a set without fields.
    pub fn nothing(kind: &'static str) -> Self {
        Self {
            kind,
            data: Value::Object(serde_json::Map::new()),
        }
    }

    /// Returns true if there is no field.
    pub fn is_empty(&self) -> bool {
        self.data.as_object().is_none_or(serde_json::Map::is_empty)
    }
}
