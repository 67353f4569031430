//! The arguments of `bench`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, NamedArgs, OutputArgs, PasswordArgs, WrittenArgs};

/// `bench`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct BenchArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// Number of requests that are sent
    #[arg(
        short,
        long,
        value_name = "COUNT",
        default_value = "75000",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) count: String,
    /// Number of requests in flight
    #[arg(
        short,
        long,
        value_name = "DEPTH",
        default_value = "64",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) depth: String,
    /// Size of a request (suffixes k M G)
    #[arg(
        short = 's',
        long,
        value_name = "SIZE",
        default_value = "4096",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) buffer_size: String,
    /// Distance from one request to the next [default: the size of a request]
    #[arg(
        short = 'S',
        long,
        value_name = "SIZE",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(in crate::cli) step_size: String,
    /// Offset of the first request
    #[arg(
        short,
        long,
        value_name = "OFFSET",
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) offset: String,
    /// Write instead of reading
    #[arg(short, long)]
    pub(in crate::cli) write: bool,
    /// Byte that is written
    #[arg(
        long,
        value_name = "BYTE",
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) pattern: String,
    /// Number of requests between flushes (with -w)
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(in crate::cli) flush_interval: String,
    /// Flush without waiting for the requests in flight
    #[arg(long)]
    pub(in crate::cli) no_drain: bool,
    #[command(flatten)]
    pub(in crate::cli) written: WrittenArgs,
    /// threads, native or io_uring; threads do the requests in any case
    #[arg(short = 'i', long, value_name = "AIO", allow_hyphen_values = true)]
    pub(in crate::cli) aio: Option<String>,
    /// The same as -i native
    #[arg(short, long)]
    pub(in crate::cli) native: bool,
    /// Open the image even while another process writes it
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    #[command(flatten)]
    pub(in crate::cli) output: OutputArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
