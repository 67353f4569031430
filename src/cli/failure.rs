//! The ways in which a subcommand ends.

use std::process::ExitCode;

/// The exit status of every failure, but for the verdicts of `check` and `compare`.
pub(super) const FAILED: u8 = 1;

/// The reason for which a subcommand ended without doing its work.
pub(super) enum Failure {
    /// It was called wrongly; help is hinted at.
    Usage(String),
    /// Anything else.
    Error(anyhow::Error),
    /// Who reads our output has seen enough of it, which is no failure.
    OutputClosed,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

pub(super) type Done = Result<ExitCode, Failure>;
