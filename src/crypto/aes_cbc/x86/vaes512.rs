//! VAES on 512 bits: four sectors in a register, up to 60 in flight.
//!
//! A `zmm` register has one block of each of four neighbouring sectors, its *lanes*, and is called a group here. The
//! AES unit starts two instructions in each cycle, and takes four cycles for each. So eight groups are the least that
//! keeps it busy, and more leave a margin. The loads and stores are the bottleneck at this width: a group needs
//! blocks of 16 bytes from four places that are 512 bytes apart. The encryption kernel follows from measurements on
//! Zen 5:
//!
//! * Inserting and extracting blocks one by one takes a third of the time. So loads and stores are 64 bytes wide:
//!   four blocks of one sector. A 4x4 transposition of 128-bit lanes in registers turns four such rows into four
//!   steps of one group, and back.
//! * Four steps of all groups don't fit into the registers. They are kept in a *stage* on the stack, which is always
//!   in the first-level cache. While a chunk of four steps is encrypted, small jobs between the rounds transpose and
//!   store the chunk before it, and load and transpose the chunk after it. All jobs at once would fill the scheduler,
//!   so that the AES unit would idle.
//! * The processor compares only the low 12 bits of addresses to find a store that a load depends on. The stores of a
//!   chunk have addresses 512 bytes apart, all in one of the eight 64-byte *columns* of a 512-byte row. They advance
//!   by a column for each chunk. With a stage in the same column nearly every load would have a false dependency,
//!   which costs a seventh of the speed. So the stage advances with the stores, four columns ahead.
//!
//! Decryption is simple in comparison: a sector is eight registers, all independent, and out-of-order
//! execution overlaps it with the next sector.
//!
//! Invariant: in a batch of `n` sectors, only the `n` sectors at `src` are read
//! and the `n` at `dst` written. Every block of a sector is read before it is
//! written, so the two may be the same memory. A last group with fewer than
//! four sectors works on a copy.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_aesdec_epi128, _mm512_aesdeclast_epi128,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_alignr_epi64, _mm512_broadcast_i32x4,
    _mm512_loadu_si512, _mm512_maskz_set1_epi64, _mm512_set_epi64, _mm512_setzero_si512,
    _mm512_shuffle_i64x2, _mm512_storeu_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512,
};
use core::array::from_fn;
use core::mem::MaybeUninit;

use super::even_batches;
use crate::crypto::aes_x86::{self, AES128, AES256, RoundKeys};
use crate::crypto::run_cipher::RunCipher;
use crate::crypto::sector::{SECTOR_SIZE, Sector, SectorRun};

/// The number of sectors in a group.
const LANES: usize = 4;
/// The number of groups in a batch of a long run.
const BEST_GROUPS: usize = 12;
/// The number of groups in the largest batch. Two halves of it would both be too small to saturate the AES
/// unit.
const MAX_GROUPS: usize = 15;
/// The number of bytes of a sector in a chunk of four steps: those of a register.
const CHUNK: usize = 64;
/// The number of chunks in a sector.
const CHUNKS: usize = SECTOR_SIZE / CHUNK;
/// The number of bytes from a group's first sector to that of the next.
const GROUP_SIZE: usize = LANES * SECTOR_SIZE;

/// The backend with its expanded key, of `R` round keys.
pub(in crate::crypto) struct Vaes512<const R: usize> {
    keys: Box<RoundKeys<R>>,
}

impl<const R: usize> Vaes512<R> {
    /// Expands a key of `K` bytes, if the processor can run the kernels.
    pub(in crate::crypto) fn new<const K: usize>(key: &[u8; K]) -> Option<Self> {
        aes_x86::has_vaes512().then(|| Self {
            // SAFETY: the processor has AES-NI, as was just found.
            keys: unsafe { RoundKeys::expand(key) },
        })
    }
}

impl RunCipher for Vaes512<AES128> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_encrypt_vaes512(&self.keys, first_sector, run) }
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes128_cbc_decrypt_vaes512(&self.keys, first_sector, run) }
    }
}

impl RunCipher for Vaes512<AES256> {
    fn encrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes256_cbc_encrypt_vaes512(&self.keys, first_sector, run) }
    }

    fn decrypt(&self, first_sector: u64, run: SectorRun<'_, '_>) {
        // SAFETY: `new` made `self` only after it had found the features.
        unsafe { cowhide_aes256_cbc_decrypt_vaes512(&self.keys, first_sector, run) }
    }
}

/// The encryption kernel of AES-128.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx512f,vaes")]
fn cowhide_aes128_cbc_encrypt_vaes512(
    keys: &RoundKeys<AES128>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    encrypt_run(keys, first_sector, run);
}

/// The decryption kernel of AES-128.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx512f,vaes")]
fn cowhide_aes128_cbc_decrypt_vaes512(
    keys: &RoundKeys<AES128>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    decrypt_run(keys, first_sector, run);
}

/// The encryption kernel of AES-256.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx512f,vaes")]
fn cowhide_aes256_cbc_encrypt_vaes512(
    keys: &RoundKeys<AES256>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    encrypt_run(keys, first_sector, run);
}

/// The decryption kernel of AES-256.
#[unsafe(no_mangle)]
#[inline(never)]
#[target_feature(enable = "avx512f,vaes")]
fn cowhide_aes256_cbc_decrypt_vaes512(
    keys: &RoundKeys<AES256>,
    first_sector: u64,
    run: SectorRun<'_, '_>,
) {
    decrypt_run(keys, first_sector, run);
}

/// Encrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "avx512f,vaes")]
#[inline]
fn encrypt_run<const R: usize>(keys: &RoundKeys<R>, first_sector: u64, run: SectorRun<'_, '_>) {
    let keys: [__m512i; R] = from_fn(|i| _mm512_broadcast_i32x4(keys.enc()[i]));
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    if sectors == 0 {
        return;
    }
    let groups = sectors.div_ceil(LANES);
    // A last, partial group works on a copy with four sectors.
    let whole = LANES * (groups - 1);
    let tail = sectors - whole;
    let mut copy = MaybeUninit::<[Sector; LANES]>::uninit();
    // SAFETY: the last group starts inside the run, and has `tail` sectors.
    let (tail_src, tail_dst) = unsafe { (src.add(whole), dst.add(whole)) };
    let mut last = ChunkPlace {
        src: tail_src.cast(),
        dst: tail_dst.cast(),
    };
    if tail < LANES {
        let copy: *mut Sector = copy.write([[0; SECTOR_SIZE]; LANES]).as_mut_ptr();
        // SAFETY: `tail` sectors fit in the copy, and are the source's last.
        unsafe { tail_src.copy_to_nonoverlapping(copy, tail) };
        last = ChunkPlace {
            src: copy.cast(),
            dst: copy.cast(),
        };
    }
    let [larger, smaller] = even_batches(groups, BEST_GROUPS, MAX_GROUPS);
    let mut work = BatchRun {
        first_sector,
        first: ChunkPlace {
            src: src.cast(),
            dst: dst.cast(),
        },
        last,
        batches: 0,
        ends_run: false,
    };
    for (size, batches) in [larger, smaller] {
        if batches == 0 {
            continue;
        }
        work.batches = batches;
        work.ends_run = smaller.1 == 0 || size == smaller.0;
        // SAFETY: the batches add up to the groups of the run.
        unsafe {
            match size {
                1 => encrypt_batches::<R, 1>(&keys, &work),
                2 => encrypt_batches::<R, 2>(&keys, &work),
                3 => encrypt_batches::<R, 3>(&keys, &work),
                4 => encrypt_batches::<R, 4>(&keys, &work),
                5 => encrypt_batches::<R, 5>(&keys, &work),
                6 => encrypt_batches::<R, 6>(&keys, &work),
                7 => encrypt_batches::<R, 7>(&keys, &work),
                8 => encrypt_batches::<R, 8>(&keys, &work),
                9 => encrypt_batches::<R, 9>(&keys, &work),
                10 => encrypt_batches::<R, 10>(&keys, &work),
                11 => encrypt_batches::<R, 11>(&keys, &work),
                12 => encrypt_batches::<R, 12>(&keys, &work),
                13 => encrypt_batches::<R, 13>(&keys, &work),
                14 => encrypt_batches::<R, 14>(&keys, &work),
                _ => encrypt_batches::<R, MAX_GROUPS>(&keys, &work),
            }
        }
        let done = size * batches;
        work.first_sector = work.first_sector.wrapping_add((LANES * done) as u64);
        work.first = work.first.add(done * GROUP_SIZE);
    }
    if tail < LANES {
        // SAFETY: as above, and the copy was written above.
        unsafe { tail_dst.copy_from_nonoverlapping(copy.as_ptr().cast(), tail) };
    }
}

/// The addresses of the same bytes in the source and in the destination.
#[derive(Clone, Copy)]
struct ChunkPlace {
    src: *const u8,
    dst: *mut u8,
}

impl ChunkPlace {
    #[inline(always)]
    fn add(self, bytes: usize) -> Self {
        Self {
            src: self.src.wrapping_add(bytes),
            dst: self.dst.wrapping_add(bytes),
        }
    }
}

/// A number of batches of one size.
struct BatchRun {
    /// The number of the first sector.
    first_sector: u64,
    /// The first group; all others follow, except perhaps the run's last.
    first: ChunkPlace,
    /// The last group of the run.
    last: ChunkPlace,
    /// The number of batches.
    batches: usize,
    /// True if the last group of the last batch is the run's last.
    ends_run: bool,
}

impl BatchRun {
    /// Returns the places of a chunk in the first and in the last group of its batch. Chunks are counted
    /// through all batches of `N` groups.
    #[inline(always)]
    fn chunk<const N: usize>(&self, chunk: usize) -> [ChunkPlace; 2] {
        let (batch, in_sector) = (chunk / CHUNKS, chunk % CHUNKS * CHUNK);
        let first = self.first.add(batch * N * GROUP_SIZE + in_sector);
        let last = if self.ends_run && batch == self.batches - 1 {
            self.last.add(in_sector)
        } else {
            first.add((N - 1) * GROUP_SIZE)
        };
        [first, last]
    }
}

/// Returns group `i` of `N`, given the first and the last.
#[inline(always)]
fn group<const N: usize>([first, last]: [ChunkPlace; 2], i: usize) -> ChunkPlace {
    if i == N - 1 {
        last
    } else {
        first.add(i * GROUP_SIZE)
    }
}

/// The number of columns in a row of the stage, of 64 bytes each. A row has 512 bytes, like a sector.
const COLUMNS: usize = SECTOR_SIZE / CHUNK;
/// The number of columns by which the stage is ahead of the stores.
const AHEAD: usize = 4;
/// The number of columns by which the last row can extend beyond the stage.
const SLACK: usize = COLUMNS;

/// The blocks of two chunks, with a row for each group. One is the current chunk: its plaintext, which its
/// ciphertext overwrites. The other is the chunk before or after it.
#[repr(align(512))]
struct Stage(MaybeUninit<[[__m512i; MAX_GROUPS * COLUMNS + SLACK]; 2]>);

/// Encrypts batches of `N` groups in one pipeline. The last chunk of a batch loads the first chunk of the next batch,
/// and that stores the last chunk.
///
/// # Safety
///
/// The places in `work` must be valid for its groups, and source and destination must be the same memory or
/// disjoint.
#[target_feature(enable = "avx512f,vaes")]
#[inline(never)]
unsafe fn encrypt_batches<const R: usize, const N: usize>(keys: &[__m512i; R], work: &BatchRun) {
    const { assert!(N <= MAX_GROUPS) };
    let mut stage = Stage(MaybeUninit::uninit());
    let halves: *mut [__m512i; MAX_GROUPS * COLUMNS + SLACK] = stage.0.as_mut_ptr().cast();
    let column = work.first.dst.addr() / CHUNK + AHEAD;
    let staged = |chunk: usize| {
        let half = halves.wrapping_add(chunk % 2).cast::<__m512i>();
        half.wrapping_add(column.wrapping_add(chunk) % COLUMNS)
    };
    let chunks = work.batches * CHUNKS;
    let mut state = [_mm512_setzero_si512(); N];
    // SAFETY: the places of the chunks are good by this function's contract.
    // The stage has a row for every group, and the furthest access is group
    // N-1, column 7, step 3. What's read from it was written before: the first
    // chunk here, and every other by the jobs of the one before it.
    unsafe {
        let start = work.chunk::<N>(0);
        for i in 0..N {
            load_rows(group::<N>(start, i).src, staged(0).add(i * COLUMNS));
        }
        let mut chunk = 0;
        while chunk < chunks {
            if chunk % CHUNKS == 0 {
                let before = (chunk / CHUNKS * N * LANES) as u64;
                state = first_states::<N>(work.first_sector.wrapping_add(before));
            }
            let steps = Steps {
                this: staged(chunk),
                before: staged(chunk.wrapping_sub(1)),
                after: staged(chunk + 1),
                store: (chunk > 0).then(|| work.chunk::<N>(chunk - 1)),
                load: work.chunk::<N>((chunk + 1).min(chunks - 1)),
            };
            // This is the only call, so it is inlined and the state stays in registers.
            steps.run::<R, N>(keys, &mut state);
            chunk += 1;
        }
        let end = work.chunk::<N>(chunks - 1);
        for i in 0..N {
            store_rows(staged(chunks - 1).add(i * COLUMNS), group::<N>(end, i).dst);
        }
    }
}

/// The places that the steps of a chunk work on.
struct Steps {
    /// The stage of this chunk.
    this: *mut __m512i,
    /// The stage of the chunk before.
    before: *mut __m512i,
    /// The stage of the chunk after, in the same half as the one before. A group's row is only loaded after
    /// it was stored.
    after: *mut __m512i,
    /// The places to store the chunk before.
    store: Option<[ChunkPlace; 2]>,
    /// The places to load the chunk after from.
    load: [ChunkPlace; 2],
}

impl Steps {
    /// Encrypts the four steps of a chunk of `N` groups.
    ///
    /// # Safety
    ///
    /// The contract is that of [`encrypt_batches`], which is the only caller.
    #[target_feature(enable = "avx512f,vaes")]
    #[inline]
    unsafe fn run<const R: usize, const N: usize>(
        &self,
        keys: &[__m512i; R],
        state: &mut [__m512i; N],
    ) {
        // SAFETY: this function's own contract.
        unsafe {
            self.step::<R, N, 0>(keys, state);
            self.step::<R, N, 1>(keys, state);
            self.step::<R, N, 2>(keys, state);
            self.step::<R, N, 3>(keys, state);
        }
    }

    /// Encrypts one block of each lane of `N` groups, and does the transpositions of step `K` between the
    /// rounds.
    /// # Safety
    ///
    /// The contract is that of [`run`](Self::run).
    #[target_feature(enable = "avx512f,vaes")]
    #[inline]
    unsafe fn step<const R: usize, const N: usize, const K: usize>(
        &self,
        keys: &[__m512i; R],
        state: &mut [__m512i; N],
    ) {
        // The rounds are unrolled, because the place of the jobs has to be known at compile time.
        macro_rules! rounds {
            ($($round:literal)*) => {$(
                for state in state.iter_mut() {
                    *state = _mm512_aesenc_epi128(*state, keys[$round]);
                }
                // SAFETY: this function's own contract.
                unsafe { self.job::<R, N, K, $round>() };
            )*};
        }
        for (i, state) in state.iter_mut().enumerate() {
            // SAFETY: `this` has a row for each group, with four blocks each.
            let plain = unsafe { *self.this.add(i * COLUMNS + K) };
            // The chain and the first round key are added in one instruction.
            *state = _mm512_ternarylogic_epi64::<0x96>(*state, plain, keys[0]);
        }
        rounds!(1 2 3 4 5 6 7 8 9);
        if R > AES128 {
            rounds!(10 11 12 13);
        }
        for (i, state) in state.iter_mut().enumerate() {
            *state = _mm512_aesenclast_epi128(*state, keys[R - 1]);
            // SAFETY: as above.
            unsafe { *self.this.add(i * COLUMNS + K) = *state };
        }
    }

    /// Does the job after `ROUND` of step `K`, if there is one.
    ///
    /// A step has the jobs of a quarter of the groups, two for each: to store the chunk before, and then to
    /// load the chunk after. They are distributed evenly over all rounds but the last.
    ///
    /// # Safety
    ///
    /// The contract is that of [`run`](Self::run).
    #[target_feature(enable = "avx512f,vaes")]
    #[inline]
    unsafe fn job<const R: usize, const N: usize, const K: usize, const ROUND: usize>(&self) {
        let groups = N.div_ceil(4);
        let jobs = 2 * groups;
        let rounds = R - 2;
        let job = ((ROUND - 1) * jobs).div_ceil(rounds);
        let i = K * groups + job / 2;
        if job * rounds >= ROUND * jobs || i >= N {
            return;
        }
        // SAFETY: `i` is one of the `N` groups. The very last chunk loads itself again, without effect,
        // because a branch would double the code.
        unsafe {
            if job % 2 == 1 {
                let from = group::<N>(self.load, i).src;
                load_rows(from, self.after.add(i * COLUMNS));
            } else if let Some(store) = self.store {
                store_rows(self.before.add(i * COLUMNS), group::<N>(store, i).dst);
            }
        }
    }
}

/// Loads a chunk of a group's four sectors, and stores the four blocks of each step together in the stage.
///
/// # Safety
///
/// `src` must be a chunk of the first of four sectors, and `stage` must have space for four registers.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_rows(src: *const u8, stage: *mut __m512i) {
    // SAFETY: this function's own contract.
    unsafe {
        let rows = [0, 1, 2, 3].map(|i| _mm512_loadu_si512(src.add(i * SECTOR_SIZE).cast()));
        for (i, step) in transpose(rows).into_iter().enumerate() {
            *stage.add(i) = step;
        }
    }
}

/// Loads four registers from the stage, and stores them as a chunk: the reverse of [`load_rows`].
///
/// # Safety
///
/// The contract is that of [`load_rows`], with `dst` writable and `stage`
/// written.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_rows(stage: *const __m512i, dst: *mut u8) {
    // SAFETY: this function's own contract.
    unsafe {
        let steps = [0, 1, 2, 3].map(|i| *stage.add(i));
        for (i, row) in transpose(steps).into_iter().enumerate() {
            _mm512_storeu_si512(dst.add(i * SECTOR_SIZE).cast(), row);
        }
    }
}

/// Transposes a 4x4 matrix of blocks.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: [__m512i; 4]) -> [__m512i; 4] {
    let low_01 = _mm512_shuffle_i64x2::<0b01_00_01_00>(rows[0], rows[1]);
    let high_01 = _mm512_shuffle_i64x2::<0b11_10_11_10>(rows[0], rows[1]);
    let low_23 = _mm512_shuffle_i64x2::<0b01_00_01_00>(rows[2], rows[3]);
    let high_23 = _mm512_shuffle_i64x2::<0b11_10_11_10>(rows[2], rows[3]);
    [
        _mm512_shuffle_i64x2::<0b10_00_10_00>(low_01, low_23),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(low_01, low_23),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(high_01, high_23),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(high_01, high_23),
    ]
}

/// Makes the initialisation vectors of `N` groups.
#[target_feature(enable = "avx512f")]
#[inline]
fn first_states<const N: usize>(first_sector: u64) -> [__m512i; N] {
    let lanes = _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0);
    from_fn(|i| {
        let number = first_sector.wrapping_add((LANES * i) as u64);
        // Only the even 64-bit words are set: the other half of a vector is
        // zero.
        let numbers = _mm512_maskz_set1_epi64(0b0101_0101, number.cast_signed());
        _mm512_add_epi64(numbers, lanes)
    })
}

/// The number of registers in a sector.
const REGISTERS: usize = SECTOR_SIZE / size_of::<__m512i>();

/// Decrypts a run whose first sector has the number `first_sector`.
#[target_feature(enable = "avx512f,vaes")]
#[inline]
fn decrypt_run<const R: usize>(keys: &RoundKeys<R>, first_sector: u64, run: SectorRun<'_, '_>) {
    let keys: [__m512i; R] = from_fn(|i| _mm512_broadcast_i32x4(keys.dec()[i]));
    let sectors = run.len();
    let (src, dst) = run.into_raw();
    for i in 0..sectors {
        let number = first_sector.wrapping_add(i as u64);
        // The vector is in the last lane, from which it is shifted to the first.
        let iv = _mm512_maskz_set1_epi64(0b0100_0000, number.cast_signed());
        // SAFETY: sector `i` of the run is readable at `src` and writable at
        // `dst`, and all of it is read before any is written.
        unsafe {
            let src = src.add(i).cast::<__m512i>();
            let dst = dst.add(i).cast::<__m512i>();
            let cipher: [__m512i; REGISTERS] = from_fn(|j| _mm512_loadu_si512(src.add(j)));
            let mut state = cipher.map(|block| _mm512_xor_si512(block, keys[0]));
            for key in &keys[1..R - 1] {
                for state in &mut state {
                    *state = _mm512_aesdec_epi128(*state, *key);
                }
            }
            let mut before = iv;
            for (j, state) in state.iter().enumerate() {
                // The last round key and the ciphertext of the chain are added in one instruction.
                let chain = _mm512_alignr_epi64::<6>(cipher[j], before);
                let key = _mm512_xor_si512(chain, keys[R - 1]);
                _mm512_storeu_si512(dst.add(j), _mm512_aesdeclast_epi128(*state, key));
                before = cipher[j];
            }
        }
    }
}
