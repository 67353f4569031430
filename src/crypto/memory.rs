//! The protection of keys in memory.
//!
//! Keys are in boxes that are wiped when they are dropped. Two more places can keep a key: a swap device, and the
//! stack. The compiler spills registers to the stack. These can be a kernel's round keys, the first of which is the
//! key itself, and values that are built there and moved into a box. They change with every build. So every function
//! that uses a key runs in a separate stack frame, and the stack below it is wiped afterwards.

use std::hint::black_box;

/// The length of the wiped stack in bytes. It is more than a cipher uses: unoptimised kernels use 20 KiB. Wiping it
/// takes less than a microsecond, and a cipher is called for whole clusters.
const STACK_TO_WIPE: usize = 24 << 10;

/// Wipes the part of the stack that functions called before have used.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut used = [0_u8; STACK_TO_WIPE];
    // The compiler must assume that the zeroes are read.
    black_box(&mut used);
}

/// Locks the pages of a key in memory, so that it isn't written to a swap device, where it may stay for years. They
/// stay locked until the program ends, since other keys may share them. Users may lock 8 MiB by default. A failure is
/// ignored, since the key is needed nevertheless.
pub(super) fn keep_out_of_swap<T: ?Sized>(key: &T) {
    if let Ok(guard) = region::lock(std::ptr::from_ref(key).cast::<u8>(), size_of_val(key)) {
        std::mem::forget(guard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the locked memory of this process, in KiB.
    fn locked() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }

    #[test]
    fn pages_of_keys_are_locked() {
        keep_out_of_swap(&Box::new([1_u8; 64 << 10]));
        // Nothing is ever unlocked. The test needs a limit on locked memory above 0.
        assert!(locked() > 0, "is the limit on locked memory 0 here?");
        keep_out_of_swap::<[u8]>(&[]);
    }
}
