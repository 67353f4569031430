//! The subcommand `snapshot`: it prints a list, or makes one change.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use super::args::SnapshotArgs;
use super::operands::{Output, one_operand, output, source, warn_of_guess};
use super::{Done, Failure, print, render};
use crate::commands::Sharing;
use crate::commands::snapshot::{self, SnapshotRequest};
use crate::crypto::Secrets;
use crate::options::qemu_json;

/// Runs the subcommand.
pub(super) fn run(args: &SnapshotArgs, secrets: &Secrets) -> Done {
    let output = output(&args.output)?;
    let change = change(args)?;
    if output == Output::Json && change.is_some() {
        return Err(Failure::Usage("--output=json is only for -l".to_owned()));
    }
    let operand = one_operand(&args.operands)?;
    let format = args.named.format.as_deref();
    let (mut source, _) = source(operand, format, args.named.image_opts, secrets)?;
    if args.force_share {
        source.sharing = source.sharing.max(Sharing::Forced);
    }
    source.policy.sandbox = !args.common.no_sandbox && change.is_none();
    let Some(change) = change else {
        let text = match output {
            Output::Human => {
                let snapshots = snapshot::list(&source, &render::snapshots::prepare)?;
                render::snapshots::list(&snapshots)
            }
            Output::Json => qemu_json::render(&snapshot::list(&source, &|| {})?)?,
        };
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    snapshot::change(&source, &change, &|format| {
        if source.format.is_none() {
            warn_of_guess(&source, format);
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the change that the options ask for, or `None` for the list.
fn change(args: &SnapshotArgs) -> Result<Option<SnapshotRequest>, Failure> {
    let named = |names: &[OsString], change: fn(Vec<u8>) -> SnapshotRequest| {
        let names = names.iter().map(|name| change(name.as_bytes().to_vec()));
        names.collect::<Vec<_>>()
    };
    let mut changes = named(&args.create, SnapshotRequest::Create);
    changes.extend(named(&args.apply, SnapshotRequest::Apply));
    changes.extend(named(&args.delete, SnapshotRequest::Delete));
    if changes.len() + usize::from(args.list) > 1 {
        return Err(Failure::Usage(
            "Cannot mix '-l', '-a', '-c', '-d'".to_owned(),
        ));
    }
    Ok(changes.pop())
}
