//! The report of `convert --plan`: the work that a conversion would do.

use std::fmt::Write as _;

use crate::commands::forecast::{Forecast, ForecastImage};
use crate::error::printable;
use crate::units::human_size;

/// Renders a forecast.
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
        if forecast.exists {
            "exists and is written over"
        } else {
            "is made"
        }
    );
    let (size, read) = (forecast.size, forecast.read);
    let _ = writeln!(text, "disk: {} ({size} bytes)", human_size(size));
    let _ = writeln!(text, "to read: {} ({read} bytes)", human_size(read));
    let zeroes = size.saturating_sub(read);
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
