//! The jobs of the benchmark: their programs and commands.

use anyhow::{Context as _, Result};

use crate::common::disks;
use crate::common::race::{Contender, Place};
use crate::common::tools::{self, Tool, to_luks, to_qcow2, to_raw};

/// The name of the third program.
pub const CP: &str = "cp";

/// The job with which that of small clusters is compared.
pub const LARGE_CLUSTERS: &str = "256 MiB raw → qcow2, 64 KiB clusters";
/// The job with small clusters.
pub const SMALL_CLUSTERS: &str = "256 MiB raw → qcow2, 512-byte clusters";

/// The job with which that of LUKS is compared.
pub const LEGACY: &str = "raw → qcow2, AES";
/// The job with LUKS.
pub const LUKS: &str = "raw → qcow2, LUKS";

/// Files in the folder of a race.
const RAW: &str = "disk.raw";
const PLAIN: &str = "plain.qcow2";
const ENCRYPTED: &str = "encrypted.qcow2";
const LUKS_IMAGE: &str = "luks.qcow2";
const SMALL: &str = "small.raw";
const SPARSE: &str = "sparse.raw";
const SPARSE_SIZE: u64 = 8 << 40;
/// A disk with a file system of programs and texts.
const FILES: &str = "files.raw";
const ZLIB: &str = "zlib.qcow2";
const ZSTD: &str = "zstd.qcow2";
/// An image of 1 TiB with preallocated metadata and no data.
const PLACES: &str = "places.qcow2";
const NEW_QCOW2: &str = "new.qcow2";
const NEW_RAW: &str = "new.raw";

/// The default cluster size of `qemu-img`.
const CLUSTER: u64 = 64 << 10;

/// The meaning of a program's failure at a job.
#[derive(Debug, Clone, Copy)]
pub enum Refusal {
    IsFailure,
    /// The job needs a feature that not every version or file system has.
    MeansUnsupported,
}

/// A job that each contender does with its own command.
#[derive(Debug)]
pub struct Job {
    pub name: &'static str,
    pub contenders: Vec<Contender>,
    pub refusal: Refusal,
    /// The file that the results must be equal to.
    pub expected: Option<&'static str>,
}

impl Job {
    /// Returns a job that both converters do with the same arguments.
    fn new(name: &'static str, args: &str, target: Option<&'static str>) -> Self {
        Self {
            name,
            contenders: [Tool::Cowhide, Tool::QemuImg]
                .map(|tool| tool.contender(args, target))
                .into(),
            refusal: Refusal::IsFailure,
            expected: None,
        }
    }

    /// Adds a `cp` of the source as a contender.
    fn beside_copy_of(mut self, source: &'static str) -> Self {
        self.contenders.push(Contender {
            program: CP.into(),
            name: CP,
            // Bytes must be copied, even if the file system could share them.
            args: ["--reflink=never", source, "copy"].map(Into::into).into(),
            target: Some("copy"),
        });
        self
    }

    fn expecting(mut self, expected: &'static str) -> Self {
        self.expected = Some(expected);
        self
    }

    fn or_unsupported(mut self) -> Self {
        self.refusal = Refusal::MeansUnsupported;
        self
    }
}

/// Returns all jobs, in the order of the table.
pub fn all() -> Vec<Job> {
    let new = |from, cluster_size, encrypted| to_qcow2(from, NEW_QCOW2, cluster_size, encrypted);
    let create = |cluster_size: u64, size: &str| {
        format!(
            "create -f qcow2 -o preallocation=metadata,cluster_size={cluster_size} {NEW_QCOW2} {size}"
        )
    };
    let compare = format!(
        "compare --object secret,id=s,file={} --image-opts driver=raw,file.filename={RAW} \
         driver=qcow2,file.filename={ENCRYPTED},encrypt.key-secret=s",
        tools::PASSWORD_FILE
    );
    let qcow2 = Some(NEW_QCOW2);
    let raw = Some(NEW_RAW);
    vec![
        Job::new(LEGACY, &new(RAW, CLUSTER, true), qcow2).beside_copy_of(RAW),
        Job::new("qcow2, AES → raw", &to_raw(ENCRYPTED, NEW_RAW, true), raw)
            .beside_copy_of(ENCRYPTED)
            .expecting(RAW),
        Job::new(LUKS, &to_luks(RAW, NEW_QCOW2), qcow2).beside_copy_of(RAW),
        Job::new("qcow2, LUKS → raw", &to_raw(LUKS_IMAGE, NEW_RAW, true), raw)
            .beside_copy_of(LUKS_IMAGE)
            .expecting(RAW),
        Job::new("raw → qcow2", &new(RAW, CLUSTER, false), qcow2).beside_copy_of(RAW),
        Job::new("qcow2 → raw", &to_raw(PLAIN, NEW_RAW, false), raw)
            .beside_copy_of(PLAIN)
            .expecting(RAW),
        Job::new(SMALL_CLUSTERS, &new(SMALL, 512, false), qcow2).beside_copy_of(SMALL),
        Job::new(LARGE_CLUSTERS, &new(SMALL, CLUSTER, false), qcow2).beside_copy_of(SMALL),
        compress("file system → qcow2, zlib", "zlib"),
        compress("file system → qcow2, zstd", "zstd"),
        Job::new("qcow2, zlib → raw", &to_raw(ZLIB, NEW_RAW, false), raw)
            .expecting(FILES)
            .or_unsupported(),
        Job::new("qcow2, zstd → raw", &to_raw(ZSTD, NEW_RAW, false), raw)
            .expecting(FILES)
            .or_unsupported(),
        Job::new("info", &format!("info {ENCRYPTED}"), None),
        Job::new(
            "8 TiB sparse raw (64 MiB data) → qcow2",
            &new(SPARSE, CLUSTER, false),
            qcow2,
        )
        .beside_copy_of(SPARSE)
        .or_unsupported(),
        Job::new(
            "create 256 MiB, metadata, 512-byte clusters",
            &create(512, "256M"),
            qcow2,
        )
        .or_unsupported(),
        Job::new(
            "create 1 TiB, metadata, 64 KiB clusters",
            &create(CLUSTER, "1T"),
            qcow2,
        )
        .or_unsupported(),
        Job::new(
            "map 1 TiB, metadata, 64 KiB clusters",
            &format!("map --output=json {PLACES}"),
            None,
        )
        .or_unsupported(),
        Job::new(
            "measure 1 TiB, metadata, 64 KiB clusters",
            &format!("measure -O qcow2 {PLACES}"),
            None,
        )
        .or_unsupported(),
        Job::new(
            "check 1 TiB, metadata, 64 KiB clusters",
            &format!("check {PLACES}"),
            None,
        )
        .or_unsupported(),
        Job::new("compare raw and qcow2, AES", &compare, None),
    ]
}

/// Returns a job that compresses. `qemu-img` needs `-W -m 16` to use more than one processor.
fn compress(name: &'static str, kind: &str) -> Job {
    let args = format!(
        "convert -c -W -m 16 -f raw -O qcow2 -o compression_type={kind} {FILES} {NEW_QCOW2}"
    );
    Job::new(name, &args, Some(NEW_QCOW2)).or_unsupported()
}

/// Makes the files that the jobs read.
///
/// # Errors
/// Returns the system's error, or cowhide's.
pub fn make_sources(place: &Place<'_>, size: u64) -> Result<()> {
    let file = |name| place.folder.join(name);
    tools::write_password(place.folder)?;
    disks::write_random(&file(RAW), size)?;
    disks::write_random(&file(SMALL), 256 << 20)?;
    // On a file system without files of this size only this job fails.
    if let Err(error) = disks::write_sparse(&file(SPARSE), SPARSE_SIZE) {
        eprintln!("no sparse disk here: {error:#}");
        std::fs::remove_file(file(SPARSE))?;
    }
    if let Err(error) = make_compressed(place) {
        eprintln!("no file system to compress here: {error:#}");
    }
    let create = format!("create -q -f qcow2 -o preallocation=metadata {PLACES} 1T");
    if let Err(error) = Tool::Cowhide.contender(&create, None).run(place) {
        eprintln!("no preallocated image here: {error:#}");
    }
    for (image, encrypted) in [(PLAIN, false), (ENCRYPTED, true)] {
        Tool::Cowhide
            .contender(&to_qcow2(RAW, image, CLUSTER, encrypted), None)
            .run(place)
            .context("making a source")?;
    }
    Tool::Cowhide
        .contender(&to_luks(RAW, LUKS_IMAGE), None)
        .run(place)
        .context("making a source")?;
    Ok(())
}

/// Makes a file system and compressed images of it.
fn make_compressed(place: &Place<'_>) -> Result<()> {
    disks::write_file_system(&place.folder.join(FILES))?;
    for (image, kind) in [(ZLIB, "zlib"), (ZSTD, "zstd")] {
        let args = format!("convert -c -O qcow2 -o compression_type={kind} {FILES} {image}");
        Tool::Cowhide.contender(&args, None).run(place)?;
        let length = |name| std::fs::metadata(place.folder.join(name)).map(|meta| meta.len());
        eprintln!("{image}: {} of {} bytes", length(image)?, length(FILES)?);
    }
    Ok(())
}
