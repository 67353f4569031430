//! The report of `check`, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::error::Result;
use crate::formats::Format;
use crate::formats::check::CheckReport;
use crate::options::qemu_json;

/// The fields of the report, with the names of QEMU's `ImageCheck`. Counts of zero are omitted.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Json<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_clusters: u64,
    check_errors: u64,
    filename: &'a str,
    format: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    allocated_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    fragmented_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    compressed_clusters: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Renders a report as JSON.
///
/// # Errors
/// Returns the errors of [`qemu_json::render`].
pub fn json(filename: &str, format: Format, report: &CheckReport) -> Result<String> {
    qemu_json::render(&Json {
        image_end_offset: report.image_end_offset,
        total_clusters: report.total_clusters,
        check_errors: 0,
        filename,
        format: format.name(),
        corruptions: report.corruptions,
        leaks: report.leaks,
        corruptions_fixed: report.corruptions_fixed,
        leaks_fixed: report.leaks_fixed,
        allocated_clusters: report.allocated_clusters,
        fragmented_clusters: report.fragmented_clusters,
        compressed_clusters: report.compressed_clusters,
    })
}

/// Renders a report as `qemu-img check` prints it.
pub fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    // Writing to a string can't fail, here and below.
    if report.leaks_fixed != 0 || report.corruptions_fixed != 0 {
        let _ = write!(
            text,
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    \
             {} corruptions\n\nDouble checking the fixed image now...\n",
            report.leaks_fixed, report.corruptions_fixed
        );
    }
    if report.corruptions == 0 && report.leaks == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    if report.corruptions != 0 {
        let _ = write!(
            text,
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to \
             the image may corrupt it.\n",
            report.corruptions
        );
    }
    if report.leaks != 0 {
        let _ = write!(
            text,
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but \
             no harm to data.\n",
            report.leaks
        );
    }
    if report.total_clusters != 0 && report.allocated_clusters != 0 {
        let _ = writeln!(
            text,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters)
        );
    }
    if report.image_end_offset != 0 {
        let _ = writeln!(text, "Image end offset: {}", report.image_end_offset);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
