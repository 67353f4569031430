//! The list of an image's internal snapshots as text, for `info` and `snapshot -l`.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::error::printable;
use crate::formats::snapshots::SnapshotInfo;
use crate::units::human_size;

/// Renders the list as `qemu-img` prints it, with times in the system's time zone. Returns an empty text
/// without snapshots.
pub fn list(snapshots: &[SnapshotInfo]) -> String {
    let mut text = String::new();
    if snapshots.is_empty() {
        return text;
    }
    let zone = TimeZone::system();
    text.push_str(
        "Snapshot list:\n\
         ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n",
    );
    for snapshot in snapshots {
        let size = human_size(snapshot.vm_state_size.cast_unsigned());
        let icount = snapshot
            .icount
            .map_or_else(|| "--".to_owned(), |count| count.to_string());
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{} {} {size:>8} {:>19} {:>15} {icount:>10}",
            padded(printable(&snapshot.id), 7),
            padded(printable(&snapshot.name), 16),
            date(snapshot.date_sec, &zone),
            clock(snapshot.vm_clock_sec, snapshot.vm_clock_nsec)
        );
    }
    text
}

/// Reads the time zone files that dates need, so that [`list`] opens no file.
pub fn prepare() {
    drop(TimeZone::system());
}

/// Pads a text with spaces to a width in bytes, as `qemu-img` does.
fn padded(mut text: String, width: usize) -> String {
    let blanks = width.saturating_sub(text.len());
    text.extend(std::iter::repeat_n(' ', blanks));
    text
}

fn date(seconds: u32, zone: &TimeZone) -> String {
    match Timestamp::from_second(i64::from(seconds)) {
        Ok(time) => {
            let time = zone.to_datetime(time);
            format!("{} {}", time.date(), time.time())
        }
        Err(_) => seconds.to_string(),
    }
}

/// Formats hours, minutes, seconds and thousandths.
fn clock(seconds: u64, nanoseconds: u64) -> String {
    format!(
        "{:04}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        nanoseconds / 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_time_zone() {
        assert_eq!(date(0, &TimeZone::UTC), "1970-01-01 00:00:00");
        assert_eq!(date(u32::MAX, &TimeZone::UTC), "2106-02-07 06:28:15");
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(date(1_000_000_000, &zone), "2001-09-09 03:46:40");
    }

    #[test]
    fn names_and_times() {
        let snapshot = SnapshotInfo {
            id: "1".into(),
            name: "before \x1b[2J".into(),
            vm_state_size: 12_345_678,
            date_sec: 0,
            date_nsec: 0,
            vm_clock_sec: 3_600_000 + 61,
            vm_clock_nsec: 2_000_000,
            icount: None,
        };
        let text = list(&[snapshot]);
        let line = text.lines().nth(2).unwrap();
        assert!(
            line.starts_with("1       before \\u{1b}[2J 11.8 MiB "),
            "{line}"
        );
        assert!(line.ends_with("  1000:01:01.002         --"), "{line}");
        assert_eq!(list(&[]), "");
    }
}
