//! The sector ciphers by backend and by length of run, next to the plain `cbc` crate.
//!
//! `cowhide speed` says how fast this machine is; this says whether a change to a kernel made it
//! faster, which takes criterion's statistics and its memory of the last time. Short runs matter as
//! much as long ones: 8 sectors are a cluster of 4 KiB, 128 one of the default size, 512 what a
//! second-level cache holds with room to spare.

use std::hint::black_box;
use std::time::Instant;

use cowhide::crypto::limit::register_limit;
use cowhide::crypto::reference::Reference;
use cowhide::crypto::{Backend, KeyedCipher, SECTOR_SIZE};
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

/// Prints the share of the limit, the best of several rounds of both, side by side.
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

    // What a run of 512 sectors reaches of the AES unit's limit, in one table.
    println!("share of the AES unit's limit, encrypting 512 sectors on one thread");
    for backend in Backend::available() {
        for bits in [128, 256] {
            let (keys, _) = keys.split_at(bits / 4);
            share_of_limit(backend, bits, &KeyedCipher::aes_xts(keys, backend));
        }
    }

    criterion.final_summary();
}
