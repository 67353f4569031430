//! The report of `speed --storage` as text: a table.

use std::fmt::Write as _;

use crate::commands::speed::StorageReport;
use crate::error::printable;
use crate::units::human_size;

/// Renders a report.
pub fn human(report: &StorageReport) -> String {
    let cache = match report.bypasses_cache {
        true => "past the page cache",
        false => "through the page cache, as the file system can't bypass it",
    };
    let mut text = format!(
        "{}, {}, {cache}\n\n            in flight  requests/s        MB/s   median ms  longest ms\n",
        printable(&report.path),
        human_size(report.span),
    );
    for speed in &report.requests {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{:5} {:>7} {:8} {:11.0} {:11.1} {:11.3} {:11.3}",
            speed.operation,
            human_size(speed.length as u64),
            speed.in_flight,
            speed.per_second,
            speed.megabytes_per_second,
            speed.median_milliseconds,
            speed.longest_milliseconds,
        );
    }
    text.push_str("\nMB are 10^6 bytes. Conversions keep as many requests in flight as are worth it, up to 64.\n");
    text
}
