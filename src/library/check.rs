//! Checks of an image's metadata, and repairs.

use std::path::Path;

use super::open::OpenOptions;
use crate::commands::check::{CheckOutcome, run};
use crate::error::Result;
use crate::formats::check::Repair;

/// The findings of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckSummary {
    /// The number of errors that remain.
    pub corruptions: u64,
    /// The number of leaked clusters that remain: their refcounts are above their use.
    pub leaks: u64,
    /// The number of errors that were repaired.
    pub corruptions_fixed: u64,
    /// The number of leaked clusters that were freed.
    pub leaks_fixed: u64,
    /// A line for each finding.
    pub findings: Vec<String>,
}

impl CheckSummary {
    /// Returns true if no errors and no leaked clusters remain.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0
    }
}

impl OpenOptions {
    /// Checks the metadata of an image. Its data isn't read. Returns `None` if its format has no check.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("disk.qcow2");
    /// cowhide::CreateOptions::new("qcow2", 1 << 30).create(&path)?;
    /// let summary = cowhide::OpenOptions::new().format("qcow2").check(&path)?;
    /// assert!(summary.is_some_and(|summary| summary.is_clean()));
    /// # Ok::<(), cowhide::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the image can't be opened, or if it is so damaged that it can't be checked.
    pub fn check(&self, path: impl AsRef<Path>) -> Result<Option<CheckSummary>> {
        self.look(path.as_ref(), None)
    }

    /// Checks an image as [`check`](Self::check) does, and repairs all errors and leaks that can be repaired. No
    /// other process may have the image open.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check), or an error if a repair can't be written.
    pub fn repair(&self, path: impl AsRef<Path>) -> Result<Option<CheckSummary>> {
        self.look(path.as_ref(), Some(Repair::All))
    }

    fn look(&self, path: &Path, repair: Option<Repair>) -> Result<Option<CheckSummary>> {
        let node = self.node(path)?;
        let mut findings = Vec::new();
        let outcome = run(&node, repair, &mut |line| {
            findings.push(line.text.to_string())
        })?;
        let CheckOutcome::Checked { report, .. } = outcome else {
            return Ok(None);
        };
        Ok(Some(CheckSummary {
            corruptions: report.corruptions,
            leaks: report.leaks,
            corruptions_fixed: report.corruptions_fixed,
            leaks_fixed: report.leaks_fixed,
            findings,
        }))
    }
}
