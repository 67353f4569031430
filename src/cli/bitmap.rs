//! The subcommand `bitmap`: changes of one bitmap, in the order of their options.

use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::anyhow;

use super::args::BitmapArgs;
use super::operands::{self, size, source, warn_of_guess};
use super::{Done, Failure};
use crate::commands::bitmap::{self, BitmapChange, BitmapRequest};
use crate::crypto::Secrets;

/// Runs the subcommand.
pub(super) fn run(args: &BitmapArgs, secrets: &Secrets) -> Done {
    check_usage(args)?;
    let [operand, name] = &args.operands[..] else {
        return Err(anyhow!("Expecting filename and bitmap name").into());
    };
    let granularity = args.granularity.as_deref();
    let granularity = granularity.map(|text| size(text, "granularity"));
    let format = args.named.format.as_deref();
    let (image, _) = source(operand, format, args.named.image_opts, secrets)?;
    let merged = args.source_file.as_deref().map(|operand| {
        let (mut merged, _) = source(operand, args.source_format.as_deref(), false, secrets)?;
        merged.policy.names = operands::names(&args.common);
        Ok::<_, Failure>(merged)
    });
    let changes = BitmapRequest {
        name: name.as_bytes().to_vec(),
        changes: args.changes.0.clone(),
        granularity: granularity.transpose()?.unwrap_or(0),
        source: merged.transpose()?,
        image,
    };
    bitmap::run(&changes, &|format| {
        if changes.image.format.is_none() {
            warn_of_guess(&changes.image, format);
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses invalid combinations of options.
fn check_usage(args: &BitmapArgs) -> Result<(), Failure> {
    let changes = &args.changes.0;
    let merges = |change: &BitmapChange| matches!(change, BitmapChange::Merge(_));
    let complaint = if changes.is_empty() {
        "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
    } else if args.granularity.is_some() && !changes.contains(&BitmapChange::Add) {
        "granularity only supported with --add"
    } else if args.source_format.is_some() && args.source_file.is_none() {
        "-F only supported with -b"
    } else if args.source_file.is_some() && !changes.iter().any(merges) {
        "Merge bitmap source file only supported with --merge"
    } else {
        return Ok(());
    };
    Err(anyhow!("{complaint}").into())
}
