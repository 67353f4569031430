//! Tests of the benchmarks' arithmetic and output, with invented figures.
//!
//! `cargo test` doesn't run programs under `benches/`. Nothing is measured here, so no test can fail because a
//! machine is slow.

// `figures` and its siblings are modules of `benches/cluster_size`, which refer to each other by `super`.
#[path = "../benches/cluster_size/answer.rs"]
mod answer;
#[path = "../benches/common/mod.rs"]
mod common;
#[path = "../benches/cluster_size/figures.rs"]
mod figures;
#[path = "../benches/cluster_size/page.rs"]
mod page;
#[path = "../benches/cluster_size/plot.rs"]
mod plot;
#[allow(dead_code, reason = "nothing is asked here, only made up")]
#[path = "../benches/cluster_size/speed.rs"]
mod speed;

use common::machine::Machine;
use common::measure::Cost;
use common::numbers;
use common::tools::Tool;
use figures::{Figures, Line, Point};

fn cost(wall: f64) -> Cost {
    Cost {
        wall,
        user: wall,
        system: 0.0,
        peak: 1 << 20,
    }
}

/// Returns figures of an imaginary machine. On it qemu-img takes ten times as long, and AES twice as long. Time falls
/// with the square root of the cluster size up to 64 KiB.
fn figures(with_qemu: bool, backend: &str) -> Figures {
    let points = |times: f64| {
        let point = |bits: u32| Point {
            cluster_size: 1 << bits,
            file_bytes: (256 << 20) + (64 << (30 - bits)),
            costs: vec![cost(times * f64::from(16 - bits.min(16)).exp2().sqrt()); 3],
        };
        (9..=21).map(point).collect()
    };
    let mut lines = Vec::new();
    for (tool, times) in [(Tool::Cowhide, 0.1), (Tool::QemuImg, 1.0)] {
        for (encrypted, price) in [(false, 1.0), (true, 2.0)] {
            if with_qemu || tool == Tool::Cowhide {
                lines.push(Line {
                    tool,
                    encrypted,
                    points: points(times * price),
                });
            }
        }
    }
    let speed = serde_json::json!({
        "cpu": {"model": "x", "threads": 2, "virtualised": true,
                "features": [{"name": "vaes", "present": true}]},
        "backend": {"name": backend, "reason": "chosen automatically"},
        "ciphers": [
            {"name": "soft", "encrypt-one-thread": 0.3, "decrypt-one-thread": 0.3,
             "encrypt-all-threads": 0.6, "decrypt-all-threads": 0.6,
             "times-cbc-crate-encrypt": 0.2, "times-cbc-crate-decrypt": 0.1},
            {"name": "vaes", "encrypt-one-thread": 20.0, "decrypt-one-thread": 20.0,
             "encrypt-all-threads": 40.0, "decrypt-all-threads": 40.0,
             "limit": 25.0, "share-of-limit": 0.8,
             "times-cbc-crate-encrypt": 20.0, "times-cbc-crate-decrypt": 3.0}],
        "cluster-sizes": [{"cluster-size": 512, "plain": 2.0, "aes": 1.9}],
    });
    Figures {
        machine: Machine::this(),
        disk_bytes: 256 << 20,
        rounds: 3,
        lines,
        speed: serde_json::from_value(speed).unwrap(),
    }
}

#[test]
fn medians_are_in_the_middle() {
    assert_eq!(numbers::median([3.0, 1.0, 2.0]), 2.0);
    assert_eq!(numbers::median([4.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(numbers::median([7.0]), 7.0);
    assert!(numbers::median([]).is_nan());
}

#[test]
fn a_ratio_is_the_rounds_median() {
    // The second round was slow for both, which must not give it more weight.
    let ours = [1.0, 30.0, 1.5].map(cost);
    let theirs = [2.0, 60.0, 2.0].map(cost);
    assert_eq!(numbers::ratio(&ours, &theirs), 0.5);
}

#[test]
fn numbers_are_short() {
    let digits = [1234.5, 99.94, 12.34, 1.234, 0.1234].map(numbers::three_digits);
    assert_eq!(digits, ["1234", "99.9", "12.3", "1.23", "0.123"]);
    let durations = [0.0, 0.004_56, 0.5, 12.0].map(numbers::duration);
    assert_eq!(durations, ["0", "4.56 ms", "0.500 s", "12.0 s"]);
    let sizes = [512, 1536, 65536, 1 << 30].map(numbers::size);
    assert_eq!(sizes, ["512 B", "1536 B", "64 KiB", "1 GiB"]);
    let shares = [0.5, 0.0196, 0.0002].map(numbers::percent);
    assert_eq!(shares, ["50 %", "2.0 %", "0.020 %"]);
    assert_eq!(numbers::parse_size("256M"), Ok(256 << 20));
    assert!(numbers::parse_size("0").is_err());
    assert!(numbers::parse_size("999999999999999G").is_err());
}

#[test]
fn labels_keep_apart_and_stay_in_order() {
    assert_eq!(plot::spread(&[10.0, 100.0]), [10.0, 100.0]);
    let places = plot::spread(&[10.0, 11.0, 12.0, 30.0, 200.0]);
    assert!(places.is_sorted());
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 17.9));
    assert_eq!(places[4], 200.0);
}

#[test]
fn the_answer_follows_from_the_figures() {
    let [unit, price, clusters] = answer::sentences(&figures(true, "vaes"));
    assert!(unit.starts_with("**Yes"), "{unit}");
    assert!(
        unit.contains("256-bit") && unit.contains("80 % of the 25.0 GB/s"),
        "{unit}"
    );
    assert_eq!(price.matches("2.00 times").count(), 4, "{price}");
    // It is the square root of 2⁷.
    assert_eq!(
        clusters.matches("11.3 times as long").count(),
        2,
        "{clusters}"
    );
    assert!(clusters.contains("from 64 KiB to 2 MiB"), "{clusters}");
    assert!(
        clusters.contains("33 % of the file with 512-byte"),
        "{clusters}"
    );
}

#[test]
fn without_qemu_img_or_an_aes_unit_there_is_a_page_too() {
    let figures = figures(false, "soft");
    let [unit, price, clusters] = answer::sentences(&figures);
    assert!(unit.starts_with("**No"), "{unit}");
    assert!(!price.contains("qemu-img") && !clusters.contains("qemu-img"));
    let page = page::render(&figures, "plot.svg");
    assert!(!page.contains("NaN") && page.contains("](plot.svg)"));
}

#[test]
fn the_page_and_the_plot_name_no_paths_of_the_machine() {
    let figures = figures(true, "vaes");
    let (page, plot) = (page::render(&figures, "plot.svg"), plot::svg(&figures));
    for text in [&page, &plot] {
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")) && !text.contains("/dev/shm"));
        assert!(text.contains("Generated by `cargo bench --bench cluster_size`"));
    }
    assert_eq!(plot.matches("<polyline").count(), 4);
    assert_eq!(plot.matches("<circle").count(), 4 * 13);
    // An option of the command has two hyphens, which XML doesn't allow in a comment.
    assert!(!plot.contains("<!--"));
    assert!(plot.contains("</title>") && plot.contains("</desc>") && !plot.contains("NaN"));
}
