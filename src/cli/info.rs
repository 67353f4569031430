//! The subcommand `info`: it prints the report on an image, or on a backing chain.

use std::process::ExitCode;

use anyhow::anyhow;

use super::args::InfoArgs;
use super::operands::{self, Output, cache, one_operand, output, source};
use super::password::PasswordSource;
use super::{Done, print, render};
use crate::commands;
use crate::crypto::Secrets;
use crate::options::qemu_json;

/// Runs the subcommand.
pub(super) fn run(args: &InfoArgs, secrets: &Secrets) -> Done {
    let output = output(&args.image.output)?;
    let operand = one_operand(&args.image.operands)?;
    let cache = cache(&args.cache, "Invalid source cache option")?;
    let (mut source, shown) = source(
        operand,
        args.image.format.as_deref(),
        args.image.image_opts,
        secrets,
    )?;
    source.policy.cache = cache;
    source.sharing = args.image.sharing(source.sharing);
    source.policy.sandbox = !args.common.no_sandbox;
    source.policy.names = operands::names(&args.common);
    // No password is needed, but a given one is checked.
    let given = args.password.password_file.is_some() || args.password.password_fd.is_some();
    if given || source.has_password() {
        let quiet = args.common.quiet;
        let passwords = PasswordSource::with_help(&args.password, quiet, &args.plausible)?;
        commands::plausible::run(&source, &passwords)?;
    } else if args.plausible.require_plausible {
        return Err(anyhow!("--require-plausible takes a password").into());
    }
    let prepare = || {
        if output == Output::Human {
            render::snapshots::prepare();
        }
    };
    let text = if args.explain {
        let statements = commands::info::explain(&source)?;
        match output {
            Output::Human => render::explanation::human(&statements),
            Output::Json => qemu_json::render(&statements)?,
        }
    } else if args.backing_chain {
        let infos = commands::info::chain(&source, shown, &prepare)?;
        match output {
            Output::Human => render::info::human_list(&infos)?,
            Output::Json => qemu_json::render(&infos)?,
        }
    } else {
        let info = commands::info::run(&source, shown, &prepare)?;
        match output {
            Output::Human => render::info::human(&info)?,
            Output::Json => qemu_json::render(&info)?,
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
