//! PBKDF2: keys from passwords, with a number of iterations that makes guesses expensive.
//!
//! A key that is longer than a hash takes several independent derivations, which run in parallel. The number of
//! iterations is chosen by time: the creator of an image measures the iterations that a thread does in a second.

use std::thread;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

use super::hash::{HashAlgorithm, with_type};
use super::memory::wipe_stack;

/// The number of iterations from which on a thread is started, since they take much longer than that.
const ITERATIONS_FOR_A_THREAD: u32 = 2000;

/// The least time of a measurement. The resolution of the clock is nanoseconds.
const MEASURED: Duration = Duration::from_millis(10);

/// Derives a key of the length of `out` from a password. 0 iterations count as 1.
pub fn pbkdf2(hash: HashAlgorithm, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    with_type!(hash, D => if let Ok(mac) = Hmac::<D>::new_from_slice(password) {
        // HMAC takes keys of any length, so this never fails.
        derive(&mac, hash.length(), salt, iterations, out);
    });
}

/// Measures the number of iterations that a thread does in a second of processor time, for a key of `key_length`
/// bytes.
///
/// The blocks of a key count as if they were derived one after the other, as most programs do it.
pub fn iterations_per_second(hash: HashAlgorithm, key_length: usize) -> u64 {
    let mut block = Zeroizing::new(vec![0; hash.length()]);
    let mut iterations = 1024_u32;
    loop {
        let start = thread_time();
        pbkdf2(hash, b"a password", b"some salt", iterations, &mut block);
        let time = thread_time().saturating_sub(start);
        let next = iterations.checked_mul(2);
        if let (true, Some(next)) = (time < MEASURED, next) {
            iterations = next;
            continue;
        }
        let nanoseconds = time.as_nanos().max(1) * blocks(hash, key_length);
        let per_second = u128::from(iterations) * 1_000_000_000 / nanoseconds;
        return u64::try_from(per_second).unwrap_or(u64::MAX);
    }
}

/// Returns the number of blocks of a key of `key_length` bytes.
fn blocks(hash: HashAlgorithm, key_length: usize) -> u128 {
    key_length.div_ceil(hash.length()).max(1) as u128
}

/// Returns the processor time of this thread.
fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// Derives a key, in blocks of the length of a hash.
fn derive<M: Mac + Clone + Sync>(
    mac: &M,
    length: usize,
    salt: &[u8],
    iterations: u32,
    out: &mut [u8],
) {
    let derived = |index, length| {
        let mut block = Zeroizing::new(vec![0; length]);
        derive_block(mac, salt, index, iterations, &mut block);
        wipe_stack();
        block
    };
    let mut blocks = (1_u32..).zip(out.chunks_mut(length));
    let own = blocks.next();
    thread::scope(|scope| {
        let mut others = Vec::new();
        for (index, out) in blocks {
            let length = out.len();
            let work = move || derived(index, length);
            // Few iterations take less time than starting a thread, and the system may refuse one.
            let spawned = (iterations >= ITERATIONS_FOR_A_THREAD)
                .then(|| thread::Builder::new().spawn_scoped(scope, work).ok());
            others.push((index, out, spawned.flatten()));
        }
        if let Some((index, out)) = own {
            out.copy_from_slice(&derived(index, out.len()));
        }
        for (index, out, spawned) in others {
            let block = spawned.and_then(|thread| thread.join().ok());
            let block = block.unwrap_or_else(|| derived(index, out.len()));
            out.copy_from_slice(&block);
        }
    });
}

/// Derives the block of that number, which counts from 1.
#[inline(never)]
fn derive_block<M: Mac + Clone>(mac: &M, salt: &[u8], index: u32, iterations: u32, out: &mut [u8]) {
    let first = mac.clone().chain_update(salt);
    let mut last = first
        .chain_update(index.to_be_bytes())
        .finalize()
        .into_bytes();
    for (byte, with) in out.iter_mut().zip(&last) {
        *byte = *with;
    }
    for _ in 1..iterations {
        last = mac.clone().chain_update(&last).finalize().into_bytes();
        for (byte, with) in out.iter_mut().zip(&last) {
            *byte ^= with;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(
        hash: HashAlgorithm,
        password: &str,
        salt: &str,
        iterations: u32,
        n: usize,
    ) -> String {
        let mut out = vec![7; n];
        pbkdf2(
            hash,
            password.as_bytes(),
            salt.as_bytes(),
            iterations,
            &mut out,
        );
        out.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn more_time_is_more_iterations() {
        let one = iterations_per_second(HashAlgorithm::Sha256, 32);
        assert!(one > 1000, "{one}");
        assert_eq!(blocks(HashAlgorithm::Sha256, 64), 2);
        assert_eq!(blocks(HashAlgorithm::Sha1, 64), 4);
    }

    #[test]
    fn rfc_6070() {
        let derived = |password, salt, iterations, n| {
            derived(HashAlgorithm::Sha1, password, salt, iterations, n)
        };
        let wanted = "0c60c80f961f0e71f3a9b524af6012062fe037a6";
        assert_eq!(derived("password", "salt", 1, 20), wanted);
        let wanted = "4b007901b765489abead49d926f721d065a429c1";
        assert_eq!(derived("password", "salt", 4096, 20), wanted);
        let (password, salt) = (
            "passwordPASSWORDpassword",
            "saltSALTsaltSALTsaltSALTsaltSALTsalt",
        );
        let wanted = "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038";
        assert_eq!(derived(password, salt, 4096, 25), wanted);
        assert_eq!(
            derived("pass\0word", "sa\0lt", 4096, 16),
            "56fa6aa75548099dcc37d7f03425e0c3"
        );
    }

    #[test]
    fn rfc_7914() {
        let derived = |password, salt, iterations| {
            derived(HashAlgorithm::Sha256, password, salt, iterations, 64)
        };
        assert_eq!(
            derived("passwd", "salt", 1),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783"
        );
        assert_eq!(
            derived("Password", "NaCl", 80000),
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56\
             a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d"
        );
    }
}
