//! What was measured, and what follows from it.

use serde::{Deserialize, Serialize};

use super::speed::Speed;
use crate::common::machine::Machine;
use crate::common::measure::Cost;
use crate::common::numbers::median;
use crate::common::tools::Tool;

/// Everything that the page is made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figures {
    pub machine: Machine,
    pub disk_bytes: u64,
    pub rounds: u16,
    pub lines: Vec<Line>,
    pub speed: Speed,
}

/// One program's conversions, encrypted or not: a line of the plot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    pub tool: Tool,
    pub encrypted: bool,
    pub points: Vec<Point>,
}

/// Its conversions to one cluster size.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Point {
    pub cluster_size: u64,
    pub file_bytes: u64,
    /// One for each round.
    pub costs: Vec<Cost>,
}

impl Figures {
    /// A line, if the program was there.
    pub fn line(&self, tool: Tool, encrypted: bool) -> Option<&Line> {
        let mut lines = self.lines.iter();
        lines.find(|line| line.tool == tool && line.encrypted == encrypted)
    }

    /// The part of a file that isn't the disk's data. The disk is random: all of it is stored.
    pub fn metadata_share(&self, point: &Point) -> f64 {
        let metadata = point.file_bytes.saturating_sub(self.disk_bytes);
        metadata as f64 / point.file_bytes.max(1) as f64
    }

    /// How many times the plain conversion's figure the encrypted one's is, at one cluster size: the
    /// median of the rounds' ratios.
    pub fn price(&self, tool: Tool, cluster_size: u64, figure: fn(&Cost) -> f64) -> Option<f64> {
        let costs = |encrypted| Some(&self.line(tool, encrypted)?.at(cluster_size)?.costs);
        let (encrypted, plain) = (costs(true)?, costs(false)?);
        let rounds = encrypted.iter().zip(plain);
        Some(median(
            rounds.map(|(encrypted, plain)| figure(encrypted) / figure(plain)),
        ))
    }
}

impl Line {
    /// Its point at a cluster size.
    pub fn at(&self, cluster_size: u64) -> Option<&Point> {
        self.points
            .iter()
            .find(|point| point.cluster_size == cluster_size)
    }

    /// Where it is fastest and where slowest.
    pub fn extremes(&self) -> Option<(&Point, &Point)> {
        let by_time = |one: &&Point, other: &&Point| one.wall().total_cmp(&other.wall());
        let fastest = self.points.iter().min_by(by_time)?;
        let slowest = self.points.iter().max_by(by_time)?;
        Some((fastest, slowest))
    }

    /// The smallest and the largest cluster size of the run around the fastest in which nothing
    /// takes more than `times` as long: where cluster size doesn't matter.
    pub fn level(&self, times: f64) -> Option<(u64, u64)> {
        let (fastest, _) = self.extremes()?;
        let limit = fastest.wall() * times;
        let mut runs = self.points.split(|point| point.wall() > limit);
        let run = runs.find(|run| {
            let mut sizes = run.iter().map(|point| point.cluster_size);
            sizes.any(|size| size == fastest.cluster_size)
        })?;
        Some((run.first()?.cluster_size, run.last()?.cluster_size))
    }
}

impl Point {
    /// Seconds, the median of the rounds.
    pub fn wall(&self) -> f64 {
        median(self.costs.iter().map(|cost| cost.wall))
    }

    /// CPU seconds, the median of the rounds.
    pub fn cpu(&self) -> f64 {
        median(self.costs.iter().map(Cost::cpu))
    }
}
