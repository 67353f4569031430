//! The subcommand `convert`: it parses its options, and refuses invalid combinations.

use std::ffi::{OsStr, OsString};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::ExitCode;

use anyhow::anyhow;

use super::args::ConvertArgs;
use super::checksum::{algorithm, checksum_line};
use super::chosen_format::{ChosenFormat, with_values};
use super::operands::{self, Output, cache, existing_target, source, target, target_options};
use super::password::PasswordSource;
use super::progress::Progress;
use super::{Done, Failure, complain_of, print, print_bytes, render, warn};
use crate::commands::convert::{BitmapCopies, Converted, Sources};
use crate::commands::{self, Driver, Sharing, Target};
use crate::convert::{MOST_WORKERS, Reflink, Settings};
use crate::crypto::Secrets;
use crate::error::Error;
use crate::formats::Format;
use crate::formats::snapshots::SnapshotName;
use crate::nodes::file_name;
use crate::options::Values;
use crate::options::list::{self, KeyValue};
use crate::storage::{CacheMode, list as protocols};
use crate::units::SECTOR_SIZE;

/// Runs the subcommand.
pub(super) fn run(args: &ConvertArgs, secrets: &Secrets) -> Done {
    let settings = settings(args)?;
    let output = operands::output(&args.output)?;
    if output == Output::Json && !args.plan {
        return Err(Failure::Usage("--output=json is only for --plan".into()));
    }
    let checksum = args.checksum.as_deref().map(algorithm).transpose()?;
    check_existing(args)?;
    let bitmaps = bitmap_copies(args)?;
    let name = args.operands.last().map(OsString::as_os_str);
    if operands::helped(args.target_format(), name, &args.target_options)? {
        return Ok(ExitCode::SUCCESS);
    }
    let Some((to, from @ [_, ..])) = args.operands.split_last() else {
        return Err(anyhow!("Must specify image file name").into());
    };
    let source_cache = cache(&args.source_cache, "Invalid source cache option")?;
    let quiet = args.common.quiet;
    let passwords = PasswordSource::with_help(&args.password, quiet, &args.plausible)?;
    let own = args.target_password.given();
    let own = own
        .map(|own| PasswordSource::new(&own, quiet))
        .transpose()?;
    let target_passwords = own.as_ref().unwrap_or(&passwords);
    let progress = Progress::new(&args.progress, quiet)?;
    let open = || -> Result<_, Failure> {
        let sources = open_sources(args, from, source_cache, secrets, &passwords)?;
        let (target, is_backed) = plan_target(args, to, from.len(), secrets)?;
        Ok(commands::convert::Conversion {
            sources,
            target,
            settings: Settings {
                leave_unallocated: is_backed,
                ..settings
            },
            verify: args.verify,
            checksum,
            bitmaps,
        })
    };
    if args.plan {
        let forecast = commands::forecast::run(&open()?)?;
        print(&match output {
            Output::Human => render::forecast::human(&forecast),
            Output::Json => render::forecast::json(&forecast)?,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    progress.begin();
    let converted = open().and_then(|plan| {
        let converted = commands::convert::run(&plan, target_passwords, &progress);
        let driver = plan.target.driver;
        Ok(converted.map_err(|error| with_values(error, driver, &args.target_options))?)
    });
    progress.end();
    let converted = converted?;
    report(args, to, &converted)?;
    progress.converted(&converted);
    Ok(ExitCode::SUCCESS)
}

/// Returns the treatment of the source's persistent bitmaps.
fn bitmap_copies(args: &ConvertArgs) -> Result<BitmapCopies, Failure> {
    Ok(match (args.bitmaps, args.skip_broken_bitmaps) {
        (false, false) => BitmapCopies::Leave,
        (true, false) => BitmapCopies::All,
        (true, true) => BitmapCopies::Consistent,
        (false, true) => {
            return Err(anyhow!("Use of --skip-broken-bitmaps requires --bitmaps").into());
        }
    })
}

/// Prints what a conversion into the image `to` skipped, and what else was wanted of it.
fn report(args: &ConvertArgs, to: &OsStr, converted: &Converted) -> Result<(), Failure> {
    for name in &converted.skipped_bitmaps {
        warn(&format!("Skipping inconsistent bitmap '{name}'"));
    }
    if args.verify && !args.common.quiet {
        let size = converted.size;
        print(&format!(
            "Verified: the target holds the same {size} bytes as the source.\n"
        ))?;
    }
    if let Some(digest) = &converted.digest {
        print_bytes(&checksum_line(digest, to))?;
    }
    Ok(())
}

/// Opens the images to be converted.
fn open_sources(
    args: &ConvertArgs,
    from: &[OsString],
    cache: CacheMode,
    secrets: &Secrets,
    passwords: &PasswordSource,
) -> Result<Sources, Failure> {
    let snapshot = args.snapshot.as_deref().map(snapshot_name).transpose()?;
    let sources = from.iter().map(|name| {
        let format = args.source_format.as_deref();
        let (mut source, _) = source(name, format, args.image_opts, secrets)?;
        source.policy.cache = cache;
        source.policy.salvage = args.salvage;
        source.policy.ignores_holes = args.ignore_holes;
        if args.force_share {
            source.sharing = source.sharing.max(Sharing::Forced);
        }
        source.policy.names = operands::names(&args.common);
        source.snapshot = snapshot.clone().filter(|_| from.len() == 1);
        Ok(source)
    });
    let sources = sources.collect::<Result<Vec<_>, Failure>>()?;
    let opened = Sources::open(&sources, passwords)?;
    if snapshot.is_some() && sources.len() > 1 {
        return Err(anyhow!("No support for concatenating multiple snapshot").into());
    }
    Ok(opened)
}

/// Returns the description of the target. Returns true with it if the target has a backing file, to which the
/// unallocated parts of the source are left.
fn plan_target<'a>(
    args: &ConvertArgs,
    to: &OsStr,
    sources: usize,
    secrets: &'a Secrets,
) -> Result<(Target<'a>, bool), Failure> {
    let name = to.to_string_lossy();
    let driver = match args.target_image_opts {
        true => Driver::Format(Format::RAW),
        false => operands::driver(args.target_format())?,
    };
    if !args.no_create {
        driver.check_creates()?;
        let path = file_name::path(to)?;
        protocols::check_creates(driver.protocol(), &path)?;
    }
    let encrypt = args.encrypt.as_deref();
    let chosen = ChosenFormat {
        option: "-O",
        given: args.target_format.as_deref(),
    };
    let mut options = target_options(driver, &args.target_options, encrypt, chosen)?;
    let is_backed = set_backing(args, sources, driver, &mut options, chosen)?;
    if args.compress && !args.no_create {
        check_compression(driver.format(), &options, chosen)?;
    }
    if !args.common.quiet && !args.target_image_opts {
        chosen.warn_of_name(to);
    }
    let target_cache = cache(&args.target_cache, "Invalid cache option")?;
    if args.target_image_opts && args.target_format.is_some() {
        return Err(anyhow!("--image-opts and --format are mutually exclusive").into());
    }
    let mut target = if args.no_create {
        let options = args.target_image_opts;
        let format = args.target_format();
        let mut target = existing_target(to, format, options, secrets, target_cache)?;
        if let Some(existing) = &mut target.existing {
            existing.is_zero = args.target_is_zero;
            existing.leaves_parts = is_backed;
        }
        target.names = operands::names(&args.common);
        target
    } else {
        target(to, driver, options, secrets, target_cache).map_err(|error| {
            let driver = driver.name();
            error.context(format!("{name}: error while converting {driver}"))
        })?
    };
    target.names_below = operands::names(&args.common);
    target.compressed = args.compress;
    target.align = align(args, &target)?;
    if args.compress && !target.driver.format().capabilities().compresses {
        return Err(no_compression(chosen));
    }
    Ok((target, is_backed))
}

/// Parses `--align`: the number of bytes of which the target's length will be a multiple.
fn align(args: &ConvertArgs, target: &Target<'_>) -> Result<Option<NonZeroU64>, Failure> {
    let Some(text) = &args.align else {
        return Ok(None);
    };
    if args.no_create {
        return Err(anyhow!("--align has no effect when skipping image creation").into());
    }
    if !target.driver.format().capabilities().transparent {
        return Err(anyhow!("--align is for raw targets: other formats have a disk's size").into());
    }
    let align = NonZeroU64::new(operands::size(text, "alignment")?);
    let align = align.filter(|align| align.get().is_multiple_of(SECTOR_SIZE));
    let error = || anyhow!("Invalid alignment specified: it must be a multiple of {SECTOR_SIZE}");
    align.map(Some).ok_or_else(|| error().into())
}

/// Parses `-l`, the name of a snapshot.
pub(super) fn snapshot_name(text: &OsStr) -> Result<SnapshotName, Failure> {
    if !text.as_bytes().starts_with(b"snapshot.") {
        return Ok(SnapshotName::Either(text.as_bytes().to_vec()));
    }
    let (mut id, mut name) = (None, None);
    for KeyValue { key, value, .. } in list::parse(text, None) {
        match key.as_str() {
            "snapshot.id" => id = Some(value.into_vec()),
            "snapshot.name" => name = Some(value.into_vec()),
            _ => {
                complain_of(&anyhow!("Invalid parameter '{key}'"));
                let text = text.display();
                return Err(anyhow!("Failed in parsing snapshot param '{text}'").into());
            }
        }
    }
    Ok(SnapshotName::Both { id, name })
}

/// Sets the target's backing file from the options. Returns true if the target will have one.
fn set_backing(
    args: &ConvertArgs,
    sources: usize,
    driver: Driver,
    options: &mut Values,
    chosen: ChosenFormat<'_>,
) -> Result<bool, Failure> {
    if args.no_create {
        if args.backing.is_some() && sources > 1 {
            return Err(several_sources());
        }
        if args.backing.is_some() && args.target_is_zero {
            return Err(anyhow!(
                "Cannot use --target-is-zero when the destination image has a backing file"
            )
            .into());
        }
        return Ok(args.backing.is_some());
    }
    let (backing, format) = (args.backing.as_deref(), args.backing_format.as_deref());
    operands::set_backing(options, driver, backing, format, chosen)?;
    if options.name("backing_file").is_none() {
        return Ok(false);
    }
    if sources > 1 {
        return Err(several_sources());
    }
    if options.text("backing_fmt").is_none() {
        let error = Error::invalid("Use of backing file requires explicit backing format");
        return Err(error.with_hint("-F FORMAT gives it").into());
    }
    Ok(true)
}

fn several_sources() -> Failure {
    anyhow!(
        "Having a backing file for the target makes no sense when concatenating multiple input images"
    )
    .into()
}

/// Refuses a target that can't be compressed, in the words of `qemu-img`. The values of the options are checked
/// later.
fn check_compression(
    format: Format,
    options: &Values,
    chosen: ChosenFormat<'_>,
) -> Result<(), Failure> {
    if !format.capabilities().compresses {
        return Err(no_compression(chosen));
    }
    if options.text("encrypt.format").is_some() || options.switch("encryption") == Some(true) {
        return Err(anyhow!("Compression and encryption not supported at the same time").into());
    }
    if options
        .text("preallocation")
        .is_some_and(|mode| mode != "off")
    {
        return Err(anyhow!("Compression and preallocation not supported at the same time").into());
    }
    Ok(())
}

fn no_compression(chosen: ChosenFormat<'_>) -> Failure {
    let message = "Compression not supported for this file format";
    let error = chosen.refuse(message.into(), |format| format.capabilities().compresses);
    error.into()
}

/// Refuses options that need an existing target, or a new one.
fn check_existing(args: &ConvertArgs) -> Result<(), Failure> {
    if args.target_image_opts && !args.no_create {
        return Err(anyhow!("--target-image-opts requires use of -n flag").into());
    }
    if args.target_is_zero && !args.no_create {
        return Err(anyhow!("--target-is-zero requires use of -n flag").into());
    }
    if args.no_create && !args.target_options.is_empty() {
        return Err(anyhow!("-o has no effect when skipping image creation").into());
    }
    Ok(())
}

fn settings(args: &ConvertArgs) -> Result<Settings, Failure> {
    let mut settings = Settings {
        copy_offload: args.copy_range_offloading,
        salvage: args.salvage,
        ..Settings::default()
    };
    if let Some(text) = &args.parallel {
        settings.workers = workers(text)?;
    }
    if let Some(text) = &args.sparse_size {
        settings.sparse = sparse_size(text)?;
    }
    if let Some(text) = &args.reflink {
        settings.reflink = Reflink::from_name(text).ok_or_else(|| {
            anyhow!("Invalid value for --reflink: '{text}' is none of auto, always and never")
        })?;
    }
    if let Some(text) = &args.rate {
        settings.rate = Some(operands::size(text, "rate limit")?);
    }
    if args.copy_range_offloading {
        if args.compress {
            return Err(anyhow!("Cannot enable copy offloading when -c is used").into());
        }
        if args.sparse_size.is_some() {
            return Err(anyhow!("Cannot enable copy offloading when -S is used").into());
        }
        if args.salvage {
            return Err(anyhow!("Cannot use copy offloading in salvaging mode").into());
        }
    }
    Ok(settings)
}

/// Parses `-m`, the number of threads.
pub(super) fn workers(text: &str) -> Result<NonZeroUsize, Failure> {
    let workers = list::parse_integer(text)
        .ok_or_else(|| anyhow!("Invalid number of coroutines specified: '{text}'."))?;
    let workers = usize::try_from(workers).ok().and_then(NonZeroUsize::new);
    workers
        .filter(|workers| workers.get() <= MOST_WORKERS)
        .ok_or_else(|| {
            anyhow!("Invalid number of coroutines specified. Must be between 1 and {MOST_WORKERS}.")
                .into()
        })
}

/// Parses `-S`: the shortest run of zeroes that is skipped, in bytes. Returns `None` if all are written.
pub(super) fn sparse_size(text: &str) -> Result<Option<NonZeroUsize>, Failure> {
    let size = operands::size(text, "buffer size for sparse output")?;
    let size = usize::try_from(size)
        .ok()
        .filter(|size| size.is_multiple_of(512) && *size <= LARGEST_SPARSE)
        .ok_or_else(|| {
            anyhow!(
                "Invalid buffer size for sparse output specified. Valid sizes are multiples of \
                 512 up to {LARGEST_SPARSE}. Select 0 to disable sparse detection (fully \
                 allocates output)."
            )
        })?;
    Ok(NonZeroUsize::new(size))
}

/// The largest value that `-S` accepts, in bytes.
const LARGEST_SPARSE: usize = 16 << 20;
