//! A sector cipher as a header or an option describes it: a block cipher, a mode, and a generator of initialisation
//! vectors.
//!
//! Kernels process AES in CBC and XTS mode with any vectors. Vectors of 32 bits equal those of 64 bits in runs that
//! don't cross 2^32. For CBC, encrypted vectors replace those of the kernel in each sector's first block. All other
//! ciphers use the general modes.

use aes::{Aes128, Aes192, Aes256};

use super::backend::Backend;
use super::block_modes::{AnyBlockCipher, Cbc, Ctr, Ecb, SectorVectors, Xts};
use super::boxed_cipher::{BoxedSoft, boxed};
use super::hash::HashAlgorithm;
use super::keyed_cipher::KeyedCipher;
use super::memory::wipe_stack;
use super::run_cipher::RunCipher;
use super::sector::SectorLength;
use super::vectors::Vectors;
use super::with_vectors::{ShortNumbers, WithVectors};
use super::{aes_cbc, aes_xts};
use crate::error::{Error, Result};

/// A block cipher and the length of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CipherAlgorithm {
    Aes128,
    Aes192,
    Aes256,
    Cast5,
    Serpent128,
    Serpent192,
    Serpent256,
    Twofish128,
    Twofish192,
    Twofish256,
}

impl CipherAlgorithm {
    /// All block ciphers.
    pub const ALL: [Self; 10] = [
        Self::Aes128,
        Self::Aes192,
        Self::Aes256,
        Self::Cast5,
        Self::Serpent128,
        Self::Serpent192,
        Self::Serpent256,
        Self::Twofish128,
        Self::Twofish192,
        Self::Twofish256,
    ];

    /// Returns the name that `qemu-img` uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "aes-128",
            Self::Aes192 => "aes-192",
            Self::Aes256 => "aes-256",
            Self::Cast5 => "cast5-128",
            Self::Serpent128 => "serpent-128",
            Self::Serpent192 => "serpent-192",
            Self::Serpent256 => "serpent-256",
            Self::Twofish128 => "twofish-128",
            Self::Twofish192 => "twofish-192",
            Self::Twofish256 => "twofish-256",
        }
    }

    /// Returns the name of the family in LUKS headers.
    pub const fn family(self) -> &'static str {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => "aes",
            Self::Cast5 => "cast5",
            Self::Serpent128 | Self::Serpent192 | Self::Serpent256 => "serpent",
            Self::Twofish128 | Self::Twofish192 | Self::Twofish256 => "twofish",
        }
    }

    /// Returns the length of a key in bytes.
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128 | Self::Cast5 | Self::Serpent128 | Self::Twofish128 => 16,
            Self::Aes192 | Self::Serpent192 | Self::Twofish192 => 24,
            Self::Aes256 | Self::Serpent256 | Self::Twofish256 => 32,
        }
    }

    /// Returns the cipher of a family with keys of `key_length` bytes.
    pub fn of_family(family: &str, key_length: usize) -> Option<Self> {
        let is_it = |cipher: &Self| cipher.family() == family && cipher.key_length() == key_length;
        Self::ALL.into_iter().find(is_it)
    }

    /// Expands a key. Returns `None` if it has another length, or if the cipher's blocks have eight bytes.
    fn keyed(self, key: &[u8], backend: Backend) -> Option<AnyBlockCipher<16>> {
        Some(match (self, backend) {
            (Self::Aes128, Backend::Soft) => Box::new(BoxedSoft::<aes_soft::Aes128>::new(key)?),
            (Self::Aes192, Backend::Soft) => Box::new(BoxedSoft::<aes_soft::Aes192>::new(key)?),
            (Self::Aes256, Backend::Soft) => Box::new(BoxedSoft::<aes_soft::Aes256>::new(key)?),
            (Self::Aes128, _) => boxed::<Aes128>(key)?,
            (Self::Aes192, _) => boxed::<Aes192>(key)?,
            (Self::Aes256, _) => boxed::<Aes256>(key)?,
            // The crates of the others take keys of several lengths.
            _ if key.len() != self.key_length() => return None,
            (Self::Cast5, _) => return None,
            (Self::Serpent128 | Self::Serpent192 | Self::Serpent256, _) => {
                boxed::<serpent::Serpent>(key)?
            }
            (Self::Twofish128 | Self::Twofish192 | Self::Twofish256, _) => {
                boxed::<twofish::Twofish>(key)?
            }
        })
    }
}

/// A mode of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CipherMode {
    Ecb,
    Cbc,
    Xts,
    Ctr,
}

impl CipherMode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Ecb, Self::Cbc, Self::Xts, Self::Ctr];

    /// Returns the name that LUKS and `qemu-img` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ecb => "ecb",
            Self::Cbc => "cbc",
            Self::Xts => "xts",
            Self::Ctr => "ctr",
        }
    }

    /// Returns the number of keys that a cipher has in this mode.
    pub const fn keys(self) -> usize {
        match self {
            Self::Ecb | Self::Cbc | Self::Ctr => 1,
            Self::Xts => 2,
        }
    }
}

/// A generator of initialisation vectors from the numbers of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IvGenerator {
    /// The lower 32 bits of the number.
    Plain,
    /// The number.
    Plain64,
    /// The number, encrypted with a hash of the key.
    Essiv(HashAlgorithm),
}

impl IvGenerator {
    /// Returns the name that LUKS and `qemu-img` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Plain64 => "plain64",
            Self::Essiv(_) => "essiv",
        }
    }
}

/// A sector cipher without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSpec {
    /// The block cipher.
    pub algorithm: CipherAlgorithm,
    /// The mode.
    pub mode: CipherMode,
    /// The generator of vectors.
    pub vectors: IvGenerator,
}

impl CipherSpec {
    /// Returns the length of the key in bytes, or of both keys.
    pub const fn key_length(&self) -> usize {
        self.algorithm.key_length() * self.mode.keys()
    }

    /// Checks that the parts can be combined.
    ///
    /// # Errors
    /// Returns an error in the words of `qemu-img` if the parts can't be combined.
    pub fn check(&self) -> Result<()> {
        if self.algorithm == CipherAlgorithm::Cast5 && self.mode == CipherMode::Xts {
            return Err(Error::unsupported("Unsupported cipher mode xts"));
        }
        if let IvGenerator::Essiv(hash) = self.vectors {
            self.encrypting_vectors(hash)?;
        }
        Ok(())
    }

    /// Returns the cipher that encrypts vectors: one of the same family, with a key of the hash's length.
    fn encrypting_vectors(&self, hash: HashAlgorithm) -> Result<CipherAlgorithm> {
        let family = match self.algorithm.family() {
            "aes" => "AES",
            "serpent" => "Serpent",
            "twofish" => "Twofish",
            _ => {
                return Err(Error::unsupported(format!(
                    "Cipher {} not supported with essiv",
                    self.algorithm.name()
                )));
            }
        };
        let length = hash.length();
        CipherAlgorithm::of_family(self.algorithm.family(), length).ok_or_else(|| {
            Error::unsupported(format!(
                "No {family} cipher with key size {length} available"
            ))
        })
    }

    /// Expands a key, for a backend that this machine has.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check), or an error if the key has another length.
    pub fn with_key(&self, key: &[u8], backend: Backend) -> Result<KeyedCipher> {
        self.of_length(SectorLength::SHORTEST, key, backend)
    }

    /// Does the same as [`with_key`](Self::with_key) for sectors of another length. They are numbered by their first
    /// 512 bytes, and runs are whole numbers of them.
    ///
    /// # Errors
    /// Returns the errors of [`with_key`](Self::with_key).
    pub fn of_length(
        &self,
        length: SectorLength,
        key: &[u8],
        backend: Backend,
    ) -> Result<KeyedCipher> {
        self.check()?;
        let cipher = self.expanded(length, key, backend)?;
        wipe_stack();
        let cipher = cipher.ok_or_else(|| {
            let (length, wanted) = (key.len(), self.key_length());
            Error::invalid(format!("Cipher key length {length} should be {wanted}"))
        })?;
        Ok(KeyedCipher::new(self.algorithm.name(), backend, cipher))
    }

    /// Expands a key in a separate stack frame, which is wiped afterwards.
    #[inline(never)]
    fn expanded(
        &self,
        length: SectorLength,
        key: &[u8],
        backend: Backend,
    ) -> Result<Option<Box<dyn RunCipher>>> {
        if key.len() != self.key_length() {
            return Ok(None);
        }
        if self.algorithm == CipherAlgorithm::Cast5 {
            return Ok(self.of_short_blocks(length, key));
        }
        let kernel = match (self.algorithm, self.mode, self.vectors) {
            // The kernels only have chains of 512 bytes. Others are rare.
            (CipherAlgorithm::Aes128 | CipherAlgorithm::Aes256, CipherMode::Cbc, _)
                if length == SectorLength::SHORTEST =>
            {
                aes_cbc::new(key, backend)
            }
            (
                CipherAlgorithm::Aes128 | CipherAlgorithm::Aes256,
                CipherMode::Xts,
                IvGenerator::Plain | IvGenerator::Plain64,
            ) => aes_xts::new(key, length, backend),
            _ => None,
        };
        let vectors = self.vectors(key, backend)?;
        if let Some(kernel) = kernel {
            return Ok(Some(match vectors {
                Vectors::Plain64 => kernel,
                Vectors::Plain => Box::new(ShortNumbers {
                    cipher: kernel,
                    length,
                }),
                Vectors::Essiv(_) => Box::new(WithVectors::new(kernel, vectors)),
            }));
        }
        let vectors = SectorVectors { vectors, length };
        let (first, second) = key.split_at(self.algorithm.key_length());
        let Some(cipher) = self.algorithm.keyed(first, backend) else {
            return Ok(None);
        };
        Ok(Some(match self.mode {
            CipherMode::Ecb => Box::new(Ecb(cipher)),
            CipherMode::Cbc => Box::new(Cbc { cipher, vectors }),
            CipherMode::Ctr => Box::new(Ctr { cipher, vectors }),
            CipherMode::Xts => match self.algorithm.keyed(second, backend) {
                Some(tweaks) => Box::new(Xts {
                    cipher,
                    tweaks,
                    vectors,
                }),
                None => return Ok(None),
            },
        }))
    }

    fn vectors(&self, key: &[u8], backend: Backend) -> Result<Vectors<16>> {
        Ok(match self.vectors {
            IvGenerator::Plain => Vectors::Plain,
            IvGenerator::Plain64 => Vectors::Plain64,
            IvGenerator::Essiv(hash) => {
                let algorithm = self.encrypting_vectors(hash)?;
                let hashed = hash.digest(&[key]);
                match algorithm.keyed(&hashed, backend) {
                    Some(cipher) => Vectors::Essiv(cipher),
                    None => Vectors::Plain64,
                }
            }
        })
    }

    /// Returns a cipher of blocks of eight bytes, which has neither XTS nor encrypted vectors.
    fn of_short_blocks(&self, length: SectorLength, key: &[u8]) -> Option<Box<dyn RunCipher>> {
        let cipher: AnyBlockCipher<8> = boxed::<cast5::Cast5>(key)?;
        let vectors = match self.vectors {
            IvGenerator::Plain => Vectors::Plain,
            IvGenerator::Plain64 => Vectors::Plain64,
            IvGenerator::Essiv(_) => return None,
        };
        let vectors = SectorVectors { vectors, length };
        Some(match self.mode {
            CipherMode::Ecb => Box::new(Ecb(cipher)),
            CipherMode::Cbc => Box::new(Cbc { cipher, vectors }),
            CipherMode::Ctr => Box::new(Ctr { cipher, vectors }),
            CipherMode::Xts => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SECTOR_SIZE, SectorCipher};

    const SECTORS: usize = 130;

    fn key(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i * 7 % 251).unwrap())
            .collect()
    }

    fn data() -> Vec<u8> {
        let byte = |i: usize| u8::try_from(i * i % 253).unwrap();
        (0..SECTORS * SECTOR_SIZE).map(byte).collect()
    }

    /// Returns all valid combinations.
    fn specs() -> Vec<CipherSpec> {
        let hashes = HashAlgorithm::ALL.map(IvGenerator::Essiv);
        let mut vectors = vec![IvGenerator::Plain, IvGenerator::Plain64];
        vectors.extend(hashes);
        let mut specs = Vec::new();
        for algorithm in CipherAlgorithm::ALL {
            for mode in CipherMode::ALL {
                for vectors in vectors.iter().copied() {
                    let spec = CipherSpec {
                        algorithm,
                        mode,
                        vectors,
                    };
                    if spec.check().is_ok() {
                        specs.push(spec);
                    }
                }
            }
        }
        specs
    }

    #[test]
    fn every_cipher_gives_the_data_back() {
        let specs = specs();
        // AES and the two others have vectors of five kinds, in four modes and three lengths; CAST5 has fewer.
        assert_eq!(specs.len(), 3 * 3 * 4 * 5 + 3 * 2);
        let first = u64::from(u32::MAX) - 60;
        for spec in specs {
            let cipher = spec
                .with_key(&key(spec.key_length()), Backend::detect())
                .unwrap();
            let mut secret = vec![0; SECTORS * SECTOR_SIZE];
            SectorCipher::encrypt_to(&cipher, first, &data(), &mut secret);
            let mut in_place = data();
            cipher.encrypt(first, &mut in_place);
            assert!(secret == in_place, "{spec:?}");
            // A run gives the same as its sectors one by one.
            let mut one = data()[65 * SECTOR_SIZE..66 * SECTOR_SIZE].to_vec();
            cipher.encrypt(first + 65, &mut one);
            assert!(
                one == secret[65 * SECTOR_SIZE..66 * SECTOR_SIZE],
                "{spec:?}"
            );
            let lost = secret
                .chunks(16)
                .zip(data().chunks(16))
                .filter(|(a, b)| a == b)
                .count();
            assert_eq!(lost, 0, "{spec:?} leaves plaintext");
            cipher.decrypt(first, &mut secret);
            assert!(secret == data(), "{spec:?}");
        }
    }

    /// Checks that a long sector starts like the short one of its number, and continues differently.
    #[test]
    fn long_sectors_have_one_vector() {
        let data = &data()[..64 * SECTOR_SIZE];
        let vectors = [
            IvGenerator::Plain64,
            IvGenerator::Essiv(HashAlgorithm::Sha256),
        ];
        for spec in specs() {
            if !vectors.contains(&spec.vectors) {
                continue;
            }
            let key = key(spec.key_length());
            let of_length = |bytes| {
                let length = SectorLength::of_bytes(bytes).unwrap();
                spec.of_length(length, &key, Backend::detect()).unwrap()
            };
            let mut short = data.to_vec();
            of_length(512).encrypt(8, &mut short);
            for bytes in [1024, 2048, 4096] {
                let cipher = of_length(bytes);
                let mut long = data.to_vec();
                cipher.encrypt(8, &mut long);
                let sectors = usize::try_from(bytes).unwrap() / SECTOR_SIZE;
                for (i, (long, short)) in long.chunks(512).zip(short.chunks(512)).enumerate() {
                    let is_start = i % sectors == 0 || spec.mode == CipherMode::Ecb;
                    assert_eq!(long == short, is_start, "{spec:?}, {bytes}, {i}");
                }
                let mut one = data[8 * SECTOR_SIZE..16 * SECTOR_SIZE].to_vec();
                cipher.encrypt(16, &mut one);
                assert!(one == long[8 * SECTOR_SIZE..16 * SECTOR_SIZE], "{spec:?}");
                cipher.decrypt(8, &mut long);
                assert!(long == data, "{spec:?}, {bytes}");
            }
        }
        assert_eq!(SectorLength::of_bytes(8192), None);
    }

    #[test]
    fn kernels_agree_with_the_modes_of_any_cipher() {
        for spec in specs() {
            let lengths = match (spec.algorithm.family(), spec.mode, spec.vectors) {
                // No XTS kernel has such vectors.
                ("aes", CipherMode::Xts, IvGenerator::Essiv(_)) => continue,
                ("aes", CipherMode::Xts, _) => &[512, 1024, 2048, 4096][..],
                ("aes", CipherMode::Cbc, _) => &[512],
                _ => continue,
            };
            for length in lengths {
                agrees_with_any_cipher(spec, SectorLength::of_bytes(*length).unwrap());
            }
        }
    }

    fn agrees_with_any_cipher(spec: CipherSpec, length: SectorLength) {
        // 2^32 is within a long sector.
        let first = u64::from(u32::MAX) - 60;
        let data = &data()[..128 * SECTOR_SIZE];
        let key = key(spec.key_length());
        let (one, two) = key.split_at(spec.algorithm.key_length());
        let plain = |part| spec.algorithm.keyed(part, Backend::Portable).unwrap();
        let vectors = SectorVectors {
            vectors: spec.vectors(&key, Backend::Portable).unwrap(),
            length,
        };
        let mode: Box<dyn RunCipher> = match spec.mode {
            CipherMode::Cbc => Box::new(Cbc {
                cipher: plain(one),
                vectors,
            }),
            _ => Box::new(Xts {
                cipher: plain(one),
                tweaks: plain(two),
                vectors,
            }),
        };
        let plain = KeyedCipher::new("plain", Backend::Portable, mode);
        let mut wanted = data.to_vec();
        plain.encrypt(first, &mut wanted);
        for backend in Backend::available() {
            let cipher = spec.of_length(length, &key, backend).unwrap();
            let mut secret = data.to_vec();
            cipher.encrypt(first, &mut secret);
            assert!(secret == wanted, "{spec:?}, {length:?}, {backend}");
            cipher.decrypt(first, &mut secret);
            assert!(secret == data, "{spec:?}, {length:?}, {backend}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let error = |algorithm, mode, vectors| {
            let spec = CipherSpec {
                algorithm,
                mode,
                vectors,
            };
            spec.check().unwrap_err().to_string()
        };
        let (cbc, sha1) = (CipherMode::Cbc, IvGenerator::Essiv(HashAlgorithm::Sha1));
        for (algorithm, message) in [
            (
                CipherAlgorithm::Aes128,
                "No AES cipher with key size 20 available",
            ),
            (
                CipherAlgorithm::Serpent256,
                "No Serpent cipher with key size 20 available",
            ),
            (
                CipherAlgorithm::Twofish192,
                "No Twofish cipher with key size 20 available",
            ),
            (
                CipherAlgorithm::Cast5,
                "Cipher cast5-128 not supported with essiv",
            ),
        ] {
            assert_eq!(error(algorithm, cbc, sha1), message);
        }
        let xts = error(CipherAlgorithm::Cast5, CipherMode::Xts, IvGenerator::Plain);
        assert_eq!(xts, "Unsupported cipher mode xts");
        let spec = CipherSpec {
            algorithm: CipherAlgorithm::Aes256,
            mode: CipherMode::Xts,
            vectors: IvGenerator::Plain64,
        };
        assert!(spec.with_key(&[0; 32], Backend::detect()).is_err());
    }
}
