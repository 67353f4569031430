//! The subcommand `map`: it prints extents as they are found.

use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::args::MapArgs;
use super::operands::{self, one_operand, size, source};
use super::password::PasswordSource;
use super::render::picture::{self, Picture, Terminal};
use super::{Done, Failure, render, stdout, writing};
use crate::commands::map::{self, Map};
use crate::crypto::Secrets;
use crate::error::{Error, printable};
use crate::formats::FileUse;

/// The format of the report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MapOutput {
    /// A table of the data.
    Human,
    /// QEMU's JSON.
    Json,
    /// A picture in characters.
    Picture,
    /// A drawing in SVG.
    Svg,
}

/// Returns the format that `--output` names.
pub(super) fn output(value: &str) -> Result<MapOutput, Failure> {
    Ok(match value {
        "picture" => MapOutput::Picture,
        "svg" => MapOutput::Svg,
        value => match operands::output(value)? {
            operands::Output::Human => MapOutput::Human,
            operands::Output::Json => MapOutput::Json,
        },
    })
}

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
    source.policy.names = operands::names(&args.common);
    source.sharing = args.image.sharing(source.sharing);
    source.policy.sandbox = !args.common.no_sandbox;
    let plan = map::MapPlan {
        source,
        start: start.unwrap_or(0),
        length,
    };
    let map = map::open(&plan, &passwords)?;
    let mut out = BufWriter::new(stdout().map_err(writing)?);
    let printed = match output {
        MapOutput::Human => print_human(map, &mut out),
        MapOutput::Json => print_json(map, &mut out),
        MapOutput::Picture | MapOutput::Svg => draw(map, operand, output, &mut out),
    };
    // The extents before an error are printed as well.
    let flushed = out.flush().map_err(writing);
    printed.and(flushed)?;
    Ok(ExitCode::SUCCESS)
}

fn print_human(mut map: Map, out: &mut impl io::Write) -> Result<(), Failure> {
    render::map::human_heading(out).map_err(writing)?;
    while let Some(run) = map.next().transpose()? {
        let status = &run.status;
        if status.data && status.offset.is_none() {
            let message = "File contains external, encrypted or compressed clusters.";
            let hint = "--output=json and --output=picture tell of all clusters";
            return Err(Error::unsupported(message).with_hint(hint).into());
        }
        if status.data && !status.zero {
            render::map::human(out, &run, map.file(&run)).map_err(writing)?;
        }
    }
    Ok(())
}

/// The number of rows of a picture, and the number of cells in a row of a drawing.
const ROWS: usize = 8;
const COLUMNS: usize = 128;

/// Draws the picture of an image.
fn draw(
    mut map: Map,
    name: &OsStr,
    output: MapOutput,
    out: &mut impl io::Write,
) -> Result<(), Failure> {
    let terminal = terminal();
    let cells = match output {
        MapOutput::Svg => ROWS * COLUMNS,
        _ => ROWS * terminal.width,
    };
    let name = printable(&name.to_string_lossy());
    let mut picture = Picture::new(name, map.range(), map.file_length()?, cells);
    for hole in map.holes()? {
        picture.add_hole(hole);
    }
    while let Some(run) = map.next().transpose()? {
        map.pieces(&run, &mut |piece| picture.add(piece))?;
    }
    let add = |picture: &mut Picture, used_for| {
        map.parts_of(used_for, &mut |part| picture.add_part(part, used_for))
    };
    let mut tells_all = add(&mut picture, FileUse::Metadata)?;
    if picture.has_compressed() {
        tells_all &= add(&mut picture, FileUse::Compressed)?;
    }
    picture.finish(tells_all);
    let text = match output {
        MapOutput::Svg => picture::svg(&picture),
        _ => picture::terminal(&picture, terminal),
    };
    out.write_all(text.as_bytes()).map_err(writing)
}

/// Returns the abilities of standard output: colours on a terminal, unless `NO_COLOR` is set.
fn terminal() -> Terminal {
    let width = rustix::termios::tcgetwinsize(io::stdout());
    let width = width.ok().map(|size| usize::from(size.ws_col));
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // The C library tests them in this order.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = locale.into_iter().find(|name| is_set(name));
    let locale = locale.and_then(|name| std::env::var(name).ok());
    let locale = locale.unwrap_or_default().to_uppercase();
    Terminal {
        width: width.filter(|width| *width > 0).unwrap_or(80),
        colours: io::stdout().is_terminal() && !is_set("NO_COLOR"),
        unicode: locale.contains("UTF-8") || locale.contains("UTF8"),
    }
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
