//! The x86-64 kernels: AES-NI, VAES on 256 bits and VAES on 512 bits.
//!
//! Each of the three has a file of its own, and a type that can only be made
//! on a machine with the instructions: its constructor asks the processor.
//! That makes the methods safe to call, and confines `unsafe` to the files
//! of this folder.
//!
//! The kernels themselves are functions with plain, unmangled names
//! (`cowhide_aes128_cbc_encrypt_vaes512` and so on) that are never inlined, so
//! that `perf annotate` and a debugger's breakpoint find them by name in a
//! release build.

#[allow(unsafe_code)]
pub(super) mod aesni;
#[allow(unsafe_code)]
mod keys;
#[allow(unsafe_code)]
pub(super) mod limit;
#[allow(unsafe_code)]
pub(super) mod vaes256;
#[allow(unsafe_code)]
pub(super) mod vaes512;

/// How many lane groups (vector registers) the next batch of an encryption
/// run takes, of `left` that remain.
///
/// A batch of `full` or more groups saturates the AES unit; one of fewer is
/// as slow as one of `full`, because the latency of a chain bounds it. So no
/// batch may leave behind fewer than `full` groups if it can help it: what
/// remains up to `max` is taken at once, and a remainder that would come out
/// too small is evened out over the last two batches.
fn batch_groups(left: usize, full: usize, max: usize) -> usize {
    debug_assert!(2 * full <= max + 1);
    if left <= max {
        left
    } else if left - max >= full {
        max
    } else {
        left - full
    }
}
