//! `info`: one image, one report.

use std::process::ExitCode;

use super::args::InfoArgs;
use super::objects::Secrets;
use super::operands::{Output, one_operand, output, source};
use super::{Done, print, render};
use crate::commands;

/// Runs the subcommand.
pub(super) fn run(args: &InfoArgs) -> Done {
    let output = output(&args.image.output)?;
    let operand = one_operand(&args.image.operands)?;
    let secrets = Secrets::parse(&args.common.object)?;
    let (source, shown) = source(
        operand,
        args.image.format.as_deref(),
        args.image.image_opts,
        &secrets,
    )?;
    let mut info = commands::info::run(&source)?;
    info.filename = shown;
    let text = match output {
        Output::Human => render::info::human(&info)?,
        Output::Json => render::json::render(&info)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
