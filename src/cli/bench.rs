//! The subcommand `bench`: it parses its numbers, and prints three lines, or an object at the end.

use std::borrow::Cow;
use std::process::ExitCode;

use anyhow::anyhow;
use serde::Serialize;

use super::args::BenchArgs;
use super::operands::{
    self, Output, number_between, one_operand, size_between, source, source_to_change,
};
use super::password::PasswordSource;
use super::{Done, Failure, print};
use crate::commands::Sharing;
use crate::commands::bench::{Measurable, RequestPlan};
use crate::crypto::Secrets;
use crate::options::qemu_json;
use crate::storage::CacheMode;

/// The largest value of most options: the largest C int.
const MOST: u64 = i32::MAX.unsigned_abs() as u64;

/// Runs the subcommand.
pub(super) fn run(args: &BenchArgs, secrets: &Secrets) -> Done {
    let plan = plan(args)?;
    let output = operands::output(&args.output.output)?;
    let cache = cache(&args.written.cache)?;
    let is_native = args.aio.as_deref().map(is_native).transpose()?;
    let operand = one_operand(&args.operands)?;
    if plan.pattern.is_none() && plan.flush_interval > 0 {
        return Err(anyhow!("--flush-interval is only available in write tests").into());
    }
    if plan.flush_interval > 0 && plan.flush_interval < plan.depth {
        return Err(anyhow!("Flush interval can't be smaller than depth").into());
    }
    let passwords = PasswordSource::new(&args.password, args.common.quiet)?;
    let format = args.named.format.as_deref();
    let mut image = match plan.pattern {
        Some(_) => source_to_change(operand, format, args.named.image_opts, secrets)?,
        None => source(operand, format, args.named.image_opts, secrets)?.0,
    };
    image.policy.cache = cache;
    image.policy.names = operands::names(&args.common);
    image.needs_direct |= args.native || is_native == Some(true);
    if args.force_share {
        image.sharing = image.sharing.max(Sharing::Forced);
    }
    let opened = Measurable::open(&image, plan, &passwords)?;
    if output == Output::Human {
        print(&lines(&plan))?;
    }
    let seconds = opened.run()?.as_secs_f64();
    print(&match output {
        Output::Human => format!("Run completed in {seconds:3.3} seconds.\n"),
        Output::Json => qemu_json::render(&BenchReport {
            filename: operand.to_string_lossy(),
            operation: operation(&plan),
            requests: plan.count,
            length: plan.size,
            in_flight: plan.depth,
            offset: plan.offset,
            step: plan.step,
            flush_interval: plan.flush_interval,
            seconds,
        })?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The requests and their time, as a report. The names are those of `speed --storage`, where it has them.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct BenchReport<'a> {
    filename: Cow<'a, str>,
    operation: &'static str,
    requests: u64,
    length: usize,
    in_flight: u64,
    offset: u64,
    step: u64,
    flush_interval: u64,
    seconds: f64,
}

fn operation(plan: &RequestPlan) -> &'static str {
    match plan.pattern {
        Some(_) => "write",
        None => "read",
    }
}

/// Returns the lines that describe the requests.
fn lines(plan: &RequestPlan) -> String {
    let RequestPlan {
        count,
        depth,
        size,
        offset,
        step,
        flush_interval,
        ..
    } = plan;
    let kind = operation(plan);
    let mut text = format!(
        "Sending {count} {kind} requests, {size} bytes each, {depth} in parallel (starting at offset \
         {offset}, step size {step})\n"
    );
    if *flush_interval > 0 {
        text += &format!("Sending flush every {flush_interval} requests\n");
    }
    text
}

fn plan(args: &BenchArgs) -> Result<RequestPlan, Failure> {
    let size = buffer_size(&args.buffer_size)?;
    Ok(RequestPlan {
        count: count(&args.count)?,
        depth: depth(&args.depth)?,
        size: usize::try_from(size)?,
        offset: operands::size(&args.offset, "offset")?,
        step: match step_size(&args.step_size)? {
            0 => size,
            step => step,
        },
        pattern: match (args.write, pattern(&args.pattern)?) {
            (true, pattern) => Some(pattern),
            (false, _) => None,
        },
        flush_interval: flush_interval(&args.flush_interval)?,
        drains: !args.no_drain,
    })
}

/// Checks the value of one of the options.
///
/// # Errors
/// Returns an error if the value is invalid.
pub(super) fn check_option(option: &str, value: &str) -> Result<(), Failure> {
    match option {
        "count" => count(value).map(drop),
        "depth" => depth(value).map(drop),
        "buffer_size" => buffer_size(value).map(drop),
        "step_size" => step_size(value).map(drop),
        "offset" => operands::size(value, "offset").map(drop),
        "pattern" => pattern(value).map(drop),
        "flush_interval" => flush_interval(value).map(drop),
        "cache" => cache(value).map(drop),
        "aio" => is_native(value).map(drop),
        _ => Ok(()),
    }
}

/// Parses the number of requests.
fn count(text: &str) -> Result<u64, Failure> {
    number_between(text, "request count", 1, MOST)
}

/// Parses the number of requests in flight.
fn depth(text: &str) -> Result<u64, Failure> {
    number_between(text, "queue depth", 1, MOST)
}

/// Parses the size of a request in bytes.
fn buffer_size(text: &str) -> Result<u64, Failure> {
    size_between(text, "buffer size", 1, MOST)
}

/// Parses the distance from one request to the next in bytes.
fn step_size(text: &str) -> Result<u64, Failure> {
    size_between(text, "step size", 0, MOST)
}

/// Parses the byte that is written.
fn pattern(text: &str) -> Result<u8, Failure> {
    let byte = number_between(text, "pattern byte", 0, u8::MAX.into())?;
    Ok(u8::try_from(byte)?)
}

/// Parses the number of requests between flushes.
fn flush_interval(text: &str) -> Result<u64, Failure> {
    number_between(text, "flush interval", 0, MOST)
}

/// Returns the cache mode that `-t` names.
fn cache(name: &str) -> Result<CacheMode, Failure> {
    CacheMode::from_name(name).ok_or_else(|| anyhow!("Invalid cache mode").into())
}

/// Returns true for the backend that needs a file opened without the page cache: `native`.
fn is_native(name: &str) -> Result<bool, Failure> {
    match name {
        "native" => Ok(true),
        "threads" | "io_uring" => Ok(false),
        _ => Err(anyhow!("Invalid aio option: {name}").into()),
    }
}
