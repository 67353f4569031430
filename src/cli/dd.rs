//! The subcommand `dd`: it parses its operands `name=value`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::anyhow;

use super::args::DdArgs;
use super::chosen_format::ChosenFormat;
use super::operands::{self, source, target};
use super::password::PasswordSource;
use super::{Done, Failure, complain_of};
use crate::commands::dd::{self, BlockSource, DdBlocks, cant_create};
use crate::commands::{Driver, Sharing};
use crate::crypto::Secrets;
use crate::error::Error;
use crate::nodes::file_name;
use crate::options::Values;
use crate::storage::{CacheMode, list as protocols};
use crate::units::SECTOR_SIZE;

/// The largest size of a block in bytes: the largest C int.
const LARGEST_BLOCK: u64 = i32::MAX.unsigned_abs() as u64;

/// Runs the subcommand.
pub(super) fn run(args: &DdArgs, secrets: &Secrets) -> Done {
    let DdOperands {
        input: Some(input),
        output: Some(output),
        blocks,
    } = DdOperands::of(&args.operands)?
    else {
        return Err(anyhow!("Must specify both input and output files").into());
    };
    let passwords = PasswordSource::with_help(&args.password, args.common.quiet, &args.plausible)?;
    let (mut from, _) = source(input, args.format.as_deref(), args.image_opts, secrets)?;
    from.policy.names = operands::names(&args.common);
    if args.force_share {
        from.sharing = from.sharing.max(Sharing::Forced);
    }
    let opened = BlockSource::open(&from, &passwords)?;
    let chosen = ChosenFormat {
        option: "-O",
        given: args.output_format.as_deref(),
    };
    let wanted = chosen.given.unwrap_or("raw");
    let driver = Driver::from_name(wanted);
    let driver =
        driver.ok_or_else(|| operands::unknown_format_in("Unknown file format", wanted))?;
    let path = file_name::new_file(output)?;
    let range = blocks.of_disk(opened.size());
    if range.is_beyond_end {
        // As in qemu-img it succeeds nevertheless, with an empty image.
        let input = input.to_string_lossy();
        complain_of(&anyhow!("{input}: cannot skip to specified offset"));
    }
    let name = output.to_string_lossy();
    let failed = |error: Error| cant_create(&name, error);
    driver.check_creates()?;
    protocols::check_creates(driver.protocol(), &path).map_err(failed)?;
    if !args.common.quiet {
        chosen.warn_of_name(output);
    }
    let options = Values::of_lists(&driver.create_options(), &[]).map_err(failed)?;
    let to = target(output, driver, options, secrets, CacheMode::Writeback).map_err(failed)?;
    dd::run(&opened, range, &to, &passwords)?;
    Ok(ExitCode::SUCCESS)
}

/// The parsed operands.
struct DdOperands<'a> {
    input: Option<&'a OsStr>,
    output: Option<&'a OsStr>,
    blocks: DdBlocks,
}

impl<'a> DdOperands<'a> {
    /// Parses the operands from left to right. The last one of a name counts.
    ///
    /// # Errors
    /// Returns an error if an operand has another name, or a value that isn't a number or is out of range.
    fn of(operands: &'a [OsString]) -> Result<Self, Failure> {
        let mut read = Self {
            input: None,
            output: None,
            blocks: DdBlocks {
                size: SECTOR_SIZE,
                count: None,
                skip: 0,
            },
        };
        for operand in operands {
            let bytes = operand.as_bytes();
            let mut parts = bytes.splitn(2, |byte| *byte == b'=');
            let name = OsStr::from_bytes(parts.next().unwrap_or_default());
            let unknown = || {
                let error = Error::invalid(format!("unrecognized operand {}", name.display()));
                error.with_hint(
                    "The operands are if=FILE, of=FILE, bs=SIZE, count=BLOCKS and skip=BLOCKS",
                )
            };
            let value = OsStr::from_bytes(parts.next().ok_or_else(unknown)?);
            let text = value.to_string_lossy();
            match name.to_str() {
                Some("if") => read.input = Some(value),
                Some("of") => read.output = Some(value),
                Some("bs") => {
                    read.blocks.size = operands::size_between(&text, "bs", 1, LARGEST_BLOCK)?;
                }
                Some("count") => read.blocks.count = Some(operands::number(&text, "count")?),
                Some("skip") => read.blocks.skip = operands::number(&text, "skip")?,
                _ => return Err(unknown().into()),
            }
        }
        Ok(read)
    }
}
