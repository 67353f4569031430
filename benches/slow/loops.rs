//! File systems that can share blocks, each in a file that is mounted as a loop device.
//!
//! Mounting needs privileges and programs that many machines don't have. A file system that can't be mounted is
//! skipped, with its name and the reason.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow};

use crate::common::disks;
use crate::common::measure::Cost;
use crate::common::race::{self, Contender, Place};
use crate::common::tools::{Tool, to_qcow2};

/// The tested file systems.
pub const KINDS: [&str; 2] = ["xfs", "btrfs"];

const RAW: &str = "disk.raw";
const TARGET: &str = "new.qcow2";

/// A mounted file system, which is unmounted when it is dropped.
#[derive(Debug)]
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Makes a file system of `size` bytes in `folder` and mounts it there.
    fn new(kind: &str, folder: &Path, size: u64) -> Result<Self> {
        let image = folder.join(format!("{kind}.img"));
        File::create(&image)?.set_len(size)?;
        let quiet = ["-q".as_ref(), image.as_os_str()];
        run(&format!("mkfs.{kind}"), &quiet)?;
        let at = folder.join(kind);
        fs::create_dir(&at)?;
        let loop_device: &[&OsStr] = &["-o".as_ref(), "loop".as_ref()];
        let places = [image.as_os_str(), at.as_os_str()];
        run("mount", &[loop_device, &places].concat())?;
        Ok(Self { at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[self.at.as_os_str()]) {
            eprintln!("slow: {error:#}");
        }
    }
}

/// Runs a program, and waits for its end.
fn run(program: &str, args: &[&OsStr]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!("{program}: {}", said.trim()))
}

/// Converts a disk of `size` random bytes to qcow2, with a flush to the disk, by cowhide and `qemu-img` alternately.
///
/// # Errors
/// Returns an error if the file system can't be mounted, or if a program fails.
pub fn convert(kind: &str, size: u64, rounds: usize, outer: &Place<'_>) -> Result<Vec<Vec<Cost>>> {
    let mounted = Mounted::new(kind, outer.folder, 4 * size + (1 << 30))?;
    let place = Place {
        folder: &mounted.at,
        on_disk: true,
        ..outer.clone()
    };
    disks::write_random(&mounted.at.join(RAW), size)?;
    let args = to_qcow2(RAW, TARGET, 64 << 10, false);
    let contenders = [Tool::Cowhide, Tool::QemuImg].map(|tool| until_synced(tool, &args));
    for contender in &contenders {
        contender.run(&place)?;
        contender.remove_target(place.folder)?;
    }
    race::race(&contenders.each_ref(), rounds, &place)
}

/// Returns a contender that runs a program and then flushes its target. The shell command needs no quoting.
fn until_synced(tool: Tool, args: &str) -> Contender {
    let program = tool.program();
    Contender {
        program: "sh".into(),
        args: vec![
            "-c".into(),
            format!("\"$0\" {args} && sync -f {TARGET}").into(),
            program.into(),
        ],
        ..tool.contender("", Some(TARGET))
    }
}
