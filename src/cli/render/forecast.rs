//! The report of `convert --plan`, as text and as JSON: the work that a conversion would do.

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands::forecast::{Forecast, ForecastImage};
use crate::crypto::Backend;
use crate::error::{Result, printable};
use crate::formats::driver::Measured;
use crate::formats::encryption::EncryptionFormat;
use crate::options::qemu_json;
use crate::units::human_size;

/// The report for programs, with the names of the summary of a conversion.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PlanReport<'a> {
    sources: Vec<PlannedImage<'a>>,
    target: PlannedImage<'a>,
    target_exists: bool,
    replaces_file: bool,
    virtual_size: u64,
    read: u64,
    zeroes: u64,
    measured: Option<Measured>,
    threads: usize,
    cipher_backend: Option<&'static str>,
}

#[derive(Serialize)]
struct PlannedImage<'a> {
    filename: &'a str,
    format: &'static str,
    encryption: Option<&'static str>,
}

impl<'a> PlannedImage<'a> {
    fn of(image: &'a ForecastImage) -> Self {
        Self {
            filename: &image.name,
            format: image.format,
            encryption: image.encryption.map(EncryptionFormat::name),
        }
    }
}

/// Renders a forecast as JSON.
///
/// # Errors
/// Returns the errors of [`qemu_json::render`].
pub fn json(forecast: &Forecast) -> Result<String> {
    qemu_json::render(&PlanReport {
        sources: forecast.sources.iter().map(PlannedImage::of).collect(),
        target: PlannedImage::of(&forecast.target),
        target_exists: forecast.exists,
        replaces_file: forecast.replaces,
        virtual_size: forecast.size,
        read: forecast.read,
        zeroes: zeroes(forecast),
        measured: forecast.measured,
        threads: forecast.threads,
        cipher_backend: forecast.backend.map(Backend::name),
    })
}

/// Returns the number of bytes of the disk that are known to be zero.
fn zeroes(forecast: &Forecast) -> u64 {
    forecast.size.saturating_sub(forecast.read)
}

/// Renders a forecast as text.
pub fn human(forecast: &Forecast) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    for source in &forecast.sources {
        let _ = writeln!(text, "source: {}", image(source));
    }
    let _ = writeln!(
        text,
        "target: {}, which {}",
        image(&forecast.target),
        match (forecast.exists, forecast.replaces) {
            (true, _) => "exists and is written over",
            (false, true) => "replaces an existing file",
            (false, false) => "is made",
        }
    );
    let (size, read) = (forecast.size, forecast.read);
    let _ = writeln!(text, "disk: {} ({size} bytes)", human_size(size));
    let _ = writeln!(text, "to read: {} ({read} bytes)", human_size(read));
    let zeroes = zeroes(forecast);
    let _ = writeln!(
        text,
        "known to be zero: {} ({zeroes} bytes)",
        human_size(zeroes)
    );
    if let Some(measured) = &forecast.measured {
        let (required, full) = (measured.required, measured.fully_allocated);
        let _ = writeln!(
            text,
            "size of the new file: at most {} ({required} bytes), with data everywhere {} ({full} bytes)",
            human_size(required),
            human_size(full)
        );
    }
    let _ = writeln!(text, "threads: {}", forecast.threads);
    if let Some(backend) = forecast.backend {
        let _ = writeln!(
            text,
            "cipher: {}, {}",
            backend.name(),
            backend.description()
        );
    }
    text
}

fn image(image: &ForecastImage) -> String {
    let encryption = match image.encryption {
        Some(encryption) => format!(", encrypted ({})", encryption.name()),
        None => String::new(),
    };
    format!("'{}', {}{encryption}", printable(&image.name), image.format)
}
