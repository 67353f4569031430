//! The parts of the report of `cowhide speed --output=json` that the page needs. Speeds are in GB/s.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::common::tools::Tool;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Speed {
    pub cpu: Cpu,
    pub backend: Backend,
    pub ciphers: Vec<Cipher>,
    pub cluster_sizes: Vec<InMemory>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cpu {
    pub features: Vec<Feature>,
    pub virtualised: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Feature {
    pub name: String,
    pub present: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backend {
    pub name: String,
    pub reason: String,
    /// The symbol of its encryption kernel, or `None` if it has none.
    pub symbol: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cipher {
    pub name: String,
    pub encrypt_one_thread: f64,
    pub decrypt_one_thread: f64,
    pub encrypt_all_threads: f64,
    pub decrypt_all_threads: f64,
    /// The limit of the AES unit on registers only, on one thread.
    pub limit: Option<f64>,
    /// The share of the limit that encrypting reaches, from 0 to 1.
    pub share_of_limit: Option<f64>,
    pub times_cbc_crate_encrypt: f64,
    pub times_cbc_crate_decrypt: f64,
}

/// Conversions without files and processes around them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InMemory {
    pub cluster_size: u64,
    pub plain: f64,
    pub aes: f64,
}

impl Speed {
    /// Reads a report from a file, or runs cowhide to make one.
    ///
    /// # Errors
    /// Returns an error if the file can't be read, if `cowhide speed` fails, or if the report has other
    /// fields.
    pub fn get(file: Option<&Path>) -> Result<Self> {
        let text = match file {
            Some(path) => std::fs::read(path).with_context(|| path.display().to_string())?,
            None => {
                let output = Command::new(Tool::Cowhide.program())
                    .args(["speed", "--output=json"])
                    .output()?;
                ensure!(
                    output.status.success(),
                    "`cowhide speed` failed, and the page can't be made without it (or give its \
                     report with --speed-json FILE): {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                output.stdout
            }
        };
        serde_json::from_slice(&text).context("reading the report of `cowhide speed`")
    }

    /// Returns the figures of the backend for images.
    pub fn chosen(&self) -> Option<&Cipher> {
        self.ciphers
            .iter()
            .find(|cipher| cipher.name == self.backend.name)
    }
}
