//! The measured figures, and values that are computed from them.

use serde::{Deserialize, Serialize};

use super::speed::Speed;
use crate::common::machine::Machine;
use crate::common::measure::Cost;
use crate::common::numbers::median;
use crate::common::tools::Tool;

/// All figures for the page.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figures {
    pub machine: Machine,
    pub disk_bytes: u64,
    pub rounds: u16,
    pub lines: Vec<Line>,
    pub speed: Speed,
}

/// The conversions of one program, encrypted or not: a line of the plot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    pub tool: Tool,
    pub encrypted: bool,
    pub points: Vec<Point>,
}

/// The conversions of a line to one cluster size.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Point {
    pub cluster_size: u64,
    pub file_bytes: u64,
    /// The costs, one for each round.
    pub costs: Vec<Cost>,
}

impl Figures {
    /// Returns a line, if the program was installed.
    pub fn line(&self, tool: Tool, encrypted: bool) -> Option<&Line> {
        let mut lines = self.lines.iter();
        lines.find(|line| line.tool == tool && line.encrypted == encrypted)
    }

    /// Returns the share of a file that isn't the disk's data. The disk is random, so all of it is stored.
    pub fn metadata_share(&self, point: &Point) -> f64 {
        let metadata = point.file_bytes.saturating_sub(self.disk_bytes);
        metadata as f64 / point.file_bytes.max(1) as f64
    }

    /// Returns the ratio of the encrypted to the plain conversion at one cluster size: the median of the rounds'
    /// ratios.
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
    /// Returns the point at a cluster size.
    pub fn at(&self, cluster_size: u64) -> Option<&Point> {
        self.points
            .iter()
            .find(|point| point.cluster_size == cluster_size)
    }

    /// Returns the fastest and the slowest point.
    pub fn extremes(&self) -> Option<(&Point, &Point)> {
        let by_time = |one: &&Point, other: &&Point| one.wall().total_cmp(&other.wall());
        let fastest = self.points.iter().min_by(by_time)?;
        let slowest = self.points.iter().max_by(by_time)?;
        Some((fastest, slowest))
    }

    /// Returns the smallest and the largest of the cluster sizes around the fastest one that take at most `times` as
    /// long.
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
    /// Returns the median wall time in seconds.
    pub fn wall(&self) -> f64 {
        median(self.costs.iter().map(|cost| cost.wall))
    }

    /// Returns the median CPU time in seconds.
    pub fn cpu(&self) -> f64 {
        median(self.costs.iter().map(Cost::cpu))
    }
}
