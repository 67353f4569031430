//! The results of `speed`, as its report in JSON has them.

use serde::Serialize;

/// The spread above which figures say more about the machine's other work than about ours.
pub const BUSY: f64 = 0.15;

/// The results. Speeds are in GB/s, which are 10^9 bytes a second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The processor.
    pub cpu: Cpu,
    /// The backend that encrypts and decrypts images.
    pub backend: Chosen,
    /// The way of measuring.
    pub measurement: Measurement,
    /// Every backend that this machine has, the slowest first.
    pub ciphers: Vec<CipherSpeed>,
    /// The plain `cbc` crate, one sector at a time.
    pub cbc_crate: CbcCrateSpeed,
    /// XTS, the mode of LUKS, by every backend and with keys of both lengths.
    pub xts: Vec<XtsSpeed>,
    /// Whole conversions, for every cluster size that there is.
    pub cluster_sizes: Vec<ClusterSpeed>,
    /// The time of a conversion with AES as a multiple of that without: the median over all pairs of
    /// conversions, of every cluster size.
    pub aes_takes_times: f64,
    /// Advice that would make it faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The processor.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// The name that it gives itself, or that the virtual machine was told to give it.
    pub model: String,
    /// The number of threads that it runs for us at once.
    pub threads: usize,
    /// The features that matter to the ciphers.
    pub features: Vec<Feature>,
    /// True if it says that it is a virtual machine's (x86 only; others don't tell).
    pub virtualised: bool,
}

/// A feature of the processor.
#[derive(Debug, Serialize)]
pub struct Feature {
    /// Its name, as Linux and compilers know it.
    pub name: &'static str,
    /// True if the processor has it.
    pub present: bool,
}

/// The backend that does the work.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Its name.
    pub name: &'static str,
    /// Its description.
    pub description: &'static str,
    /// The reason for which it is used and no other.
    pub reason: String,
    /// The kernel that encrypts, by its name in the program, for backends that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<&'static str>,
}

/// The way of measuring.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measurement {
    /// The number of threads that "all threads" were.
    pub threads: usize,
    /// The length of each thread's buffer for the ciphers, in bytes.
    pub buffer_bytes: usize,
    /// The number of measurements of each speed of a cipher.
    pub cipher_rounds: u32,
    /// The disk that was converted, in bytes.
    pub data_bytes: u64,
    /// The number of threads that converted it.
    pub conversion_threads: usize,
    /// The number of times that each conversion was done.
    pub conversion_rounds: u32,
    /// The spread of measurements of the same thing: the width of their middle half as a share of the median.
    /// Above [`BUSY`] the machine was doing something else as well.
    pub spread: f64,
}

/// The speed of a backend.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CipherSpeed {
    /// The backend.
    pub name: &'static str,
    /// Encrypting on one thread.
    pub encrypt_one_thread: f64,
    /// Decrypting on one thread.
    pub decrypt_one_thread: f64,
    /// Encrypting on all threads together.
    pub encrypt_all_threads: f64,
    /// Decrypting on all threads together.
    pub decrypt_all_threads: f64,
    /// The limit of the AES unit with this backend's instructions, on one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The share of the limit that encrypting on one thread reaches, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_limit: Option<f64>,
    /// The speed of encrypting as a multiple of the `cbc` crate's, on one thread.
    pub times_cbc_crate_encrypt: f64,
    /// The speed of decrypting as a multiple of the `cbc` crate's, on one thread.
    pub times_cbc_crate_decrypt: f64,
}

/// A backend's speed in XTS mode.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct XtsSpeed {
    /// The backend.
    pub name: &'static str,
    /// The length of each of the two keys, in bits.
    pub key_bits: usize,
    /// Encrypting on one thread.
    pub encrypt_one_thread: f64,
    /// Decrypting on one thread.
    pub decrypt_one_thread: f64,
    /// Encrypting on all threads together.
    pub encrypt_all_threads: f64,
    /// The most that the AES unit does with this backend's instructions and such keys, on one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The share of that which encrypting on one thread reaches, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_limit: Option<f64>,
}

/// The plain `cbc` crate's speed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CbcCrateSpeed {
    /// Encrypting on one thread.
    pub encrypt_one_thread: f64,
    /// Decrypting on one thread.
    pub decrypt_one_thread: f64,
}

/// The effect of a cluster size on a conversion from raw to qcow2.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterSpeed {
    /// The cluster size in bytes.
    pub cluster_size: u64,
    /// Converting without encryption.
    pub plain: f64,
    /// Converting with legacy AES.
    pub aes: f64,
    /// The length of the image's file.
    pub file_bytes: u64,
    /// The part of that which isn't the disk's data.
    pub metadata_bytes: u64,
}
