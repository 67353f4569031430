//! The ways in which a subcommand ends.

use std::process::ExitCode;

/// The exit status of every failure, but for the verdicts of `check` and `compare`.
pub(super) const FAILED: u8 = 1;

/// The reason for which a subcommand ended without doing its work.
pub(super) enum Failure {
    /// A mistake in the use of the program; the message is followed by a hint at help.
    Usage(String),
    /// Any other error.
    Error(anyhow::Error),
    /// The reader of standard output has closed it, having seen enough; that is no failure.
    OutputClosed,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

pub(super) type Done = Result<ExitCode, Failure>;
