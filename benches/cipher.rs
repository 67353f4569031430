//! The sector cipher by backend and by length of run, next to the plain `cbc` crate.
//!
//! `cowhide speed` says how fast this machine is; this says whether a change to a kernel made it
//! faster, which takes criterion's statistics and its memory of the last time. Short runs matter as
//! much as long ones: 8 sectors are a cluster of 4 KiB, 128 one of the default size, 512 what a
//! second-level cache holds with room to spare.

use std::hint::black_box;

use cowhide::crypto::reference::Reference;
use cowhide::crypto::{AesCbc, Backend, SECTOR_SIZE};
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

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let reference = Reference::new(KEY);

    let mut group = criterion.benchmark_group("encrypt");
    each_run(&mut group, "cbc-crate", |data| reference.encrypt(0, data));
    for backend in Backend::available() {
        let cipher = AesCbc::new(KEY, backend);
        each_run(&mut group, backend.name(), |data| cipher.encrypt(0, data));
    }
    group.finish();

    let mut group = criterion.benchmark_group("decrypt");
    each_run(&mut group, "cbc-crate", |data| reference.decrypt(0, data));
    for backend in Backend::available() {
        let cipher = AesCbc::new(KEY, backend);
        each_run(&mut group, backend.name(), |data| cipher.decrypt(0, data));
    }
    group.finish();

    criterion.final_summary();
}
