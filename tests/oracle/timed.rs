//! Trials with a record of their times, so that the slowest are printed at the end.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

/// The number of slowest trials that are printed.
const SHOWN: usize = 10;

/// The times of the trials so far, and their names.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Returns a test that uses the oracle, and fails by a panic.
pub fn trial(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    let name = name.into();
    let timed = name.clone();
    Trial::test(name, move || {
        let test = std::panic::AssertUnwindSafe(test);
        let start = Instant::now();
        let result = std::panic::catch_unwind(test);
        let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
        times.push((start.elapsed(), timed));
        result.map_err(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Failed::from(text.unwrap_or_else(|| "panicked".to_owned()))
        })
    })
}

/// Prints the slowest trials so far.
pub fn print_slowest() {
    let times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times: Vec<_> = times.iter().collect();
    if times.is_empty() {
        return;
    }
    times.sort_by(|one, other| other.cmp(one));
    println!("the slowest:");
    for (time, name) in times.into_iter().take(SHOWN) {
        println!("{:8.2} s  {name}", time.as_secs_f64());
    }
    println!();
}
