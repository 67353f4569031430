//! Arithmetic of runs: their total length, and their parts.

use crate::formats::Run;

/// Returns the total length of `runs`, in bytes.
pub(super) fn lengths(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.len() as u64).sum()
}

/// Appends a run unless it is empty, and joins it to the last one if they touch.
pub(super) fn push(runs: &mut Vec<Run>, run: Run) {
    if run.is_empty() {
        return;
    }
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Returns the parts of `runs` within `part`.
pub(super) fn within(runs: &[Run], part: &Run) -> Vec<Run> {
    let cut = |run: &Run| run.start.max(part.start)..run.end.min(part.end);
    runs.iter().map(cut).filter(|run| !run.is_empty()).collect()
}

/// Returns the parts of `runs` within `part`, in bytes from its start.
pub(super) fn cut_to(runs: &[Run], part: &Run) -> Vec<Run> {
    let runs = within(runs, part).into_iter();
    runs.map(|run| run.start - part.start..run.end - part.start)
        .collect()
}

/// Fills a part of a buffer with zeroes.
pub(super) fn zero_fill(buffer: &mut [u8], range: Run) {
    if let Some(part) = buffer.get_mut(range) {
        part.fill(0);
    }
}
