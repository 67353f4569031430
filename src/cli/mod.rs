//! The command line: from arguments to a typed plan, and from a report to text.
//!
//! Arguments are parsed first ([`args`], by clap, as data only) and interpreted after, here, one
//! function for each subcommand. Nothing in this room opens an image. Errors go to standard error
//! as one line with the program's name in front; on success standard error stays empty, since
//! callers take anything there for a failure.

mod args;
mod create_options;
mod image_name;
mod objects;
mod options;
mod password;
mod render;
mod usage;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::anyhow;
use clap::Parser as _;

use self::args::{CheckArgs, Cli, Command, ConvertArgs, CreateArgs, InfoArgs};
use self::create_options::Options;
use self::objects::Secrets;
use self::password::PasswordSource;
use crate::commands::check::Outcome;
use crate::commands::{self, Source, Target, TargetOptions};
use crate::convert::Settings;
use crate::formats::Format;
use crate::formats::qcow2::EncryptionMethod;
use crate::units::{SizeError, parse_size};

/// Exit statuses, as `qemu-img` documents them.
const FAILED: u8 = 1;
const CORRUPTIONS: u8 = 2;
const LEAKS: u8 = 3;
const NO_CHECK: u8 = 63;

/// By what name the program was called; the prefix of its messages.
static PROGRAM: OnceLock<String> = OnceLock::new();

fn program() -> &'static str {
    PROGRAM.get().map_or("cowhide", String::as_str)
}

/// Why a subcommand ended without doing its work.
enum Failure {
    /// It was called wrongly; help is hinted at.
    Usage(String),
    /// Anything else.
    Error(anyhow::Error),
    /// The reader of our output went away, which needs no message.
    OutputClosed,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

type Done = Result<ExitCode, Failure>;

/// Runs the program with the given arguments (the first is its name) and returns its exit status.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    let _ = PROGRAM.set(name.map_or("cowhide".into(), |name| name.to_string_lossy().into_owned()));
    let subcommand = arguments
        .get(1)
        .and_then(|argument| argument.to_str())
        .filter(|argument| !argument.starts_with('-'));
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            return finish(
                print(&error.to_string()).map(|()| ExitCode::SUCCESS),
                subcommand,
            );
        }
        Err(error) => {
            let known = error.kind() != clap::error::ErrorKind::InvalidSubcommand;
            let subcommand = subcommand.filter(|_| known);
            let (message, hint) = usage::describe(&error, program(), subcommand);
            match subcommand {
                Some(subcommand) => complain(&format!("{} {subcommand}: {message}", program())),
                None => complain(&format!("{}: {message}", program())),
            }
            complain(&hint);
            return ExitCode::from(FAILED);
        }
    };
    let done = match cli.command {
        None => Err(Failure::Usage("Not enough arguments".into())),
        Some(Command::Create(args)) => create(&args),
        Some(Command::Convert(args)) => convert(&args),
        Some(Command::Info(args)) => info(&args),
        Some(Command::Check(args)) => check(&args),
    };
    finish(done, subcommand)
}

fn finish(done: Done, subcommand: Option<&str>) -> ExitCode {
    match done {
        Ok(status) => return status,
        Err(Failure::OutputClosed) => {}
        Err(Failure::Error(error)) => complain(&format!("{}: {error:#}", program())),
        Err(Failure::Usage(message)) => {
            complain(&format!("{}: {message}", program()));
            complain(&usage::hint(program(), subcommand));
        }
    }
    ExitCode::from(FAILED)
}

/// Prints a line on standard error; when that fails, there is nobody left to tell.
fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints a warning; callers do so only where a person reads it.
fn warn(text: &str) {
    complain(&format!("{}: warning: {text}", program()));
}

/// Prints text on standard output at once.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => Err(Failure::Error(anyhow!(
            "writing to standard output: {}",
            crate::error::os_reason(&error)
        ))),
    }
}

/// How a report is printed.
#[derive(PartialEq, Eq)]
enum Output {
    Human,
    Json,
}

fn output(value: &str) -> Result<Output, Failure> {
    match value {
        "human" => Ok(Output::Human),
        "json" => Ok(Output::Json),
        other => Err(Failure::Usage(format!(
            "--output expects 'human' or 'json' not '{other}'"
        ))),
    }
}

fn one_operand(operands: &[OsString]) -> Result<&OsStr, Failure> {
    match operands {
        [operand] => Ok(operand),
        _ => Err(Failure::Usage("Expecting one image file name".into())),
    }
}

/// The image that an operand names, and how `info` shows its name.
fn source<'a>(
    operand: &OsStr,
    format: Option<&str>,
    image_opts: bool,
    secrets: &'a Secrets,
) -> Result<(Source<'a>, String), Failure> {
    if !image_opts {
        let source = image_name::by_name(operand, format)?;
        let shown = source.name.clone();
        return Ok((source, shown));
    }
    if format.is_some() {
        return Err(anyhow!("--image-opts and --format are mutually exclusive").into());
    }
    Ok(image_name::by_options(operand, secrets)?)
}

/// Reads the lists given with `-o`; `None` when they ask for help, which has been printed.
fn target_options(
    format: Format,
    name: &str,
    lists: &[String],
    encrypt: Option<&str>,
) -> Result<Option<Options>, Failure> {
    for list in lists {
        if options::asks_for_help(list) {
            print(&create_options::help(format))?;
            return Ok(None);
        }
        if !options::is_valid_list(list) {
            return Err(anyhow!("Invalid option list: {list}").into());
        }
    }
    let mut options = Options::parse(format, lists).map_err(|error| error.context(name))?;
    if let Some(encryption) = encrypt {
        if format != Format::Qcow2 {
            return Err(anyhow!("{name}: format '{format}' can't be encrypted").into());
        }
        options.set("encrypt.format", encryption.to_owned());
    }
    Ok(Some(options))
}

/// The new image that the options describe.
fn target<'a>(
    operand: &OsStr,
    format: Format,
    options: &Options,
    secrets: &'a Secrets,
    flush: bool,
) -> crate::error::Result<Target<'a>> {
    let options = match format {
        Format::Raw => {
            options.refuse_unsupported()?;
            TargetOptions::Raw
        }
        Format::Qcow2 => {
            let typed = options.qcow2()?;
            options.refuse_unsupported()?;
            let secret = match options.get("encrypt.key-secret") {
                Some(id) if typed.encryption != EncryptionMethod::None => Some(secrets.get(id)?),
                _ => None,
            };
            TargetOptions::Qcow2(typed, secret)
        }
    };
    Ok(Target {
        path: image_name::path(operand)?,
        name: operand.to_string_lossy().into_owned(),
        options,
        flush,
    })
}

fn create(args: &CreateArgs) -> Done {
    let secrets = Secrets::parse(&args.common.object)?;
    let passwords = PasswordSource::new(&args.password, args.common.quiet);
    let (operand, size) = match args.operands.as_slice() {
        [] if args.options.iter().any(|list| options::asks_for_help(list)) => {
            (OsStr::new(""), None)
        }
        [] => return Err(Failure::Usage("Expecting image file name".into())),
        [name] => (name.as_os_str(), None),
        [name, size] => (name.as_os_str(), Some(size)),
        [_, _, unexpected, ..] => {
            let unexpected = unexpected.to_string_lossy();
            return Err(Failure::Usage(format!("Unexpected argument: {unexpected}")));
        }
    };
    let name = operand.to_string_lossy();
    let format = image_name::format(&args.format).map_err(|error| error.context(&name))?;
    let size = size.map(|size| image_size(size)).transpose()?;
    let Some(mut options) = target_options(format, &name, &args.options, args.encrypt.as_deref())?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    let size = match (size, options.size()) {
        (Some(_), Some(_)) => {
            return Err(anyhow!("{name}: The image size must be specified only once").into());
        }
        (Some(size), None) | (None, Some(size)) => size,
        (None, None) => {
            return Err(anyhow!("{name}: Image creation needs a size parameter").into());
        }
    };
    options.set("size", size.to_string());
    if !args.common.quiet {
        print(&format!("{}\n", options.formatting_line(&name)))?;
    }
    let target =
        target(operand, format, &options, &secrets, true).map_err(|error| error.context(&name))?;
    commands::create::run(&target, size, &passwords)?;
    Ok(ExitCode::SUCCESS)
}

fn image_size(text: &OsStr) -> Result<u64, Failure> {
    let most = i64::MAX.cast_unsigned();
    let text = text.to_string_lossy();
    match parse_size(&text) {
        Ok(size) if size <= most => Ok(size),
        Ok(_) | Err(SizeError::OutOfRange) => {
            Err(anyhow!("Invalid image size specified. Must be between 0 and {most}.").into())
        }
        Err(SizeError::Malformed) => Err(anyhow!("Invalid image size specified: '{text}'.").into()),
    }
}

fn convert(args: &ConvertArgs) -> Done {
    let secrets = Secrets::parse(&args.common.object)?;
    let passwords = PasswordSource::new(&args.password, args.common.quiet);
    let asks_for_help = |list: &String| options::asks_for_help(list);
    let (from, to) = match args.operands.as_slice() {
        [from, to] => (from.as_os_str(), to.as_os_str()),
        _ if args.target_options.iter().any(asks_for_help) => (OsStr::new(""), OsStr::new("")),
        [] | [_] => return Err(anyhow!("Must specify image file name").into()),
        [_, second, ..] => {
            return Err(anyhow!(
                "more than one source ('{}') is not supported by this version",
                second.to_string_lossy()
            )
            .into());
        }
    };
    let name = to.to_string_lossy();
    let format = image_name::format(&args.target_format)?;
    let lists = &args.target_options;
    let Some(options) = target_options(format, &name, lists, args.encrypt.as_deref())? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (source, _) = source(
        from,
        args.source_format.as_deref(),
        args.image_opts,
        &secrets,
    )?;
    let target = target(to, format, &options, &secrets, false)
        .map_err(|error| error.context(format!("{name}: error while converting {format}")))?;
    if options.size().is_some() {
        return Err(
            anyhow!("{name}: the size is the source's; resize the image afterwards").into(),
        );
    }
    let plan = commands::convert::Plan {
        source,
        target,
        settings: Settings::default(),
    };
    commands::convert::run(&plan, &passwords)?;
    Ok(ExitCode::SUCCESS)
}

fn info(args: &InfoArgs) -> Done {
    let output = output(&args.output)?;
    let operand = one_operand(&args.operands)?;
    let secrets = Secrets::parse(&args.common.object)?;
    let (source, shown) = source(operand, args.format.as_deref(), args.image_opts, &secrets)?;
    let mut info = commands::info::run(&source)?;
    info.filename = shown;
    let text = match output {
        Output::Human => render::info::human(&info)?,
        Output::Json => render::json::render(&info)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> Done {
    let output = output(&args.output)?;
    let operand = one_operand(&args.operands)?;
    let secrets = Secrets::parse(&args.common.object)?;
    let (source, _) = source(operand, args.format.as_deref(), args.image_opts, &secrets)?;
    let mut on_finding = |finding: &crate::formats::qcow2::check::Finding| {
        complain(&finding.to_string());
    };
    let Outcome::Checked { format, report } = commands::check::run(&source, &mut on_finding)?
    else {
        complain(&format!(
            "{}: This image format does not support checks",
            program()
        ));
        return Ok(ExitCode::from(NO_CHECK));
    };
    match output {
        Output::Json => print(&render::check::json(&source.name, format, &report)?)?,
        Output::Human if args.common.quiet => {}
        Output::Human => print(&render::check::human(&report))?,
    }
    Ok(ExitCode::from(if report.corruptions != 0 {
        CORRUPTIONS
    } else if report.leaks != 0 {
        LEAKS
    } else {
        0
    }))
}
