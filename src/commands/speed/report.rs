//! The results of `speed`, with the fields of its JSON report.

use serde::Serialize;

/// The spread above which the figures mostly show the machine's other load.
pub const BUSY: f64 = 0.15;

/// The results. Speeds are in GB/s: 10^9 bytes per second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The processor.
    pub cpu: Cpu,
    /// The backend that encrypts and decrypts images.
    pub backend: Chosen,
    /// The parameters of the measurements.
    pub measurement: Measurement,
    /// Every backend that this machine has, the slowest first.
    pub ciphers: Vec<CipherSpeed>,
    /// The plain `cbc` crate, one sector at a time.
    pub cbc_crate: CbcCrateSpeed,
    /// XTS, the mode of LUKS, by every backend and with keys of both lengths.
    pub xts: Vec<XtsSpeed>,
    /// Whole conversions, for every cluster size.
    pub cluster_sizes: Vec<ClusterSpeed>,
    /// The time of a conversion with AES as a multiple of that without: the median over all pairs of
    /// conversions, of every cluster size.
    pub aes_takes_times: f64,
    /// Advice for more speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The processor.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// The model name that the processor or the virtual machine reports.
    pub model: String,
    /// The number of threads that this process can run at once.
    pub threads: usize,
    /// The features that matter to the ciphers.
    pub features: Vec<Feature>,
    /// True if it reports to be virtual (x86 only).
    pub virtualised: bool,
}

/// A feature of the processor.
#[derive(Debug, Serialize)]
pub struct Feature {
    /// Its name in Linux and in compilers.
    pub name: &'static str,
    /// True if the processor has it.
    pub present: bool,
}

/// The backend for images.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Its name.
    pub name: &'static str,
    /// Its description.
    pub description: &'static str,
    /// The reason why it is used.
    pub reason: String,
    /// The symbol name of the function that encrypts, for backends that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<&'static str>,
}

/// The parameters of the measurements.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measurement {
    /// The number of threads that "all threads" were.
    pub threads: usize,
    /// The length of each thread's buffer for the ciphers, in bytes.
    pub buffer_bytes: usize,
    /// The number of measurements of each speed of a cipher.
    pub cipher_rounds: u32,
    /// The size of the converted disk, in bytes.
    pub data_bytes: u64,
    /// The number of threads of the conversions.
    pub conversion_threads: usize,
    /// The number of times that each conversion was done.
    pub conversion_rounds: u32,
    /// The spread of repeated measurements: their interquartile range divided by their median. Above [`BUSY`] the
    /// machine had other load as well.
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
    /// The limit of the AES unit with this backend's instructions and such keys, on one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The share of the limit that encrypting on one thread reaches, from 0 to 1.
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
    /// The speed without encryption.
    pub plain: f64,
    /// The speed with legacy AES.
    pub aes: f64,
    /// The length of the image's file in bytes.
    pub file_bytes: u64,
    /// The part of the file's length that isn't the disk's data, in bytes.
    pub metadata_bytes: u64,
}
