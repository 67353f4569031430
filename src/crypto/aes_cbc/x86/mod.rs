//! The x86-64 kernels: AES-NI, VAES on 256 bits and VAES on 512 bits.
//!
//! Each of the three has its own file, and a type whose constructor fails on a processor without the
//! instructions. So the methods are safe to call, and `unsafe` is confined to the files of this folder.
//!
//! The kernels themselves are functions with unmangled names (`cowhide_aes128_cbc_encrypt_vaes512` and so on)
//! that are never inlined. So `perf annotate` and debuggers find them by name in a release build.

#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "kernels load and store through pointers; their indices are constants into arrays"
)]

pub(super) mod aesni;
pub(super) mod vaes256;
pub(super) mod vaes512;

/// Splits the vector registers, or *groups*, of an encryption run into batches that are encrypted together. The first
/// batches have one size, and the others the next smaller one. Returns the size and the number of each.
///
/// A batch that is too small to saturate the AES unit takes as long as one that does, because the latency of
/// the chain bounds it. So all batches have nearly the same size, `best` or a little less, and no small rest
/// is left. Up to `max` groups are one batch.
fn even_batches(groups: usize, best: usize, max: usize) -> [(usize, usize); 2] {
    let batches = if groups <= max {
        1
    } else {
        groups.div_ceil(best)
    };
    let (size, larger) = (groups / batches, groups % batches);
    if larger == 0 {
        [(size, batches), (0, 0)]
    } else {
        [(size + 1, larger), (size, batches - larger)]
    }
}
