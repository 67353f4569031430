//! Benchmarks of the sector ciphers by backend and by length of run, next to the plain `cbc` crate.
//!
//! `cowhide speed` measures the machine. This benchmark shows if a change made a kernel faster, with criterion's
//! statistics and its comparison with the last run. Short runs matter as much as long ones. 8 sectors are a cluster
//! of 4 KiB, 128 are one of the default size, and 512 fit easily into a second-level cache.
//!
//! At the end, OpenSSL's AES-256-XTS of 512 bytes and cryptsetup's PBKDF2 are measured alternately with cowhide's, if
//! they are installed.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::Instant;

use cowhide::crypto::limit::register_limit;
use cowhide::crypto::reference::Reference;
use cowhide::crypto::{Backend, HashAlgorithm, KeyedCipher, SECTOR_SIZE, iterations_per_second};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};

const KEY: &[u8; 16] = b"cowhide, at full";
const RUNS: [usize; 3] = [8, 128, 512];

fn each_run(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, work: impl Fn(&mut [u8])) {
    for sectors in RUNS {
        let mut data = vec![0; sectors * SECTOR_SIZE];
        group.throughput(Throughput::BytesDecimal(data.len() as u64));
        group.bench_function(BenchmarkId::new(name, sectors), |bencher| {
            bencher.iter(|| work(black_box(&mut data)));
        });
    }
}

/// Prints the share of the limit: the best of several rounds of both, measured directly after each other.
fn share_of_limit(backend: Backend, bits: usize, cipher: &KeyedCipher) {
    const ROUNDS: usize = 200;
    let mut data = vec![0; 512 * SECTOR_SIZE];
    let mut best = 0.0_f64;
    let mut limit = 0.0_f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        cipher.encrypt(0, black_box(&mut data));
        let speed = data.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
        best = best.max(speed);
        if let Some(measured) = register_limit(backend, bits, 1) {
            limit = limit.max(measured.gb_per_s);
        }
    }
    if limit > 0.0 {
        let share = best / limit;
        println!("xts-{bits} {backend}: {best:.1} of {limit:.1} GB/s, {share:.2}");
    }
}

/// Encrypts runs of 512 sectors for about `milliseconds`. Returns the speed in GB/s.
fn xts_speed(cipher: &KeyedCipher, milliseconds: u128) -> f64 {
    let mut data = vec![0; 512 * SECTOR_SIZE];
    let mut bytes = 0;
    let start = Instant::now();
    while start.elapsed().as_millis() < milliseconds {
        cipher.encrypt(0, black_box(&mut data));
        bytes += data.len();
    }
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Runs a program, and returns the first number that `find` parses in a line. Returns `None` if the program is
/// missing.
fn figure(program: &str, args: &str, find: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let mut command = Command::new(program);
    command
        .args(args.split(' '))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(find)
}

/// Prints the medians of both figures, and of their ratios in each round.
fn beside(what: &str, ours: impl Fn() -> f64, theirs: impl Fn() -> Option<f64>) {
    const ROUNDS: usize = 5;
    let rounds: Option<Vec<(f64, f64)>> = (0..ROUNDS).map(|_| Some((ours(), theirs()?))).collect();
    let Some(rounds) = rounds else {
        println!("{what}: there is nothing to compare with");
        return;
    };
    let median = |figure: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all.get(ROUNDS / 2).copied().unwrap_or(0.0)
    };
    let (one, two) = (median(|round| round.0), median(|round| round.1));
    let ratio = median(|round| round.0 / round.1);
    println!("{what}: {one:.3} and {two:.3}, ratio {ratio:.2}");
}

/// Compares with other programs that encrypt disks.
fn others() {
    let keys: Vec<u8> = (0..64).collect();
    let cipher = KeyedCipher::aes_xts(&keys, Backend::detect());
    let openssl = || {
        let args = "speed -mr -evp aes-256-xts -bytes 512 -seconds 1";
        let speed = figure("openssl", args, |line| {
            line.strip_prefix("+F:")?.rsplit(':').next()?.parse().ok()
        });
        speed.map(|bytes| bytes / 1e9)
    };
    beside(
        "AES-256-XTS in GB/s, ours and OpenSSL's of 512 bytes",
        || xts_speed(&cipher, 1000),
        openssl,
    );
    let cryptsetup = || {
        let args = "benchmark --pbkdf pbkdf2 --hash sha256";
        figure("cryptsetup", args, |line| {
            let rest = line.strip_prefix("PBKDF2-sha256")?;
            rest.split_whitespace().next()?.parse().ok()
        })
    };
    beside(
        "PBKDF2-SHA256 in iterations a second, ours and cryptsetup's",
        || iterations_per_second(HashAlgorithm::Sha256, 32) as f64,
        cryptsetup,
    );
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let reference = Reference::cbc(KEY);

    let mut group = criterion.benchmark_group("encrypt");
    each_run(&mut group, "cbc-crate", |data| reference.encrypt(0, data));
    for backend in Backend::available() {
        let cipher = KeyedCipher::aes_cbc(KEY, backend);
        each_run(&mut group, backend.name(), |data| cipher.encrypt(0, data));
    }
    group.finish();

    let mut group = criterion.benchmark_group("decrypt");
    each_run(&mut group, "cbc-crate", |data| reference.decrypt(0, data));
    for backend in Backend::available() {
        let cipher = KeyedCipher::aes_cbc(KEY, backend);
        each_run(&mut group, backend.name(), |data| cipher.decrypt(0, data));
    }
    group.finish();

    let keys: Vec<u8> = (0..64).collect();
    for bits in [128, 256] {
        let (keys, _) = keys.split_at(bits / 4);
        let mut group = criterion.benchmark_group(format!("xts-{bits}-encrypt"));
        let reference = Reference::xts(keys);
        each_run(&mut group, "plain", |data| reference.encrypt(0, data));
        for backend in Backend::available() {
            let cipher = KeyedCipher::aes_xts(keys, backend);
            each_run(&mut group, backend.name(), |data| cipher.encrypt(0, data));
        }
        group.finish();

        let mut group = criterion.benchmark_group(format!("xts-{bits}-decrypt"));
        each_run(&mut group, "plain", |data| reference.decrypt(0, data));
        for backend in Backend::available() {
            let cipher = KeyedCipher::aes_xts(keys, backend);
            each_run(&mut group, backend.name(), |data| cipher.decrypt(0, data));
        }
        group.finish();
    }

    // This table has the share of the AES unit's limit for runs of 512 sectors.
    println!("share of the AES unit's limit, encrypting 512 sectors on one thread");
    for backend in Backend::available() {
        for bits in [128, 256] {
            let (keys, _) = keys.split_at(bits / 4);
            share_of_limit(backend, bits, &KeyedCipher::aes_xts(keys, backend));
        }
    }

    others();

    criterion.final_summary();
}
