//! The cells of a picture, with the number of bytes of each kind.

use std::ops::Range;

use crate::commands::map::MapRun;
use crate::formats::FileUse;
use crate::units::human_size;

/// The kind of bytes in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Data of the guest, stored unchanged.
    Data,
    /// Compressed data.
    Compressed,
    /// Data in a backing file.
    Backing,
    /// Zeroes in the image's metadata.
    Zero,
    /// Unallocated, so that it reads as zeroes.
    Nothing,
    /// Tables and other metadata in the file.
    Metadata,
    /// Other bytes of the file: data of snapshots, or unused space.
    Other,
    /// Bytes of the file of a format that doesn't tell where its metadata is.
    Unknown,
    /// A hole of the file.
    Hole,
}

impl CellKind {
    const ALL: [Self; 9] = [
        Self::Data,
        Self::Compressed,
        Self::Backing,
        Self::Zero,
        Self::Nothing,
        Self::Metadata,
        Self::Other,
        Self::Unknown,
        Self::Hole,
    ];

    /// The kinds of bytes that are stored, which a cell shows first.
    const STORED: [Self; 6] = [
        Self::Data,
        Self::Compressed,
        Self::Backing,
        Self::Metadata,
        Self::Other,
        Self::Unknown,
    ];

    /// Returns the kind of an extent of the disk.
    fn of(run: &MapRun) -> Self {
        let status = &run.status;
        match () {
            () if status.data && !status.zero && status.depth > 0 => Self::Backing,
            () if status.compressed => Self::Compressed,
            () if status.data && !status.zero => Self::Data,
            () if status.present => Self::Zero,
            () => Self::Nothing,
        }
    }

    /// Returns true if the kind is drawn as a shade, in which only its colour differs from others.
    pub(super) fn is_shaded(self) -> bool {
        !matches!(self, Self::Data | Self::Zero | Self::Nothing | Self::Hole)
    }

    /// Returns the name of the kind in the legend.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Compressed => "compressed",
            Self::Backing => "in a backing file",
            Self::Zero => "zeroes",
            Self::Nothing => "not stored",
            Self::Metadata => "metadata",
            Self::Other => "not used by the disk",
            Self::Unknown => "metadata or unused",
            Self::Hole => "holes",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// A cell: the number of bytes of each kind.
type PartBytes = [u64; CellKind::ALL.len()];

/// A row of cells that represents a range of bytes.
#[derive(Debug, Clone)]
pub(super) struct Strip {
    length: u64,
    cells: Vec<PartBytes>,
}

impl Strip {
    /// Returns a strip of `cells` cells, or fewer if a cell would have less than `least` bytes.
    fn new(length: u64, cells: usize, least: u64) -> Self {
        let most = usize::try_from(length.div_ceil(least.max(1))).unwrap_or(usize::MAX);
        Self {
            length,
            cells: vec![PartBytes::default(); cells.min(most)],
        }
    }

    /// Returns the bytes that a cell represents.
    pub(super) fn part(&self, cell: usize) -> Range<u64> {
        let count = self.cells.len().max(1) as u128;
        let bound = |cell: usize| {
            let bound = u128::from(self.length) * cell as u128 / count;
            u64::try_from(bound).unwrap_or(u64::MAX)
        };
        bound(cell)..bound(cell + 1)
    }

    /// Adds a range of bytes of one kind.
    fn add(&mut self, range: Range<u64>, kind: CellKind) {
        let end = range.end.min(self.length);
        let count = self.cells.len() as u128;
        let first = u128::from(range.start) * count / u128::from(self.length.max(1));
        let mut cell = usize::try_from(first).unwrap_or(usize::MAX);
        let mut at = range.start;
        while at < end {
            let part = self.part(cell);
            let Some(bytes) = self.cells.get_mut(cell) else {
                return;
            };
            let next = part.end.min(end);
            if let Some(bytes) = bytes.get_mut(kind.index()) {
                *bytes += next.saturating_sub(at);
            }
            at = next.max(at);
            cell += 1;
        }
    }

    /// Returns the kind that each cell shows, with true if that is half of its bytes or more.
    pub(super) fn shown(&self) -> impl Iterator<Item = (CellKind, bool)> {
        self.cells.iter().map(|cell| {
            let bytes = |kind: &CellKind| cell.get(kind.index()).copied().unwrap_or(0);
            let most = |kinds: &[CellKind]| {
                let kinds = kinds.iter().rev().copied();
                kinds.max_by_key(bytes).filter(|kind| bytes(kind) > 0)
            };
            let kind = most(&CellKind::STORED).or_else(|| most(&CellKind::ALL));
            let kind = kind.unwrap_or(CellKind::Nothing);
            let all: u64 = cell.iter().sum();
            (kind, bytes(&kind) * 2 >= all)
        })
    }

    /// Returns the number of bytes of a kind.
    fn bytes(&self, kind: CellKind) -> u64 {
        let of_cell = |cell: &PartBytes| cell.get(kind.index()).copied().unwrap_or(0);
        self.cells.iter().map(of_cell).sum()
    }
}

/// The picture of an image.
#[derive(Debug, Clone)]
pub struct Picture {
    pub(super) name: String,
    /// The start of the shown part of the disk, in bytes.
    start: u64,
    disk: Strip,
    file: Strip,
    /// The number of extents with data in the file.
    runs: u64,
    /// The number of those that aren't contiguous with the one before in the file.
    jumps: u64,
    /// The end of the last one in the file, in bytes.
    last: Option<u64>,
}

/// The least number of bytes of a cell.
const LEAST: u64 = 512;

impl Picture {
    /// Returns an empty picture of an image: of a part of its disk, and of its file of `file` bytes, each with at
    /// most `cells` cells.
    pub fn new(name: String, disk: Range<u64>, file: u64, cells: usize) -> Self {
        Self {
            name,
            start: disk.start,
            disk: Strip::new(disk.end.saturating_sub(disk.start), cells, LEAST),
            file: Strip::new(file, cells, LEAST),
            runs: 0,
            jumps: 0,
            last: None,
        }
    }

    /// Adds an extent of the disk. Data in the image's last file is added to the strip of the file, too.
    pub fn add(&mut self, run: &MapRun) {
        let status = &run.status;
        let kind = CellKind::of(run);
        let start = run.start.0.saturating_sub(self.start);
        self.disk
            .add(start..start.saturating_add(status.length), kind);
        let Some(host) = status
            .offset
            .filter(|_| kind == CellKind::Data && run.file.is_none())
        else {
            return;
        };
        self.runs += 1;
        self.jumps += u64::from(self.last.is_some_and(|last| last != host.0));
        let end = host.0.saturating_add(status.length);
        self.last = Some(end);
        self.file.add(host.0..end, CellKind::Data);
    }

    /// Adds a hole of the file.
    pub fn add_hole(&mut self, hole: Range<u64>) {
        self.file.add(hole, CellKind::Hole);
    }

    /// Returns true if there is compressed data on the disk.
    pub fn has_compressed(&self) -> bool {
        self.disk.bytes(CellKind::Compressed) > 0
    }

    /// Adds a part of the file.
    pub fn add_part(&mut self, part: Range<u64>, used_for: FileUse) {
        let kind = match used_for {
            FileUse::Metadata => CellKind::Metadata,
            FileUse::Compressed => CellKind::Compressed,
        };
        self.file.add(part, kind);
    }

    /// Assigns the remaining bytes of the file. They may be metadata unless `tells_all` says that the places of
    /// metadata and of compressed data are known. A hole in which something is mapped is counted as a hole.
    pub fn finish(&mut self, tells_all: bool) {
        for cell in 0..self.file.cells.len() {
            let part = self.file.part(cell);
            let length = part.end - part.start;
            let Some(bytes) = self.file.cells.get_mut(cell) else {
                continue;
            };
            let mut rest = length;
            for kind in [
                CellKind::Hole,
                CellKind::Metadata,
                CellKind::Data,
                CellKind::Compressed,
            ] {
                if let Some(bytes) = bytes.get_mut(kind.index()) {
                    *bytes = rest.min(*bytes);
                    rest -= *bytes;
                }
            }
            let other = match tells_all {
                true => CellKind::Other,
                false => CellKind::Unknown,
            };
            if let Some(other) = bytes.get_mut(other.index()) {
                *other = rest;
            }
        }
    }

    /// Returns the heading of each strip.
    pub(super) fn headings(&self) -> [String; 2] {
        let cell = |strip: &Strip| human_size(strip.length / strip.cells.len().max(1) as u64);
        let runs = match (self.runs, self.jumps) {
            (0, _) => String::new(),
            (1, _) => ", data in one piece".to_owned(),
            (runs, 0) => format!(", data in {runs} pieces one behind the other"),
            (runs, 1) => format!(", data in {runs} pieces with one jump"),
            (runs, jumps) => format!(", data in {runs} pieces with {jumps} jumps"),
        };
        let start = match self.start {
            0 => String::new(),
            start => format!(" from byte {start} on"),
        };
        [
            format!(
                "disk: {}{start}, {} a cell",
                human_size(self.disk.length),
                cell(&self.disk)
            ),
            format!(
                "file: {}, {} a cell{runs}",
                human_size(self.file.length),
                cell(&self.file)
            ),
        ]
    }

    /// Returns the strips.
    pub(super) fn strips(&self) -> [&Strip; 2] {
        [&self.disk, &self.file]
    }

    /// Returns the kinds in a strip, with the number of bytes of each.
    pub(super) fn legend(strip: &Strip) -> impl Iterator<Item = (CellKind, u64)> {
        let kinds = CellKind::ALL.into_iter();
        kinds
            .map(|kind| (kind, strip.bytes(kind)))
            .filter(|(_, bytes)| *bytes > 0)
    }
}
