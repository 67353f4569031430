//! The speed of the ciphers alone: without files and tables, on a buffer that stays in a core's second-level cache.
//!
//! With all threads, each has a buffer, and all work in the same time window. It begins when the last thread is
//! ready, and time that a thread doesn't get in it lowers the figure. Threads wait for it without sleeping. A
//! sleeping thread may be woken on the core of the thread that wakes it, and share that core for the whole window.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::report::{CbcCrateSpeed, CipherSpeed, XtsSpeed};
use super::rounds::{self, Samples};
use crate::crypto::limit::register_limit;
use crate::crypto::reference::Reference;
use crate::crypto::{Backend, KeyedCipher};

/// The length of a thread's buffer in bytes: half of a small second-level cache, and half of what a conversion
/// encrypts at once.
pub const BUFFER_SIZE: usize = 256 << 10;

/// The key. Its value doesn't affect the speed.
pub const KEY: &[u8; 16] = b"cowhide, at full";

/// The two keys of XTS, the first half of them with keys of 128 bits.
const XTS_KEYS: &[u8; 64] = b"cowhide, at full speed, with two keys of up to 256 bits for XTS.";

/// The limits on the time of one measurement: many passes over the buffer, but within a time slice of the scheduler.
const LONGEST: Duration = Duration::from_millis(2);
const SHORTEST: Duration = Duration::from_micros(300);
/// The number of rounds that a small budget is divided into.
const WANTED_ROUNDS: u32 = 5;
/// A generous time for a waiting thread to notice the window.
const NOTICE: Duration = Duration::from_micros(20);
/// The number of measurements of the limit in a round, of which the best counts. Each takes some tens of
/// microseconds.
const LIMIT_REPETITIONS: usize = 3;
/// The stack of a thread in bytes. Neither the ciphers nor the measurements need much.
const STACK_SIZE: usize = 256 << 10;

/// The results.
pub struct Speeds {
    /// The number of threads that "all threads" means.
    pub threads: usize,
    pub backends: Vec<CipherSpeed>,
    pub xts: Vec<XtsSpeed>,
    pub cbc_crate: CbcCrateSpeed,
    pub rounds: u32,
    pub spread: f64,
}

/// A backend with a mode and a key, and its measurements.
struct CipherSamples {
    backend: Backend,
    key_bits: usize,
    cipher: KeyedCipher,
    encrypt_one: Samples,
    decrypt_one: Samples,
    encrypt_all: Samples,
    /// The samples of a figure that is only reported of CBC.
    decrypt_all: Option<Samples>,
    limit: Samples,
}

impl CipherSamples {
    fn cbc(backend: Backend) -> Self {
        let cipher = KeyedCipher::aes_cbc(KEY, backend);
        Self::new(backend, 128, cipher, Some(Samples::default()))
    }

    fn xts(backend: Backend, key_bits: usize) -> Self {
        let (keys, _) = XTS_KEYS.split_at(key_bits / 4);
        Self::new(backend, key_bits, KeyedCipher::aes_xts(keys, backend), None)
    }

    fn new(
        backend: Backend,
        key_bits: usize,
        cipher: KeyedCipher,
        decrypt_all: Option<Samples>,
    ) -> Self {
        Self {
            backend,
            key_bits,
            cipher,
            encrypt_one: Samples::default(),
            decrypt_one: Samples::default(),
            encrypt_all: Samples::default(),
            decrypt_all,
            limit: Samples::default(),
        }
    }

    /// Returns the number of speeds that each round measures.
    fn figures(&self) -> usize {
        3 + usize::from(self.decrypt_all.is_some())
    }

    fn round(&mut self, one: &mut [Vec<u8>], all: &mut [Vec<u8>], time: Duration) {
        let cipher = &self.cipher;
        let encrypt = |data: &mut [u8]| cipher.encrypt(0, data);
        let decrypt = |data: &mut [u8]| cipher.decrypt(0, data);
        // The two figures of a ratio are measured one directly after the other.
        self.encrypt_one.push(speed(one, time, &encrypt));
        if let Some(limit) = register_limit(self.backend, self.key_bits, LIMIT_REPETITIONS) {
            self.limit.push(limit.gb_per_s);
        }
        self.decrypt_one.push(speed(one, time, &decrypt));
        self.encrypt_all.push(speed(all, time, &encrypt));
        if let Some(samples) = &mut self.decrypt_all {
            samples.push(speed(all, time, &decrypt));
        }
    }

    /// Returns the limit, if it was measured, and the share of it that the cipher reaches.
    fn limit(&self) -> Option<(f64, f64)> {
        let limit = self.limit.median();
        // A share above 1 would only mean that the limit was measured under worse conditions.
        (limit > 0.0).then(|| (limit, self.encrypt_one.times(&self.limit).min(1.0)))
    }

    fn cbc_result(&self, cbc_encrypt: &Samples, cbc_decrypt: &Samples) -> CipherSpeed {
        CipherSpeed {
            name: self.backend.name(),
            encrypt_one_thread: self.encrypt_one.median(),
            decrypt_one_thread: self.decrypt_one.median(),
            encrypt_all_threads: self.encrypt_all.median(),
            decrypt_all_threads: self.decrypt_all.as_ref().map_or(0.0, Samples::median),
            limit: self.limit().map(|(limit, _)| limit),
            share_of_limit: self.limit().map(|(_, share)| share),
            times_cbc_crate_encrypt: self.encrypt_one.times(cbc_encrypt),
            times_cbc_crate_decrypt: self.decrypt_one.times(cbc_decrypt),
        }
    }

    fn xts_result(&self) -> XtsSpeed {
        XtsSpeed {
            name: self.backend.name(),
            key_bits: self.key_bits,
            encrypt_one_thread: self.encrypt_one.median(),
            decrypt_one_thread: self.decrypt_one.median(),
            encrypt_all_threads: self.encrypt_all.median(),
            limit: self.limit().map(|(limit, _)| limit),
            share_of_limit: self.limit().map(|(_, share)| share),
        }
    }
}

/// Measures every backend that this machine has, on one thread and on `threads`, or on fewer if the system refuses
/// more.
pub fn measure(threads: usize, budget: Duration) -> Speeds {
    let threads = startable(threads);
    let mut ciphers: Vec<_> = Backend::available()
        .into_iter()
        .map(CipherSamples::cbc)
        .collect();
    let mut xts: Vec<_> = Backend::available()
        .into_iter()
        .flat_map(|backend| [128, 256].map(|bits| CipherSamples::xts(backend, bits)))
        .collect();
    let cbc_crate = Reference::cbc(KEY);
    let cbc_encrypt = |data: &mut [u8]| cbc_crate.encrypt(0, data);
    let cbc_decrypt = |data: &mut [u8]| cbc_crate.decrypt(0, data);
    let mut cbc_encrypt_one = Samples::default();
    let mut cbc_decrypt_one = Samples::default();

    let mut one = vec![vec![0; BUFFER_SIZE]];
    let mut all = vec![vec![0; BUFFER_SIZE]; threads];
    let figures = ciphers.iter().chain(&xts).map(CipherSamples::figures);
    let measurements = u32::try_from(figures.sum::<usize>() + 2).unwrap_or(u32::MAX);
    let time = (budget / measurements / WANTED_ROUNDS).clamp(SHORTEST, LONGEST);
    let Ok(rounds) = rounds::repeat(budget, || {
        cbc_encrypt_one.push(speed(&mut one, time, &cbc_encrypt));
        cbc_decrypt_one.push(speed(&mut one, time, &cbc_decrypt));
        for cipher in ciphers.iter_mut().chain(&mut xts) {
            cipher.round(&mut one, &mut all, time);
        }
        Ok::<_, Infallible>(())
    });
    Speeds {
        threads,
        backends: ciphers
            .iter()
            .map(|cipher| cipher.cbc_result(&cbc_encrypt_one, &cbc_decrypt_one))
            .collect(),
        xts: xts.iter().map(CipherSamples::xts_result).collect(),
        cbc_crate: CbcCrateSpeed {
            encrypt_one_thread: cbc_encrypt_one.median(),
            decrypt_one_thread: cbc_decrypt_one.median(),
        },
        rounds,
        // The simplest measurement represents all.
        spread: cbc_encrypt_one.spread(),
    }
}

/// Returns the number of threads that can run at once, including this one, up to `wanted`. A limit on processes
/// counts threads, too.
fn startable(wanted: usize) -> usize {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let started = (1..wanted).take_while(|_| {
            let builder = thread::Builder::new().stack_size(STACK_SIZE);
            builder.spawn_scoped(scope, || drop(gate.lock())).is_ok()
        });
        let threads = 1 + started.count();
        drop(closed);
        threads
    })
}

/// The time window in which all threads of a measurement work.
#[derive(Clone, Copy)]
struct TimeWindow {
    start: Instant,
    end: Instant,
}

/// Measures the total GB/s of `work` on all of `buffers`, each on its own thread.
fn speed(buffers: &mut [Vec<u8>], time: Duration, work: &(dyn Fn(&mut [u8]) + Sync)) -> f64 {
    let Some((own, others)) = buffers.split_first_mut() else {
        return 0.0;
    };
    let ready = AtomicUsize::new(0);
    let opening = OnceLock::new();
    let total = Mutex::new(0.0);
    let add = |speed: f64| *total.lock().unwrap_or_else(PoisonError::into_inner) += speed;
    thread::scope(|scope| {
        let (ready, opening, add) = (&ready, &opening, &add);
        let mut started = 0;
        for buffer in others {
            let spawned = thread::Builder::new()
                .name("speed".into())
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, move || {
                    work(buffer);
                    ready.fetch_add(1, Ordering::Relaxed);
                    let window = loop {
                        match opening.get() {
                            Some(window) => break *window,
                            None => thread::yield_now(),
                        }
                    };
                    // A thread that got no core in the window has done nothing in it.
                    if wait_for(window) {
                        add(speed_within(window, buffer, work));
                    }
                });
            // Other processes may have used up the limit on threads.
            if spawned.is_err() {
                break;
            }
            started += 1;
        }
        work(own);
        while ready.load(Ordering::Relaxed) < started {
            thread::yield_now();
        }
        let start = Instant::now() + NOTICE;
        let window = TimeWindow {
            start,
            end: start + time,
        };
        let _ = opening.set(window);
        wait_for(window);
        add(speed_within(window, own, work));
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the start of the window without sleeping. Returns false if the window has ended already.
fn wait_for(window: TimeWindow) -> bool {
    loop {
        let now = Instant::now();
        if now >= window.start {
            return now < window.end;
        }
        std::hint::spin_loop();
    }
}

/// Measures the GB/s of this thread, counted from the start of the window even if the thread is late.
fn speed_within(window: TimeWindow, buffer: &mut [u8], work: &(dyn Fn(&mut [u8]) + Sync)) -> f64 {
    let mut passes = 0.0;
    loop {
        work(buffer);
        passes += 1.0;
        let now = Instant::now();
        if now >= window.end {
            let seconds = now.duration_since(window.start).as_secs_f64();
            return passes * BUFFER_SIZE as f64 / seconds / 1e9;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_worked_on_and_counted() {
        let mut buffers = vec![vec![0; 16]; 3];
        let work = |data: &mut [u8]| data.fill(1);
        let speed = speed(&mut buffers, Duration::from_millis(1), &work);
        assert!(speed > 0.0);
        assert_eq!(buffers, vec![vec![1; 16]; 3]);
    }
}
