//! What `cowhide speed --output=json` says, as far as the page needs it. Speeds are in GB/s.

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
    /// `None`: it has no kernel of its own.
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
    /// What the AES unit does on registers alone, on one thread.
    pub limit: Option<f64>,
    /// What part of that encrypting reaches, from 0 to 1.
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
    /// Reads a report from a file, or has cowhide make one.
    ///
    /// # Errors
    /// This cowhide has no `speed`, or what it says isn't what we know.
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

    /// The cipher that does the work.
    pub fn chosen(&self) -> Option<&Cipher> {
        self.ciphers
            .iter()
            .find(|cipher| cipher.name == self.backend.name)
    }
}
