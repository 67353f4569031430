//! The rows of the benchmark on slow storage: their commands and files.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::common::delay::Delayed;
use crate::common::disks::{self, Noise};
use crate::common::race::{Contender, Place};
use crate::common::tools::{self, Tool, to_qcow2, to_raw};

const RAW: &str = "disk.raw";
const PLAIN: &str = "plain.qcow2";
const ENCRYPTED: &str = "encrypted.qcow2";
/// A disk that compresses to about half its size.
const TEXT: &str = "text.raw";
const ZSTD: &str = "zstd.qcow2";
/// An image of 1 TiB with preallocated metadata and no data.
const PLACES: &str = "places.qcow2";
const NEW_QCOW2: &str = "new.qcow2";
const NEW_RAW: &str = "new.raw";
const CLUSTER: u64 = 64 << 10;

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    args: String,
    target: Option<&'static str>,
    /// The file that a raw target must be equal to.
    pub expected: Option<&'static str>,
    /// True if it only reads metadata, so that only the longest delay is used.
    pub metadata: bool,
}

impl Row {
    fn convert(name: &'static str, args: String, target: &'static str) -> Self {
        Self {
            name,
            args,
            target: Some(target),
            expected: None,
            metadata: false,
        }
    }

    fn expecting(mut self, expected: &'static str) -> Self {
        self.expected = Some(expected);
        self
    }

    fn look(name: &'static str, args: &str) -> Self {
        Self {
            name,
            args: format!("{args} {PLACES}"),
            target: None,
            expected: None,
            metadata: true,
        }
    }

    /// Returns cowhide first, and then `qemu-img` with each of its ways to do it.
    pub fn contenders(&self, delayed: &Delayed<'_>, with_qemu: bool) -> Vec<Contender> {
        let contender =
            |tool: Tool, args: &str| delayed.contender(tool.contender(args, self.target));
        let mut all = vec![contender(Tool::Cowhide, &self.args)];
        if with_qemu {
            all.push(contender(Tool::QemuImg, &self.args));
            if let Some(rest) = self.args.strip_prefix("convert ") {
                // `-W` allows writes in any order, so that all of its 16 coroutines can wait at once.
                let args = format!("convert -W -m 16 {rest}");
                all.push(contender(Tool::QemuImg, &args));
            }
        }
        all
    }
}

/// Returns all rows, in the order of the table.
pub fn all() -> Vec<Row> {
    let zstd = format!("convert -c -f raw -O qcow2 -o compression_type=zstd {TEXT} {NEW_QCOW2}");
    let new = |encrypted| to_qcow2(RAW, NEW_QCOW2, CLUSTER, encrypted);
    vec![
        Row::convert("raw → qcow2", new(false), NEW_QCOW2),
        Row::convert("qcow2 → raw", to_raw(PLAIN, NEW_RAW, false), NEW_RAW).expecting(RAW),
        Row::convert("raw → qcow2, AES", new(true), NEW_QCOW2),
        Row::convert(
            "qcow2, AES → raw",
            to_raw(ENCRYPTED, NEW_RAW, true),
            NEW_RAW,
        )
        .expecting(RAW),
        Row::convert("raw → qcow2, zstd", zstd, NEW_QCOW2),
        Row::convert("qcow2, zstd → raw", to_raw(ZSTD, NEW_RAW, false), NEW_RAW).expecting(TEXT),
        Row::look("map 1 TiB, metadata", "map --output=json"),
        Row::look("measure 1 TiB, metadata", "measure -O qcow2"),
        Row::look("check 1 TiB, metadata", "check"),
    ]
}

/// Makes the files that the rows read, without delays.
///
/// # Errors
/// Returns the system's error or cowhide's.
pub fn make_sources(place: &Place<'_>, size: u64) -> Result<()> {
    let file = |name| place.folder.join(name);
    tools::write_password(place.folder)?;
    disks::write_random(&file(RAW), size)?;
    write_text(&file(TEXT), size)?;
    let zstd = format!("convert -c -O qcow2 -o compression_type=zstd {TEXT} {ZSTD}");
    for args in [
        to_qcow2(RAW, PLAIN, CLUSTER, false),
        to_qcow2(RAW, ENCRYPTED, CLUSTER, true),
        zstd,
        format!("create -q -f qcow2 -o preallocation=metadata {PLACES} 1T"),
    ] {
        let cowhide = Tool::Cowhide.contender(&args, None);
        cowhide.run(place).context("making a source")?;
    }
    Ok(())
}

/// Writes a disk of `size` bytes (a multiple of 1 MiB) in which every second block of 64 bytes repeats the block
/// before it.
fn write_text(path: &Path, size: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut noise = Noise(0x7E47);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        for pair in buffer.chunks_exact_mut(128) {
            let (block, copy) = pair.split_at_mut(64);
            noise.fill(block);
            copy.copy_from_slice(block);
        }
        file.write_all(&buffer)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
