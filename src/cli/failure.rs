//! The failures of a subcommand.

use std::process::ExitCode;

/// The exit status of every failure, except for the results of `check` and `compare`.
pub(super) const FAILED: u8 = 1;

/// The reason why a subcommand ended without doing its work.
pub(super) enum Failure {
    /// A usage error. A hint at the help follows the message.
    Usage(String),
    /// Any other error.
    Error(anyhow::Error),
    /// The reader of standard output has closed it. That isn't an error.
    OutputClosed,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

pub(super) type Done = Result<ExitCode, Failure>;
