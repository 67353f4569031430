//! Tests of images with random writes of qemu-io, which cowhide must read as qemu-img does.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, run, same_contents};
use crate::tools::{SECRET, checks_agree, ours, qemu_img, spec, to_raw};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for seed in 0..24 {
        let name = format!("qemu_io::random_writes_{seed}");
        trials.push(trial(name, move || random_writes(seed)));
    }
    trials
}

fn random_writes(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9) + 1);
    let cluster = 512u64 << noise.below(10);
    let encrypted = !seed.is_multiple_of(2);
    let compat = if seed.is_multiple_of(3) {
        "0.10"
    } else {
        "1.1"
    };
    let size = (1 << 20) + noise.below(8 << 20) / 512 * 512;
    let mut options = format!("compat={compat},cluster_size={cluster}");
    if encrypted {
        options.push_str(",encrypt.format=aes,encrypt.key-secret=s");
    }
    let size_text = size.to_string();
    let args = [
        "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", &options, "x.qcow2",
    ];
    qemu_img(folder, &[&args[..], &[&size_text]].concat()).ok();
    let image = spec("x.qcow2", "qcow2", encrypted);
    let commands: Vec<String> = (0..40).map(|_| command(&mut noise, size)).collect();
    let mut args = vec!["--object", SECRET, "--image-opts", &image];
    for command in &commands {
        args.extend(["-c", command]);
    }
    let wrote = run(folder, "qemu-io", &args);
    assert_eq!(wrote.status, Some(0), "{wrote:?}");
    compare_readings(folder, &image);
}

fn command(noise: &mut Noise, size: u64) -> String {
    let start = noise.below(size / 512) * 512;
    let length = (1 + noise.below(200)) * 512;
    let length = length.min(size - start);
    match noise.below(6) {
        0 => format!("write -q -z {start} {length}"),
        1 => format!("write -q -z -u {start} {length}"),
        2 => format!("discard -q {start} {length}"),
        _ => format!("write -q -P {} {start} {length}", 1 + noise.below(255)),
    }
}

/// Compares cowhide's reading and check of an image with the oracle's.
fn compare_readings(folder: &Path, image: &str) {
    to_raw(ours, folder, image, "ours.raw");
    to_raw(qemu_img, folder, image, "theirs.raw");
    assert!(
        same_contents(&folder.join("ours.raw"), &folder.join("theirs.raw")),
        "{image}"
    );
    checks_agree(folder, image);
}
