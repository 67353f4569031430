//! The subcommand `checksum`: it prints the checksum in a line.
//!
//! The line has the format of `sha256sum` and `b3sum`, whose option `--check` reads it. For a raw image it is the
//! checksum of the file itself.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use serde::Serialize;

use super::args::ChecksumArgs;
use super::operands::{self, Output, cache, one_operand, source};
use super::password::PasswordSource;
use super::progress::Progress;
use super::{Done, Failure, print, print_bytes};
use crate::commands;
use crate::convert::{Algorithm, Digest, Settings};
use crate::crypto::Secrets;
use crate::options::qemu_json;

/// Runs the subcommand.
pub(super) fn run(args: &ChecksumArgs, secrets: &Secrets) -> Done {
    let output = operands::output(&args.output.output)?;
    let algorithm = algorithm(&args.algorithm)?;
    let operand = one_operand(&args.operands)?;
    let cache = cache(&args.cache, "Invalid source cache option")?;
    let format = args.named.format.as_deref();
    let (mut source, _) = source(operand, format, args.named.image_opts, secrets)?;
    source.policy.cache = cache;
    source.policy.names = operands::names(&args.common);
    source.policy.sandbox = !args.common.no_sandbox;
    let quiet = args.common.quiet;
    let passwords = PasswordSource::with_help(&args.password, quiet, &args.plausible)?;
    let progress = Progress::new(&args.progress, quiet)?.beside_output();
    let workers = Settings::default().workers;
    let digest = commands::checksum::run(&source, algorithm, workers, &passwords, &progress)?;
    progress.end();
    match output {
        Output::Human => print_bytes(&checksum_line(&digest, operand))?,
        Output::Json => print(&qemu_json::render(&ChecksumReport {
            filename: operand.to_string_lossy(),
            algorithm: algorithm.name(),
            digest: digest.to_string(),
        })?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The checksum of a disk, as a report.
#[derive(Serialize)]
struct ChecksumReport<'a> {
    filename: Cow<'a, str>,
    algorithm: &'static str,
    /// The checksum in hexadecimal digits.
    digest: String,
}

/// Returns the algorithm of that name.
///
/// # Errors
/// Returns [`Failure::Usage`], with the names of all algorithms, if no algorithm has that name.
pub(super) fn algorithm(name: &str) -> Result<Algorithm, Failure> {
    Algorithm::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Algorithm::ALL.into_iter().map(Algorithm::name).collect();
        Failure::Usage(format!(
            "unknown checksum '{name}' (there are: {})",
            names.join(", ")
        ))
    })
}

/// Formats the line `DIGITS  NAME`. A name that would break the line is escaped, and the line then begins
/// with a backslash.
pub(super) fn checksum_line(digest: &Digest, name: &OsStr) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in name.as_bytes() {
        match byte {
            b'\\' => escaped.extend(b"\\\\"),
            b'\n' => escaped.extend(b"\\n"),
            b'\r' => escaped.extend(b"\\r"),
            byte => escaped.push(*byte),
        }
    }
    let mut line = Vec::new();
    if escaped.len() > name.len() {
        line.push(b'\\');
    }
    line.extend(digest.to_string().bytes());
    line.extend(b"  ");
    line.append(&mut escaped);
    line.push(b'\n');
    line
}
