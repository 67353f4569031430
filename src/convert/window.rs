//! The limit on the number of requests in flight.
//!
//! A request to a file in the page cache only takes processor time. More requests than processors only slow each
//! other down, and writers to one file spin for its lock. A request over a network waits for milliseconds, so only
//! many requests in flight use the network and the processors fully. The times of requests show which of the two it
//! is: the processor time, and the time for which the thread slept.
//!
//! Only sleep counts as waiting. A preempted thread waits too, but more requests would make that worse.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use rustix::time::{ClockId, clock_gettime};

/// The number of the latest requests that decide the limit.
const REMEMBERED: usize = 8;
/// The shortest sleep that counts, since waking a thread takes tens of microseconds.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_micros(100);
/// The shortest wait grows by 1/`FORGOTTEN_PART` with each request.
const FORGOTTEN_PART: u32 = 64;
/// The interval at which the processor load is measured.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// The least processor time that is assumed for a request.
const LEAST_WORK: Duration = Duration::from_micros(10);

/// The limit on the requests of one kind in flight; see the module's documentation.
#[derive(Debug)]
pub(super) struct RequestWindow {
    least: usize,
    most: usize,
    processors: usize,
    width: AtomicUsize,
    is_fixed: bool,
    latest: Mutex<Latest>,
}

/// The times of the latest requests.
#[derive(Debug, Default)]
struct Latest {
    times: [RequestTimes; REMEMBERED],
    count: usize,
    /// The shortest wait so far; see [`shortest`].
    shortest: Option<Duration>,
    load: MeasuredLoad,
}

/// The processor load of this program.
#[derive(Debug, Default)]
struct MeasuredLoad {
    /// The time of the last measurement, and the program's processor time then.
    seen: Option<(Instant, Duration)>,
    is_busy: bool,
}

impl MeasuredLoad {
    /// Returns true if this program recently used at least half of `processors`.
    fn is_busy(&mut self, processors: usize) -> bool {
        let (now, used) = (Instant::now(), used_by_program());
        let (since, before) = *self.seen.get_or_insert((now, used));
        let passed = now - since;
        if passed >= LOOK_EVERY {
            let there = passed * u32::try_from(processors).unwrap_or(u32::MAX);
            self.is_busy = 2 * used.saturating_sub(before) >= there;
            self.seen = Some((now, used));
        }
        self.is_busy
    }
}

impl Latest {
    fn known(&self) -> &[RequestTimes] {
        self.times.get(..self.count).unwrap_or(&self.times)
    }
}

impl RequestWindow {
    /// Returns a window for `least` requests that widens up to `most` if requests wait, to keep `processors` busy.
    pub(super) fn new(least: usize, most: usize, processors: usize) -> Self {
        let most = most.max(least);
        Self {
            least,
            most,
            processors,
            width: AtomicUsize::new(least),
            is_fixed: false,
            latest: Mutex::default(),
        }
    }

    /// Returns a fixed window for `width` requests, which is wide if that is more than `least`.
    pub(super) fn fixed(width: usize, least: usize) -> Self {
        Self {
            width: AtomicUsize::new(width),
            is_fixed: true,
            ..Self::new(least, width, 1)
        }
    }

    /// Returns the number of requests that may be in flight.
    pub(super) fn width(&self) -> usize {
        self.width.load(Ordering::Relaxed)
    }

    /// Returns true if more requests may be in flight than at the start.
    pub(super) fn is_wide(&self) -> bool {
        self.width() > self.least
    }

    /// Returns true if each of the recent requests waited at least for `long`.
    pub(super) fn waits(&self, long: Duration) -> bool {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.shortest.is_some_and(|shortest| shortest >= long)
    }

    /// Returns the mean processor time of recent requests, if there were any.
    pub(super) fn work(&self) -> Option<Duration> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        (latest.count > 0).then(|| mean_work(latest.known()))
    }

    /// Records the times of a completed request, whose chunk takes the processor time `elsewhere` besides it. Returns
    /// true if more requests may be in flight from now on.
    pub(super) fn done(&self, times: RequestTimes, elsewhere: Duration) -> bool {
        if self.is_fixed {
            return false;
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let place = latest.count % REMEMBERED;
        if let Some(slot) = latest.times.get_mut(place) {
            *slot = times;
        }
        latest.count += 1;
        latest.shortest = shortest(latest.shortest, times.wait);
        let is_busy = latest.load.is_busy(self.processors);
        let longest = if is_busy { latest.shortest } else { None };
        let more = useful_requests(latest.known(), elsewhere, self.processors, longest);
        let width = self.least.saturating_add(more).min(self.most);
        self.width.swap(width, Ordering::Relaxed) < width
    }
}

/// Returns the number of useful requests beyond the number of processors, by the times of recent requests. That many
/// requests can be started while one waits, if the processors only work for them. Up to a quarter of the requests may
/// not have waited, since one answer from a cache says nothing about the next.
///
/// A thread that was woken also waits for a busy processor, or for the lock of a file, and longer the more threads
/// there are. So a wait counts as no more than `longest`, if that is given.
fn useful_requests(
    times: &[RequestTimes],
    elsewhere: Duration,
    processors: usize,
    longest: Option<Duration>,
) -> usize {
    let mut waits: Vec<Duration> = times.iter().map(|times| times.wait).collect();
    waits.sort_unstable();
    let wait = waits.get(waits.len() / 4).copied().unwrap_or_default();
    if wait < SHORTEST_WAIT {
        return 0;
    }
    let wait = longest.map_or(wait, |longest| wait.min(longest));
    let work = (mean_work(times) + elsewhere).max(LEAST_WORK);
    let more = (processors as u128 * wait.as_nanos()).div_ceil(work.as_nanos());
    usize::try_from(more).unwrap_or(usize::MAX)
}

/// Returns the shortest wait so far, with one more. It grows slowly, since storage may become slower.
fn shortest(before: Option<Duration>, wait: Duration) -> Option<Duration> {
    if wait < SHORTEST_WAIT {
        return before;
    }
    let drifted = before.map(|before| before + before / FORGOTTEN_PART);
    Some(drifted.map_or(wait, |drifted| drifted.min(wait)))
}

fn mean_work(times: &[RequestTimes]) -> Duration {
    let number = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
    times.iter().map(|times| times.work).sum::<Duration>() / number
}

impl RequestTimes {
    /// Returns the times that a request of `length` bytes would have with `request` bytes: proportional work, and the
    /// same wait.
    pub(super) fn scaled(self, length: usize, request: usize) -> Self {
        let nanoseconds = self.work.as_nanos() * request as u128 / length.max(1) as u128;
        Self {
            work: Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)),
            ..self
        }
    }
}

/// The times of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestTimes {
    /// The processor time of its thread.
    pub(super) work: Duration,
    /// The time for which its thread slept.
    pub(super) wait: Duration,
}

/// The measurement of a request of the calling thread.
pub(super) struct Watch {
    started: Instant,
    usage: Option<Usage>,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            usage: usage(),
        }
    }

    /// Returns the times since the start.
    pub(super) fn times(&self) -> RequestTimes {
        let (Some(before), Some(now)) = (self.usage, usage()) else {
            return RequestTimes::default();
        };
        let work = processor_time(&now).saturating_sub(processor_time(&before));
        let slept = now.voluntary_context_switches() > before.voluntary_context_switches();
        let rest = self.started.elapsed().saturating_sub(work);
        RequestTimes {
            work,
            wait: if slept { rest } else { Duration::ZERO },
        }
    }
}

/// Returns the processor time of all threads of this program.
fn used_by_program() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn usage() -> Option<Usage> {
    getrusage(UsageWho::RUSAGE_THREAD).ok()
}

fn processor_time(usage: &Usage) -> Duration {
    let time = usage.user_time() + usage.system_time();
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let microseconds = u64::try_from(time.tv_usec()).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_micros(microseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Duration = Duration::ZERO;

    fn times(work: u64, wait: u64) -> RequestTimes {
        RequestTimes {
            work: Duration::from_micros(work),
            wait: Duration::from_micros(wait),
        }
    }

    fn times_of(window: &RequestWindow, count: usize, times: RequestTimes) {
        for _ in 0..count {
            window.done(times, NOTHING);
        }
    }

    #[test]
    fn requests_that_wait_make_room_for_more_and_others_do_not() {
        let window = RequestWindow::new(2, 64, 2);
        assert!(!window.done(times(300, 0), NOTHING));
        assert_eq!(window.width(), 2);
        assert!(!window.is_wide());
        let window = RequestWindow::new(2, 64, 2);
        assert!(window.done(times(500, 5000), NOTHING));
        assert_eq!(window.width(), 22);
        window.done(times(500, 5000), Duration::from_micros(1500));
        assert_eq!(window.width(), 7);
        times_of(&window, 8, times(50, 50_000));
        assert_eq!(window.width(), 64);
        (0..8).for_each(|_| assert!(!window.done(times(50, 0), NOTHING)));
        assert_eq!(window.width(), 2);
    }

    #[test]
    fn a_longer_request_has_more_work_and_waits_as_long() {
        let scaled = times(50, 1000).scaled(256, 1024);
        assert_eq!(scaled.work, Duration::from_micros(200));
        assert_eq!(scaled.wait, Duration::from_micros(1000));
        assert_eq!(times(0, 7).scaled(0, 1024).work, Duration::ZERO);
    }

    #[test]
    fn one_answer_out_of_a_cache_narrows_nothing() {
        let window = RequestWindow::new(1, 100, 1);
        times_of(&window, 8, times(100, 1000));
        assert_eq!(window.width(), 11);
        window.done(times(100, 0), NOTHING);
        assert_eq!(window.width(), 11);
        window.done(times(100, 50), NOTHING);
        window.done(times(100, 50), NOTHING);
        assert_eq!(window.width(), 1);
    }

    #[test]
    fn where_processors_are_busy_the_shortest_wait_counts() {
        let waits = [0, 200, 900, 1000, 1000, 1000, 5000, 9000];
        let times = waits.map(|wait| times(100, wait));
        assert_eq!(useful_requests(&times, NOTHING, 1, None), 9);
        let longest = Some(Duration::from_micros(200));
        assert_eq!(useful_requests(&times, NOTHING, 1, longest), 2);
        let after = |before, wait| {
            let before = Some(Duration::from_micros(before));
            shortest(before, Duration::from_micros(wait)).map(|wait| wait.as_micros())
        };
        assert_eq!(after(6400, 50), Some(6400));
        assert_eq!(after(6400, 9000), Some(6500));
        assert_eq!(after(6400, 640), Some(640));
    }

    #[test]
    fn a_fixed_window_stays_as_it_is() {
        let window = RequestWindow::fixed(3, 2);
        assert!(window.is_wide());
        (0..8).for_each(|_| assert!(!window.done(times(50, 50_000), NOTHING)));
        assert_eq!(window.width(), 3);
    }

    #[test]
    fn sleep_is_told_from_work() {
        let watch = Watch::start();
        std::thread::sleep(Duration::from_millis(2));
        let slept = watch.times();
        assert!(slept.wait >= Duration::from_millis(1), "{slept:?}");
        let watch = Watch::start();
        let mut value = 1u64;
        while watch.times().work < Duration::from_millis(2) {
            value = std::hint::black_box(value.wrapping_mul(3));
        }
        assert!(watch.times().work >= Duration::from_millis(2));
    }
}
