//! The arguments of `speed`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// `speed`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct SpeedArgs {
    /// Approximate time of the measurements, in seconds
    #[arg(
        long,
        value_name = "N",
        default_value = "6",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) seconds: f64,
    /// Measure a storage instead: the latency of requests, and their rate with 1, 4, 16 and 64 in flight. In a folder
    /// an unnamed file is written and read; a file or device is only read
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub(in crate::cli) storage: Option<PathBuf>,
    /// Number of threads meant by "all threads" (default: as many as the machine runs at once)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(in crate::cli) threads: Option<usize>,
    /// human or json
    #[arg(long, value_name = "FORM", default_value = "human")]
    pub(in crate::cli) output: String,
    /// No operands are allowed; this is for the error message
    #[arg(hide = true)]
    pub(in crate::cli) operands: Vec<OsString>,
}
