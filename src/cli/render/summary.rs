//! The summary of a conversion: a line of text, or a JSON object.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::commands::convert::Converted;
use crate::crypto::{Backend, chosen_backend};
use crate::formats::encryption::EncryptionFormat;
use crate::units::human_size;

/// Renders the line: the disk's size, the time, the rate, the numbers of bytes, and the cipher's backend if there was
/// a cipher.
pub fn human(converted: &Converted, elapsed: Duration) -> String {
    let bytes = &converted.bytes;
    let seconds = elapsed.as_secs_f64();
    let mut line = format!(
        "{} in {seconds:.2} s ({}/s): {} read, {} written",
        human_size(converted.size),
        human_size(rate(converted.size, seconds)),
        human_size(bytes.read),
        human_size(bytes.written),
    );
    // Writing to a string can't fail.
    if let Some(zeroes) = zeroes(converted) {
        let _ = write!(line, ", {} zeroes", human_size(zeroes));
    }
    if bytes.shared > 0 {
        let _ = write!(line, ", {} shared", human_size(bytes.shared));
    }
    let [from, to] = converted.encryption.map(name);
    let ciphers = match (from, to) {
        (None, None) => return line,
        (Some(from), None) => format!("decrypted ({from})"),
        (None, Some(to)) => format!("encrypted ({to})"),
        (Some(from), Some(to)) => format!("decrypted ({from}), encrypted ({to})"),
    };
    let _ = write!(line, "; {ciphers}");
    if let Ok(backend) = chosen_backend() {
        let _ = write!(line, " by {}", backend.name());
    }
    line
}

/// Renders the object.
pub fn json(converted: &Converted, elapsed: Duration) -> Value {
    let bytes = &converted.bytes;
    let [from, to] = converted.encryption.map(name);
    let backend = match (from, to) {
        (None, None) => None,
        _ => chosen_backend().ok().map(Backend::name),
    };
    json!({
        "finished": {
            "virtual-size": converted.size,
            "read": bytes.read,
            "stored": bytes.stored,
            "written": bytes.written,
            "shared": bytes.shared,
            "zeroes": zeroes(converted),
            "seconds": elapsed.as_secs_f64(),
            "source-encryption": from,
            "target-encryption": to,
            "cipher-backend": backend,
        }
    })
}

/// Returns the number of bytes of the disk that aren't stored because they are zero. Returns `None` for a target with
/// a backing file, for which it isn't known.
fn zeroes(converted: &Converted) -> Option<u64> {
    let rest = converted.size.saturating_sub(converted.bytes.stored);
    (!converted.is_backed).then_some(rest)
}

fn name(encryption: Option<EncryptionFormat>) -> Option<&'static str> {
    encryption.map(EncryptionFormat::name)
}

/// Returns the rate in bytes per second.
fn rate(bytes: u64, seconds: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "three significant digits are printed"
    )]
    if seconds > 0.0 {
        (bytes as f64 / seconds) as u64
    } else {
        bytes
    }
}
