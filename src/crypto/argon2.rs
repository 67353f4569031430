//! Argon2: keys from passwords, with a cost of memory as well as time.
//!
//! All of the memory is needed at once, so that many parallel guesses need as many times the memory. A derivation has
//! as many lanes as its creator had processors. Lanes are synchronised four times in every pass, and run in separate
//! threads in between.

use std::thread::available_parallelism;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use super::memory::wipe_stack;
use crate::error::{Error, Result};

/// A variant of Argon2, and the cost of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// True for Argon2id, whose memory accesses depend on the password from the second half of the first pass on.
    /// False for Argon2i, whose accesses never do.
    pub is_hybrid: bool,
    /// The number of passes over the memory.
    pub passes: u32,
    /// The memory in KiB.
    pub memory: u32,
    /// The number of lanes into which the memory is divided.
    pub lanes: u32,
}

/// Derives a key as long as `out` from a password.
///
/// # Errors
/// Returns an error if the cost is invalid, if the salt is shorter than eight bytes, or if this machine doesn't have
/// the memory.
pub fn argon2(cost: &Argon2Cost, password: &[u8], salt: &[u8], out: &mut [u8]) -> Result<()> {
    let refused = |error| Error::invalid(format!("Argon2: {error}"));
    let params = Params::new(cost.memory, cost.passes, cost.lanes, None).map_err(refused)?;
    let algorithm = match cost.is_hybrid {
        true => Algorithm::Argon2id,
        false => Algorithm::Argon2i,
    };
    let count = params.block_count();
    let mut blocks: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
    blocks.try_reserve_exact(count).map_err(|_| {
        Error::invalid(format!(
            "Argon2: there is no room for {} KiB of memory",
            cost.memory
        ))
    })?;
    blocks.resize(count, Block::default());
    let argon2 = Argon2::new(algorithm, Version::V0x13, params);
    let threads = available_parallelism().map_or(1, usize::from);
    let threads = threads.min(usize::try_from(cost.lanes).unwrap_or(1));
    let mut derive =
        || argon2.hash_password_into_with_memory(password, salt, &mut *out, &mut *blocks);
    // The threads end before this returns, so that none is outside of a sandbox that is entered later.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let derived = pool.build_scoped(
        |thread| {
            thread.run();
            wipe_stack();
        },
        |pool| pool.install(&mut derive),
    );
    let derived = match derived {
        Ok(derived) => derived,
        Err(error) => return Err(Error::invalid(format!("Argon2: {error}"))),
    };
    derived.map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(is_hybrid: bool, passes: u32, memory: u32, lanes: u32) -> Result<String> {
        let cost = Argon2Cost {
            is_hybrid,
            passes,
            memory,
            lanes,
        };
        let mut out = [0; 32];
        argon2(&cost, b"password", b"somesalt", &mut out)?;
        Ok(out.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// These keys are from the tests of the reference implementation, for version 1.3.
    #[test]
    fn known_keys() {
        for (is_hybrid, passes, memory, lanes, key) in [
            (
                false,
                2,
                65536,
                1,
                "c1628832147d9720c5bd1cfd61367078729f6dfb6f8fea9ff98158e0d7816ed0",
            ),
            (
                false,
                2,
                256,
                2,
                "4ff5ce2769a1d7f4c8a491df09d41a9fbe90e5eb02155a13e4c01e20cd4eab61",
            ),
            (
                true,
                2,
                256,
                1,
                "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe",
            ),
            (
                true,
                2,
                256,
                2,
                "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037",
            ),
        ] {
            assert_eq!(derived(is_hybrid, passes, memory, lanes).unwrap(), key);
        }
    }

    #[test]
    fn costs_that_make_no_sense_are_refused() {
        for (passes, memory, lanes) in [(0, 256, 1), (1, 7, 1), (1, 256, 33), (1, 256, 0)] {
            let error = derived(true, passes, memory, lanes).unwrap_err();
            assert!(error.to_string().starts_with("Argon2: "), "{error}");
        }
    }
}
