//! The places of keys in memory.
//!
//! Their owners are in boxes that are wiped when they go. Two more things can keep a key: a swap device that
//! its page is written to, and the stack. On the stack the compiler puts values for which it has no registers
//! left. These are a kernel's round keys, the first of which is the key itself, and values that are made
//! there to be moved into a box. They change with every build. So every function that has to do with a key
//! runs in a frame of its own, and the stack below it is wiped afterwards.

use std::hint::black_box;

/// A length that is more of the stack than a cipher uses, in bytes: kernels use 20 KiB where they aren't
/// optimised. Wiping it takes less than a microsecond, and a cipher is called for whole clusters.
const STACK_TO_WIPE: usize = 24 << 10;

/// Wipes the part of the stack that functions called before have used.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut used = [0_u8; STACK_TO_WIPE];
    // For all the compiler knows, somebody looks at it.
    black_box(&mut used);
}

/// Locks the pages that hold a key in memory, so that it isn't written to a swap device, where it may stay for
/// years. They stay locked until the program ends, since other keys may share them. Users may lock 8 MiB
/// by default; where they may not, or the system can't, the key is needed all the same.
pub(super) fn keep_out_of_swap<T: ?Sized>(key: &T) {
    if let Ok(guard) = region::lock(std::ptr::from_ref(key).cast::<u8>(), size_of_val(key)) {
        std::mem::forget(guard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the amount of this process's memory that is locked, in KiB.
    fn locked() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }

    #[test]
    fn pages_of_keys_are_locked() {
        keep_out_of_swap(&Box::new([1_u8; 64 << 10]));
        // Nothing ever unlocks any. Where nothing may be locked, this can't be tested.
        assert!(locked() > 0, "is the limit on locked memory 0 here?");
        keep_out_of_swap::<[u8]>(&[]);
    }
}
