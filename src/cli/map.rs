//! The subcommand `map`: runs are printed as they are found.

use std::io::{self, BufWriter, Write as _};
use std::process::ExitCode;

use anyhow::anyhow;

use super::args::MapArgs;
use super::operands::{self, Output, one_operand, output, size, source};
use super::password::PasswordSource;
use super::{Done, Failure, render, stdout, writing};
use crate::commands::map::{self, Map};
use crate::crypto::Secrets;

/// Runs the subcommand.
pub(super) fn run(args: &MapArgs, secrets: &Secrets) -> Done {
    let optional = |text: &Option<String>, what| {
        let text = text.as_deref();
        text.map(|text| size(text, what)).transpose()
    };
    let start = optional(&args.start_offset, "start offset")?;
    let length = optional(&args.max_length, "max length")?;
    let output = output(&args.image.output)?;
    let operand = one_operand(&args.image.operands)?;
    let passwords = PasswordSource::new(&args.password, args.common.quiet)?;
    let (mut source, _) = source(
        operand,
        args.image.format.as_deref(),
        args.image.image_opts,
        secrets,
    )?;
    source.names = operands::names(&args.common);
    source.sharing = args.image.sharing(source.sharing);
    source.sandbox = !args.common.no_sandbox;
    let plan = map::MapPlan {
        source,
        start: start.unwrap_or(0),
        length,
    };
    let map = map::open(&plan, &passwords)?;
    let mut out = BufWriter::new(stdout().map_err(writing)?);
    let printed = match output {
        Output::Human => print_human(map, &mut out),
        Output::Json => print_json(map, &mut out),
    };
    // The runs before an error are printed as well.
    let flushed = out.flush().map_err(writing);
    printed.and(flushed)?;
    Ok(ExitCode::SUCCESS)
}

fn print_human(mut map: Map, out: &mut impl io::Write) -> Result<(), Failure> {
    render::map::human_heading(out).map_err(writing)?;
    while let Some(run) = map.next().transpose()? {
        let status = &run.status;
        if status.data && status.offset.is_none() {
            return Err(
                anyhow!("File contains external, encrypted or compressed clusters.").into(),
            );
        }
        if status.data && !status.zero {
            render::map::human(out, &run, map.file(&run)).map_err(writing)?;
        }
    }
    Ok(())
}

fn print_json(mut map: Map, out: &mut impl io::Write) -> Result<(), Failure> {
    out.write_all(b"[").map_err(writing)?;
    while let Some(run) = map.next().transpose()? {
        render::map::json(out, &run).map_err(writing)?;
        let after = if map.is_done() { "]\n" } else { ",\n" };
        out.write_all(after.as_bytes()).map_err(writing)?;
    }
    Ok(())
}
