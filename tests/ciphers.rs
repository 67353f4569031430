//! Tests of the sector ciphers against published vectors and against the plain crates.
//!
//! Every backend of the machine is tested.

use cowhide::crypto::{
    Backend, BackendError, KeyedCipher, SECTOR_SIZE, limit::register_limit, reference::Reference,
};

/// A small generator of test data, with a fixed start.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, data: &mut [u8]) {
        for chunk in data.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn key(&mut self, length: usize) -> Vec<u8> {
        let mut key = vec![0; length];
        self.fill(&mut key);
        key
    }
}

/// A mode of AES with a key length.
struct Kind {
    /// The length of the key in bytes, or of both keys.
    key: usize,
    make: fn(&[u8], Backend) -> KeyedCipher,
    plain: fn(&[u8]) -> Reference,
}

const KINDS: [Kind; 4] = [
    Kind {
        key: 16,
        make: KeyedCipher::aes_cbc,
        plain: Reference::cbc,
    },
    Kind {
        key: 32,
        make: KeyedCipher::aes_cbc,
        plain: Reference::cbc,
    },
    Kind {
        key: 32,
        make: KeyedCipher::aes_xts,
        plain: Reference::xts,
    },
    Kind {
        key: 64,
        make: KeyedCipher::aes_xts,
        plain: Reference::xts,
    },
];

/// Encrypts one block with a bare key: the first block of sector 0 has an IV
/// of zeros.
fn encrypt_block(backend: Backend, key: &[u8], block: [u8; 16]) -> [u8; 16] {
    let mut sector = [0; SECTOR_SIZE];
    sector[..16].copy_from_slice(&block);
    KeyedCipher::aes_cbc(key, backend).encrypt(0, &mut sector);
    sector[..16].try_into().expect("16 bytes")
}

#[test]
fn fips_197_appendix_b() {
    let key = *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
    let plain = *b"\x32\x43\xf6\xa8\x88\x5a\x30\x8d\x31\x31\x98\xa2\xe0\x37\x07\x34";
    let cipher = *b"\x39\x25\x84\x1d\x02\xdc\x09\xfb\xdc\x11\x85\x97\x19\x6a\x0b\x32";
    for backend in Backend::available() {
        assert_eq!(encrypt_block(backend, &key, plain), cipher, "{backend}");
    }
}

#[test]
fn fips_197_appendix_c1() {
    let key = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
    let plain = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    let cipher = *b"\x69\xc4\xe0\xd8\x6a\x7b\x04\x30\xd8\xcd\xb7\x80\x70\xb4\xc5\x5a";
    for backend in Backend::available() {
        assert_eq!(encrypt_block(backend, &key, plain), cipher, "{backend}");
    }
}

#[test]
fn fips_197_appendix_c3() {
    let key: Vec<u8> = (0..32).collect();
    let plain = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    let cipher = *b"\x8e\xa2\xb7\xca\x51\x67\x45\xbf\xea\xfc\x49\x90\x4b\x49\x60\x89";
    for backend in Backend::available() {
        assert_eq!(encrypt_block(backend, &key, plain), cipher, "{backend}");
    }
}

/// SP 800-38A, F.2.1 and F.2.2.
mod sp_800_38a {
    pub(super) const KEY: [u8; 16] =
        *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
    pub(super) const IV: [u8; 16] =
        *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
    pub(super) const PLAIN: [u8; 64] = *b"\
        \x6b\xc1\xbe\xe2\x2e\x40\x9f\x96\xe9\x3d\x7e\x11\x73\x93\x17\x2a\
        \xae\x2d\x8a\x57\x1e\x03\xac\x9c\x9e\xb7\x6f\xac\x45\xaf\x8e\x51\
        \x30\xc8\x1c\x46\xa3\x5c\xe4\x11\xe5\xfb\xc1\x19\x1a\x0a\x52\xef\
        \xf6\x9f\x24\x45\xdf\x4f\x9b\x17\xad\x2b\x41\x7b\xe6\x6c\x37\x10";
    pub(super) const CIPHER: [u8; 64] = *b"\
        \x76\x49\xab\xac\x81\x19\xb2\x46\xce\xe9\x8e\x9b\x12\xe9\x19\x7d\
        \x50\x86\xcb\x9b\x50\x72\x19\xee\x95\xdb\x11\x3a\x91\x76\x78\xb2\
        \x73\xbe\xd6\xb8\xe3\xc1\x74\x3b\x71\x16\xe6\x9e\x22\x22\x95\x16\
        \x3f\xf1\xca\xa1\x68\x1f\xac\x09\x12\x0e\xca\x30\x75\x86\xe1\xa7";
}

/// The test vectors have an IV that no sector number gives, so it is added (xor) to the first block, which is
/// equivalent.
#[test]
fn sp_800_38a_cbc() {
    use sp_800_38a::{CIPHER, IV, KEY, PLAIN};
    let mut folded = PLAIN;
    for (byte, iv) in folded.iter_mut().zip(IV) {
        *byte ^= iv;
    }
    for backend in Backend::available() {
        let cipher = KeyedCipher::aes_cbc(&KEY, backend);
        let mut sector = [0; SECTOR_SIZE];
        sector[..64].copy_from_slice(&folded);
        cipher.encrypt(0, &mut sector);
        assert_eq!(sector[..64], CIPHER, "{backend}");

        let mut sector = [0; SECTOR_SIZE];
        sector[..64].copy_from_slice(&CIPHER);
        cipher.decrypt(0, &mut sector);
        assert_eq!(sector[..64], folded, "{backend}");
    }
}

#[test]
fn the_iv_is_the_little_endian_sector_number() {
    let key = sp_800_38a::KEY;
    let number = 0x0102_0304_0506_0708_u64;
    for backend in Backend::available() {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        let want = encrypt_block(backend, &key, block);
        let mut sector = [0; SECTOR_SIZE];
        KeyedCipher::aes_cbc(&key, backend).encrypt(number, &mut sector);
        assert_eq!(sector[..16], want, "{backend}");
    }
}

/// Checks all operations on a run, with two alignments.
fn check_run(
    cipher: &KeyedCipher,
    first: u64,
    plain: &[u8],
    secret: &[u8],
    from: usize,
    to: usize,
) {
    let what = || {
        let sectors = plain.len() / SECTOR_SIZE;
        format!(
            "{:?}: {sectors} sectors from {first:#x}, offsets {from} and {to}",
            cipher.backend()
        )
    };
    let len = plain.len();
    let mut src = vec![0xa5; from + len + 64];
    let mut dst = vec![0x5a; to + len + 64];

    src[from..from + len].copy_from_slice(plain);
    cipher.encrypt_to(first, &src[from..from + len], &mut dst[to..to + len]);
    assert!(dst[to..to + len] == *secret, "encrypt_to, {}", what());
    assert!(
        src[from..from + len] == *plain,
        "encrypt_to src, {}",
        what()
    );

    cipher.encrypt(first, &mut src[from..from + len]);
    assert!(src[from..from + len] == *secret, "encrypt, {}", what());

    cipher.decrypt_to(first, &src[from..from + len], &mut dst[to..to + len]);
    assert!(dst[to..to + len] == *plain, "decrypt_to, {}", what());
    assert!(
        src[from..from + len] == *secret,
        "decrypt_to src, {}",
        what()
    );

    cipher.decrypt(first, &mut src[from..from + len]);
    assert!(src[from..from + len] == *plain, "decrypt, {}", what());

    for (buffer, offset, fill) in [(&src, from, 0xa5), (&dst, to, 0x5a)] {
        let clean = |part: &[u8]| part.iter().all(|&byte| byte == fill);
        assert!(
            clean(&buffer[..offset]) && clean(&buffer[offset + len..]),
            "wrote outside, {}",
            what()
        );
    }
}

#[test]
fn every_backend_agrees_with_the_plain_crates() {
    const OFFSETS: [usize; 5] = [0, 1, 7, 15, 33];
    let mut random = Random(1);
    for (n, kind) in KINDS.iter().enumerate() {
        for sectors in 1..=200 {
            // Two kinds get all lengths, so that every kernel processes every length in some direction.
            if n % 2 == 0 && sectors > 70 && sectors % 7 != 0 {
                continue;
            }
            let key = random.key(kind.key);
            let first = match sectors % 4 {
                0 => u64::MAX - random.next() % sectors as u64,
                1 => u64::from(u32::MAX) - random.next() % sectors as u64,
                _ => random.next(),
            };
            let mut plain = vec![0; sectors * SECTOR_SIZE];
            random.fill(&mut plain);
            let reference = (kind.plain)(&key);
            let mut secret = plain.clone();
            reference.encrypt(first, &mut secret);
            let mut back = secret.clone();
            reference.decrypt(first, &mut back);
            assert!(back == plain);
            for backend in Backend::available() {
                let cipher = (kind.make)(&key, backend);
                for (i, from) in OFFSETS.into_iter().enumerate() {
                    // Soft is too slow in a debug build for every pair, and the alignment doesn't matter to safe
                    // code.
                    if matches!(backend, Backend::Soft | Backend::Portable) && i != sectors % 5 {
                        continue;
                    }
                    let to = OFFSETS[(i + sectors) % 5];
                    check_run(&cipher, first, &plain, &secret, from, to);
                }
            }
        }
    }
}

/// Checks runs that are long enough for several batches in one pipeline.
#[test]
fn long_runs() {
    let mut random = Random(2);
    for kind in &KINDS {
        for sectors in [383, 384, 385, 777, 1024] {
            let key = random.key(kind.key);
            let first = random.next();
            let mut plain = vec![0; sectors * SECTOR_SIZE];
            random.fill(&mut plain);
            let mut secret = plain.clone();
            (kind.plain)(&key).encrypt(first, &mut secret);
            for backend in Backend::available() {
                if backend != Backend::Soft {
                    check_run(&(kind.make)(&key, backend), first, &plain, &secret, 16, 0);
                }
            }
        }
    }
}

/// Parses hexadecimal digits.
fn hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Checks both ends of the ciphertexts of IEEE 1619-2007, vectors 4 (AES-128, sector 0) and 10 (AES-256, sector
/// 0xff). Their data are 512 bytes with the values 0, 1, 2 and so on.
#[test]
fn ieee_1619() {
    let counted: Vec<u8> = (0..512)
        .map(|i| u8::try_from(i % 256).expect("a byte"))
        .collect();
    for (keys, number, start, end) in [
        (
            "2718281828459045235360287471352631415926535897932384626433832795",
            0,
            "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c",
            "eb4a427d1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568",
        ),
        (
            "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
            0xff,
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
            "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
        ),
    ] {
        for backend in Backend::available() {
            let cipher = KeyedCipher::aes_xts(&hex(keys), backend);
            let mut data = counted.clone();
            cipher.encrypt(number, &mut data);
            assert_eq!(data[..32], hex(start), "{backend}");
            assert_eq!(data[480..], hex(end), "{backend}");
            cipher.decrypt(number, &mut data);
            assert_eq!(data, counted, "{backend}");
        }
    }
}

#[test]
fn nothing_is_a_run_too() {
    for backend in Backend::available() {
        let cipher = KeyedCipher::aes_cbc(&[0; 16], backend);
        cipher.encrypt(0, &mut []);
        cipher.decrypt(0, &mut []);
        cipher.encrypt_to(0, &[], &mut []);
        cipher.decrypt_to(0, &[], &mut []);
    }
}

#[test]
#[should_panic(expected = "whole number of sectors")]
fn part_of_a_sector_panics() {
    KeyedCipher::aes_cbc(&[0; 16], Backend::Portable).encrypt(0, &mut [0; 511]);
}

#[test]
#[should_panic(expected = "differ in length")]
fn lengths_that_differ_panic() {
    KeyedCipher::aes_cbc(&[0; 16], Backend::Portable).decrypt_to(0, &[0; 512], &mut [0; 1024]);
}

#[test]
fn names_find_backends() {
    assert_eq!(Backend::from_name("auto"), Ok(Backend::detect()));
    assert!(Backend::available().contains(&Backend::detect()));
    for backend in Backend::ALL {
        if backend.is_available() {
            assert_eq!(Backend::from_name(backend.name()), Ok(backend));
            assert!(backend.features().iter().all(|(_, present)| *present));
        } else {
            let error = Backend::from_name(backend.name());
            assert_eq!(error, Err(BackendError::Unavailable(backend)));
            assert!(backend.features().iter().any(|(_, present)| !present));
        }
    }
    let error = Backend::from_name("rot13").expect_err("no such backend");
    assert_eq!(error, BackendError::Unknown("rot13".to_owned()));
    assert!(error.to_string().contains("vaes512"));
}

#[test]
fn debug_shows_no_key() {
    let cipher = KeyedCipher::aes_cbc(&[0xab; 16], Backend::Portable);
    assert_eq!(format!("{cipher:?}"), "AesCbc { backend: Portable, .. }");
}

#[test]
fn the_limit_is_measured_where_there_is_one() {
    for backend in Backend::ALL {
        let limit = register_limit(backend, 256, 1);
        let has_one = backend.is_available() && !backend.features().is_empty();
        assert_eq!(limit.is_some(), has_one, "{backend}");
        assert!(limit.is_none_or(|limit| limit.gb_per_s > 0.0));
    }
}
