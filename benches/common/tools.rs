//! The measured programs, and their arguments.
//!
//! `cowhide` and `qemu-img` get the same arguments.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::race::Contender;

/// A disk image converter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    Cowhide,
    QemuImg,
}

/// The password file in the folder of a race. It has no newline, which `qemu-img` would take as a part of the
/// password.
pub const PASSWORD_FILE: &str = "password";
const PASSWORD: &str = "correct horse battery";

impl Tool {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cowhide => "cowhide",
            Self::QemuImg => "qemu-img",
        }
    }

    /// Returns the file to run: the `cowhide` that cargo built for this benchmark, or the `qemu-img` in `PATH`.
    pub fn program(self) -> &'static str {
        match self {
            Self::Cowhide => env!("CARGO_BIN_EXE_cowhide"),
            Self::QemuImg => "qemu-img",
        }
    }

    /// Returns the first line of its version, or `None` if it isn't installed.
    pub fn version(self) -> Option<String> {
        first_line(self.program(), "--version")
    }

    /// Returns a contender with these arguments, which are separated by spaces.
    pub fn contender(self, args: &str, target: Option<&'static str>) -> Contender {
        Contender {
            program: self.program().into(),
            name: self.name(),
            args: args.split_whitespace().map(OsString::from).collect(),
            target,
        }
    }
}

/// Returns the arguments that convert the raw disk `from` into the qcow2 image `to`.
pub fn to_qcow2(from: &str, to: &str, cluster_size: u64, encrypted: bool) -> String {
    let mut options = format!("cluster_size={cluster_size}");
    let mut object = String::new();
    if encrypted {
        object = format!("--object secret,id=s,file={PASSWORD_FILE} ");
        options.push_str(",encrypt.format=aes,encrypt.key-secret=s");
    }
    format!("convert {object}-f raw -O qcow2 -o {options} {from} {to}")
}

/// Returns the arguments that convert the raw disk `from` into the qcow2 image `to` with LUKS encryption. Key
/// derivation takes milliseconds here, and is measured separately.
pub fn to_luks(from: &str, to: &str) -> String {
    format!(
        "convert --object secret,id=s,file={PASSWORD_FILE} -f raw -O qcow2 \
         -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 {from} {to}"
    )
}

/// Returns the arguments that convert the qcow2 image `from` into the raw disk `to`.
pub fn to_raw(from: &str, to: &str, encrypted: bool) -> String {
    if encrypted {
        format!(
            "convert --object secret,id=s,file={PASSWORD_FILE} --image-opts -O raw \
             driver=qcow2,file.filename={from},encrypt.key-secret=s {to}"
        )
    } else {
        format!("convert -f qcow2 -O raw {from} {to}")
    }
}

/// Writes [`PASSWORD_FILE`].
///
/// # Errors
/// Returns the system's error.
pub fn write_password(folder: &Path) -> std::io::Result<()> {
    std::fs::write(folder.join(PASSWORD_FILE), PASSWORD)
}

/// Returns the first line that a program prints, or `None` if it can't be run.
pub fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}
