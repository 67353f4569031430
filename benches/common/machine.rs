//! The machine on which figures were measured, without host names and paths.

use serde::{Deserialize, Serialize};

use super::tools::{Tool, first_line};

/// The machine and the programs on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    pub cpu: String,
    pub threads: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub cowhide: String,
    /// The version of qemu-img, or `None` if it isn't installed.
    pub qemu_img: Option<String>,
    pub rustc: Option<String>,
}

impl Machine {
    /// Returns this machine.
    pub fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kibibytes = field("/proc/meminfo", "MemTotal")
            .and_then(|size| size.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes * 1024,
            kernel: format!("Linux {}", kernel.trim()),
            cowhide: Tool::Cowhide.version().unwrap_or_else(|| "cowhide".into()),
            qemu_img: Tool::QemuImg.version(),
            rustc: first_line("rustc", "--version"),
        }
    }

    /// Returns the line below a table.
    pub fn line(&self) -> String {
        let mut parts = vec![
            format!(
                "{} ({} threads, {:.0} GiB)",
                self.cpu,
                self.threads,
                self.gibibytes()
            ),
            self.kernel.clone(),
            self.cowhide.clone(),
        ];
        parts.push(match &self.qemu_img {
            Some(version) => version.clone(),
            None => "qemu-img absent".into(),
        });
        parts.extend(self.rustc.clone());
        parts.join("; ")
    }

    fn gibibytes(&self) -> f64 {
        self.memory_bytes as f64 / f64::from(1 << 30)
    }
}
