//! The report of `speed` as text: the backend and the reason for it, and then two tables with bars, 100 columns wide.

use std::fmt::Write as _;

use crate::commands::speed::{BUSY, CipherSpeed, ClusterSpeed, Report, XtsSpeed};
use crate::crypto::Backend;
use crate::error::printable;
use crate::units::human_size;

/// The greatest width of a cipher's bar, and of each of the two bars of a cluster size.
const CIPHER_BAR: usize = 25;
const CLUSTER_BAR: usize = 21;

/// Renders a report.
pub fn human(report: &Report) -> String {
    let mut text = String::new();
    machine(&mut text, report);
    ciphers(&mut text, report);
    xts(&mut text, report);
    clusters(&mut text, report);
    let measurement = &report.measurement;
    // Writing to a string can't fail, here and below.
    let _ = write!(
        text,
        "\nGB/s are 10^9 bytes a second. Everything was measured in turn, in short rounds ({} of the \
         ciphers,\n{} of the conversions), and the median counts: of the speeds, and of each round's \
         ratios.\n",
        measurement.cipher_rounds, measurement.conversion_rounds
    );
    if measurement.spread > BUSY {
        let _ = writeln!(
            text,
            "\nThe machine is busy: half of what should be equal differs by {:.0} % and more. Measure \
             again when it\nis idle.",
            measurement.spread * 100.0
        );
    }
    text
}

fn machine(text: &mut String, report: &Report) {
    let cpu = &report.cpu;
    let machine = if cpu.virtualised {
        ", in a virtual machine"
    } else {
        ""
    };
    let threads = plural(cpu.threads, "thread");
    field(
        text,
        "CPU",
        &format!("{} ({threads}{machine})", printable(&cpu.model)),
    );
    let features: Vec<_> = cpu
        .features
        .iter()
        .map(|feature| format!("{} {}", feature.name, yes(feature.present)))
        .collect();
    field(text, "features", &features.join("   "));
    let backend = &report.backend;
    field(
        text,
        "backend",
        &format!("{}: {}", backend.name, backend.description),
    );
    field(text, "why", &backend.reason);
    field(text, "AES unit", &aes_unit(report));
    match backend.symbol {
        Some(symbol) => {
            field(text, "kernel", &format!("{symbol}; to see it run:"));
            field(
                text,
                "",
                &format!("gdb -batch -ex 'break {symbol}' -ex run --args cowhide convert …"),
            );
            field(
                text,
                "",
                &format!("perf record -- cowhide convert …; perf annotate {symbol}"),
            );
        }
        None => field(text, "kernel", "none of our own: the code of the aes crate"),
    }
    if let Some(hint) = &report.hint {
        field(text, "hint", &printable(hint));
    }
}

/// Returns the line about the AES unit: if the backend uses it, and the share of its limit.
fn aes_unit(report: &Report) -> String {
    let name = report.backend.name;
    let used = report.ciphers.iter().find(|cipher| cipher.name == name);
    match used.and_then(|cipher| Some((cipher, cipher.limit?, cipher.share_of_limit?))) {
        Some((cipher, limit, share)) => format!(
            "used: encrypts {} GB/s on one thread, of the {} that it can do there ({:.0} %)",
            number(cipher.encrypt_one_thread),
            number(limit),
            share * 100.0
        ),
        None if name == Backend::Soft.name() => "not used: this backend is software".to_owned(),
        None => "left to the aes crate, which uses it where it knows how to".to_owned(),
    }
}

/// Writes a name and its text, wrapped to the width of the report.
fn field(text: &mut String, name: &str, value: &str) {
    let mut line = format!("{name:<10}");
    let mut has_words = false;
    for word in value.split(' ') {
        if has_words && line.chars().count() + 1 + word.chars().count() > 100 {
            text.push_str(line.trim_end());
            line = format!("\n{:<10}", "");
            has_words = false;
        }
        if has_words {
            line.push(' ');
        }
        line.push_str(word);
        has_words = true;
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

fn ciphers(text: &mut String, report: &Report) {
    let measurement = &report.measurement;
    let buffer = human_size(measurement.buffer_bytes as u64);
    let threads = format!("{} thr", measurement.threads);
    let _ = write!(
        text,
        "\nAES-128-CBC of 512-byte sectors, GB/s, in place on {buffer} per thread\n\n\
         {:11}{:>23} {:>23} {:>14}\n\
         {:11}{:>7}{:>9}{:>7} {:>7}{:>9}{:>7} {:>7}{:>7}  encrypting, 1 thread\n",
        "",
        "encrypting",
        "decrypting",
        "AES unit",
        "",
        "1 thr",
        threads,
        "× cbc",
        "1 thr",
        threads,
        "× cbc",
        "limit",
        "used"
    );
    let cbc = &report.cbc_crate;
    let all = report.ciphers.iter();
    let largest = all
        .map(|cipher| cipher.encrypt_one_thread)
        .fold(cbc.encrypt_one_thread, f64::max);
    let _ = writeln!(
        text,
        "{:11}{:>7}{:>9}{:>7} {:>7}{:>9}{:>7} {:>7}{:>7}  {}",
        "cbc crate",
        number(cbc.encrypt_one_thread),
        "–",
        "1",
        number(cbc.decrypt_one_thread),
        "–",
        "1",
        "–",
        "–",
        bar(cbc.encrypt_one_thread, largest, CIPHER_BAR)
    );
    for cipher in &report.ciphers {
        cipher_row(text, cipher, cipher.name == report.backend.name, largest);
    }
    text.push_str("* the backend that is used\n");
}

fn cipher_row(text: &mut String, cipher: &CipherSpeed, chosen: bool, largest: f64) {
    let name = format!("{}{}", cipher.name, if chosen { " *" } else { "" });
    let _ = writeln!(
        text,
        "{:11}{:>7}{:>9}{:>7} {:>7}{:>9}{:>7} {:>7}{:>7}  {}",
        name,
        number(cipher.encrypt_one_thread),
        number(cipher.encrypt_all_threads),
        number(cipher.times_cbc_crate_encrypt),
        number(cipher.decrypt_one_thread),
        number(cipher.decrypt_all_threads),
        number(cipher.times_cbc_crate_decrypt),
        cipher.limit.map_or_else(|| "–".to_owned(), number),
        cipher
            .share_of_limit
            .map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
        bar(cipher.encrypt_one_thread, largest, CIPHER_BAR)
    );
}

fn xts(text: &mut String, report: &Report) {
    let threads = format!("{} thr", report.measurement.threads);
    let _ = write!(
        text,
        "\nAES-XTS of the same, as LUKS has it, GB/s\n\n\
         {:11}{:>5}{:>18} {:>11} {:>18}\n\
         {:11}{:>5}{:>9}{:>9} {:>11} {:>9}{:>9}  encrypting, 1 thread\n",
        "",
        "key",
        "encrypting",
        "decrypting",
        "AES unit",
        "",
        "bits",
        "1 thr",
        threads,
        "1 thr",
        "limit",
        "used"
    );
    let speeds = report.xts.iter().map(|speed| speed.encrypt_one_thread);
    let largest = speeds.fold(0.0, f64::max);
    for speed in &report.xts {
        xts_row(text, speed, speed.name == report.backend.name, largest);
    }
}

fn xts_row(text: &mut String, speed: &XtsSpeed, chosen: bool, largest: f64) {
    let name = format!("{}{}", speed.name, if chosen { " *" } else { "" });
    let _ = writeln!(
        text,
        "{:11}{:>5}{:>9}{:>9} {:>11} {:>9}{:>9}  {}",
        name,
        speed.key_bits,
        number(speed.encrypt_one_thread),
        number(speed.encrypt_all_threads),
        number(speed.decrypt_one_thread),
        speed.limit.map_or_else(|| "–".to_owned(), number),
        speed
            .share_of_limit
            .map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
        bar(speed.encrypt_one_thread, largest, CIPHER_BAR)
    );
}

fn clusters(text: &mut String, report: &Report) {
    let measurement = &report.measurement;
    let _ = write!(
        text,
        "\nConverting {} of noise from raw to qcow2, in memory, {}, GB/s\n\n\
         {:>8} {:>7} {:>7} {:>7} {:>11} {:>7}  {:<width$}  AES\n",
        human_size(measurement.data_bytes),
        plural(measurement.conversion_threads, "thread"),
        "cluster",
        "plain",
        "AES",
        "longer",
        "metadata",
        "of file",
        "plain",
        width = CLUSTER_BAR
    );
    let sizes = &report.cluster_sizes;
    let largest = sizes
        .iter()
        .map(|size| size.plain.max(size.aes))
        .fold(0.0, f64::max);
    for size in sizes {
        let _ = writeln!(
            text,
            "{:>8} {:>7} {:>7} {:>7} {:>11} {:>7}  {:<width$}  {}",
            human_size(size.cluster_size),
            number(size.plain),
            number(size.aes),
            longer(size).map_or_else(|| "–".to_owned(), |percent| format!("{percent:+.0} %")),
            human_size(size.metadata_bytes),
            share(size.metadata_bytes, size.file_bytes),
            bar(size.plain, largest, CLUSTER_BAR),
            bar(size.aes, largest, CLUSTER_BAR),
            width = CLUSTER_BAR
        );
    }
    let slowest = sizes.iter().map(|size| size.plain).fold(largest, f64::min);
    let fastest = sizes.iter().map(|size| size.plain).fold(0.0, f64::max);
    let percent = (report.aes_takes_times - 1.0) * 100.0;
    let takes = if percent >= 1.0 {
        format!("takes {percent:.0} % longer")
    } else {
        "takes no longer that can be told".to_owned()
    };
    let _ = writeln!(
        text,
        "AES {takes} (median of all pairs).\nWithout AES, the slowest cluster size has {:.0} % of \
         the fastest's speed.",
        slowest * 100.0 / fastest
    );
}

/// Returns the time that AES adds to a conversion, in per cent.
fn longer(size: &ClusterSpeed) -> Option<f64> {
    (size.aes > 0.0).then(|| (size.plain / size.aes - 1.0) * 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    format!("{:.2} %", part as f64 * 100.0 / whole as f64)
}

/// Formats a figure with about three digits, which is its accuracy.
fn number(figure: f64) -> String {
    match figure {
        _ if figure >= 99.95 => format!("{figure:.0}"),
        _ if figure >= 9.995 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn yes(present: bool) -> &'static str {
    if present { "yes" } else { "no" }
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Draws a bar of at most `width` characters, with a resolution of an eighth.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and eight times the width"
)]
fn bar(value: f64, largest: f64, width: usize) -> String {
    if largest <= 0.0 {
        return String::new();
    }
    let eighths = ((value / largest).clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.extend("▏▎▍▌▋▊▉".chars().nth((eighths % 8).wrapping_sub(1)));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::speed::{CbcCrateSpeed, Chosen, Cpu, Feature, Measurement};

    fn report() -> Report {
        Report {
            cpu: Cpu {
                model: "Some CPU".to_owned(),
                threads: 1,
                features: vec![Feature {
                    name: "aes",
                    present: false,
                }],
                virtualised: true,
            },
            backend: Chosen {
                name: "vaes512",
                description: "kernels",
                reason: "because".to_owned(),
                symbol: Some("cowhide_aes128_cbc_encrypt_vaes512"),
            },
            measurement: Measurement {
                threads: 128,
                buffer_bytes: 256 << 10,
                cipher_rounds: 100,
                data_bytes: 64 << 20,
                conversion_threads: 16,
                conversion_rounds: 5,
                spread: 0.5,
            },
            ciphers: vec![CipherSpeed {
                name: "vaes512",
                encrypt_one_thread: 20.0,
                decrypt_one_thread: 20.0,
                encrypt_all_threads: 2560.0,
                decrypt_all_threads: 2560.0,
                limit: Some(40.0),
                share_of_limit: Some(0.5),
                times_cbc_crate_encrypt: 10.0,
                times_cbc_crate_decrypt: 1.25,
            }],
            cbc_crate: CbcCrateSpeed {
                encrypt_one_thread: 2.0,
                decrypt_one_thread: 16.0,
            },
            xts: vec![XtsSpeed {
                name: "vaes512",
                key_bits: 256,
                encrypt_one_thread: 19.0,
                decrypt_one_thread: 18.0,
                encrypt_all_threads: 1900.0,
                limit: Some(25.0),
                share_of_limit: Some(0.76),
            }],
            cluster_sizes: vec![ClusterSpeed {
                cluster_size: 65536,
                plain: 2.0,
                aes: 1.6,
                file_bytes: 1000,
                metadata_bytes: 125,
            }],
            aes_takes_times: 1.25,
            hint: Some("lay ".repeat(60) + "it bare"),
        }
    }

    #[test]
    fn nothing_is_wider_than_a_hundred_columns() {
        let text = human(&report());
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn the_figures_are_there() {
        let text = human(&report());
        for part in [
            "Some CPU (1 thread, in a virtual machine)",
            "aes no",
            "-ex 'break cowhide_aes128_cbc_encrypt_vaes512' -ex run --args cowhide convert …",
            "vaes512 *     20.0     2560   10.0    20.0     2560   1.25    40.0   50 %",
            "50 %  █████████████████████████\n",
            "vaes512 *    256     19.0     1900        18.0      25.0     76 %  ███",
            "20.0 GB/s on one thread, of the 40.0 that it can do there (50 %)",
            "AES takes 25 % longer (median of all pairs).\nWithout",
            "The machine is busy: half of what should be equal differs by 50 % and more",
            "cbc crate     2.00        –      1",
            "–  ██▌\n",
            "+25 %       125 B 12.50 %  █████████████████████  ████████████████▊",
            "it bare",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn bars_are_drawn_to_an_eighth() {
        assert_eq!(bar(1.0, 2.0, 3), "█▌");
        assert_eq!(bar(3.0, 2.0, 3), "███");
        assert_eq!(bar(0.0, 2.0, 3), "");
        assert_eq!(bar(1.0, 0.0, 3), "");
    }
}
