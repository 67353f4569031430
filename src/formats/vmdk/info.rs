//! The report on a VMDK image, with QEMU's field names.

use serde::Serialize;

/// The fields that only this format has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct VmdkInfo {
    /// The content id.
    pub(super) cid: u32,
    /// The content id that the parent must have.
    pub(super) parent_cid: u32,
    /// The create type.
    pub(super) create_type: String,
    /// The extents.
    pub(super) extents: Vec<ExtentInfo>,
}

/// An extent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ExtentInfo {
    /// True if the grains are compressed, else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compressed: Option<bool>,
    /// The length in bytes.
    pub(super) virtual_size: u64,
    /// The file's name relative to the current folder.
    pub(super) filename: String,
    /// The length of a grain in bytes, if the extent has grains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster_size: Option<u64>,
    /// The extent type in the descriptor, or empty if the descriptor is embedded.
    pub(super) format: &'static str,
}
