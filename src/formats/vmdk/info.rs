//! The report of a VMDK image, with the field names of QEMU's.

use serde::Serialize;

/// The fields that only this format has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct VmdkInfo {
    /// The id of the contents.
    pub(super) cid: u32,
    /// The id that the parent's contents must have.
    pub(super) parent_cid: u32,
    /// The kind of image.
    pub(super) create_type: String,
    /// The extents.
    pub(super) extents: Vec<ExtentInfo>,
}

/// An extent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ExtentInfo {
    /// True for compressed grains, else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compressed: Option<bool>,
    /// The length in bytes.
    pub(super) virtual_size: u64,
    /// The file's name, as seen from here.
    pub(super) filename: String,
    /// The length of a grain in bytes, where there are grains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster_size: Option<u64>,
    /// The word of the descriptor for how it is stored; empty where the descriptor is embedded.
    pub(super) format: &'static str,
}
