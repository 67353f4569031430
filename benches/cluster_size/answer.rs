//! The answer to the project's original question, in three sentences from the figures.

use super::figures::{Figures, Line};
use crate::common::measure::Cost;
use crate::common::numbers::{percent, size, three_digits};
use crate::common::tools::Tool;

/// The default cluster size of both programs, in bytes.
const DEFAULT_CLUSTER: u64 = 64 << 10;
/// The greatest ratio to the fastest time at which cluster size doesn't matter.
const LEVEL: f64 = 1.2;

/// Returns the three sentences.
pub fn sentences(figures: &Figures) -> [String; 3] {
    [unit(figures), price(figures), clusters(figures)]
}

/// Returns the sentence about the AES unit: its use, the instructions, and the share of its limit.
fn unit(figures: &Figures) -> String {
    let backend = &figures.speed.backend;
    let speed = figures
        .speed
        .chosen()
        .map_or(f64::NAN, |cipher| cipher.encrypt_one_thread);
    let limit = figures
        .speed
        .chosen()
        .and_then(|cipher| cipher.limit.zip(cipher.share_of_limit));
    let Some((instructions, (limit, share))) = instructions(&backend.name).zip(limit) else {
        let answer = if backend.name == "portable" {
            "The `aes` crate decides whether the processor's AES unit is used"
        } else {
            "No, the processor's AES unit isn't used"
        };
        return format!(
            "**{answer}:** `cowhide` encrypted with the backend `{}` ({}), at {} GB/s on one thread.",
            backend.name,
            backend.reason,
            three_digits(speed)
        );
    };
    format!(
        "**Yes, the processor's AES unit is used:** `cowhide` encrypted with {instructions} (backend \
         `{}`, {}), at {} GB/s on one thread, which is {} of the {} GB/s that the unit does when \
         nothing needs to be read or written.",
        backend.name,
        backend.reason,
        three_digits(speed),
        percent(share),
        three_digits(limit)
    )
}

/// Returns the instructions of a backend with kernels.
pub fn instructions(backend: &str) -> Option<&'static str> {
    match backend {
        "aesni" => Some("AES-NI instructions, `aesenc` on 128-bit registers"),
        "vaes" => Some("VAES instructions, `vaesenc` on 256-bit registers"),
        "vaes512" => Some("VAES instructions, `vaesenc` on 512-bit registers"),
        _ => None,
    }
}

/// Returns the sentence about the cost of encryption.
fn price(figures: &Figures) -> String {
    let of = |tool| {
        let wall = figures.price(tool, DEFAULT_CLUSTER, |cost| cost.wall)?;
        let cpu = figures.price(tool, DEFAULT_CLUSTER, Cost::cpu)?;
        let wall = format!("**{} times the time**", three_digits(wall));
        Some(format!(
            "{wall} and {} times the CPU seconds",
            three_digits(cpu)
        ))
    };
    let ours = of(Tool::Cowhide).unwrap_or_else(|| "an unknown part".into());
    let theirs = match of(Tool::QemuImg) {
        Some(price) => format!("; `qemu-img` takes {price}"),
        None => String::new(),
    };
    format!(
        "With encryption, at the default cluster size of {}, `cowhide` takes {ours} that it takes \
         without{theirs}.",
        size(DEFAULT_CLUSTER)
    )
}

/// Returns the sentence about the effect of cluster size.
fn clusters(figures: &Figures) -> String {
    let spread = |line: &Line| {
        let (fastest, slowest) = line.extremes()?;
        let (from, to) = line.level(LEVEL)?;
        let level = if from == to {
            "nowhere else near that".into()
        } else {
            let percent = percent(LEVEL - 1.0);
            format!(
                "within {percent} of that from {} to {}",
                size(from),
                size(to)
            )
        };
        Some(format!(
            "`{}` takes **{} times as long** at its slowest ({}) as at its fastest ({}) and is {level}",
            line.tool.name(),
            three_digits(slowest.wall() / fastest.wall()),
            size(slowest.cluster_size),
            size(fastest.cluster_size),
        ))
    };
    let lines = [Tool::Cowhide, Tool::QemuImg].map(|tool| figures.line(tool, true));
    let spreads: Vec<String> = lines.into_iter().flatten().filter_map(spread).collect();
    let share = |cluster_size| {
        let point = figures.line(Tool::Cowhide, true)?.at(cluster_size)?;
        Some(percent(figures.metadata_share(point)))
    };
    let metadata = match (share(512), share(DEFAULT_CLUSTER)) {
        (Some(small), Some(large)) => format!(
            "; metadata is {small} of the file with 512-byte clusters and {large} with {}",
            size(DEFAULT_CLUSTER)
        ),
        _ => String::new(),
    };
    format!(
        "Among the cluster sizes, encrypting, {}{metadata}.",
        spreads.join(", and ")
    )
}
