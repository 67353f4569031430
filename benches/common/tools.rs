//! The programs that are measured, and the words in which they are told what to do.
//!
//! `cowhide` and `qemu-img` get the very same arguments.

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

/// The password's file in the folder of a race. Exactly the password: `qemu-img` would take a
/// newline for part of it.
pub const PASSWORD_FILE: &str = "password";
const PASSWORD: &str = "correct horse battery";

impl Tool {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cowhide => "cowhide",
            Self::QemuImg => "qemu-img",
        }
    }

    /// The file to start: the `cowhide` that cargo built for this program, and whatever `qemu-img`
    /// is in `PATH`.
    pub fn program(self) -> &'static str {
        match self {
            Self::Cowhide => env!("CARGO_BIN_EXE_cowhide"),
            Self::QemuImg => "qemu-img",
        }
    }

    /// The first line of what it says about its version, or `None` where it isn't installed.
    pub fn version(self) -> Option<String> {
        first_line(self.program(), "--version")
    }

    /// A contender with these arguments (separated by blanks).
    pub fn contender(self, args: &str, target: Option<&'static str>) -> Contender {
        Contender {
            program: self.program().into(),
            name: self.name(),
            args: args.split_whitespace().map(OsString::from).collect(),
            target,
        }
    }
}

/// Arguments that turn the raw disk `from` into the qcow2 image `to`.
pub fn to_qcow2(from: &str, to: &str, cluster_size: u64, encrypted: bool) -> String {
    let mut options = format!("cluster_size={cluster_size}");
    let mut object = String::new();
    if encrypted {
        object = format!("--object secret,id=s,file={PASSWORD_FILE} ");
        options.push_str(",encrypt.format=aes,encrypt.key-secret=s");
    }
    format!("convert {object}-f raw -O qcow2 -o {options} {from} {to}")
}

/// Arguments that turn the raw disk `from` into the qcow2 image `to`, encrypted by LUKS. Stretching the password takes
/// milliseconds here; how fast that goes is measured by itself.
pub fn to_luks(from: &str, to: &str) -> String {
    format!(
        "convert --object secret,id=s,file={PASSWORD_FILE} -f raw -O qcow2 \
         -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 {from} {to}"
    )
}

/// Arguments that turn the qcow2 image `from` into the raw disk `to`.
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
/// The system's error.
pub fn write_password(folder: &Path) -> std::io::Result<()> {
    std::fs::write(folder.join(PASSWORD_FILE), PASSWORD)
}

/// The first line that a program prints, or `None` where it can't be run.
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
