//! The end of the program by a signal: unfinished files are undone, and then the signal has its usual effect.
//!
//! Only the program asks for that, by [`undo_when_interrupted`]. Signals are a matter of the whole process, so those of
//! a process that uses the library stay its own.
//!
//! A separate thread waits for the signals, so that a write that hangs doesn't delay them. It closes the [`GATE`],
//! waits for the writes in flight, and undoes every unfinished file. From then on the list of these files stays
//! locked, so that no file can be kept any more. Further signals have no effect, so that an impatient user leaves no
//! partial file either.
//!
//! A storage that hangs doesn't keep the program from ending. Writes are waited for no longer than [`WRITES_TAKE`].
//! The file is truncated nevertheless, which most file systems do after that write. After [`UNDOING_TAKES`] the
//! program ends in any case. Only then, or if such a write comes after the truncation, an existing file keeps partial
//! data. A message says so.
//!
//! A limit on the length of files makes the system send SIGXFSZ, which ends programs. It is caught, so that the write
//! fails and is reported like any other failure.
//!
//! SIGKILL can't be caught, so formats write their header last. An abort, such as for lack of memory, isn't handled
//! either: a signal handler can't safely wait for another thread.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;

use super::gate::GATE;
use super::unfinished::UndoEntry;

/// The signals that end a program, except for those that report an error in it. SIGUSR1 isn't here because it asks
/// for progress.
const ENDING: [i32; 9] = [
    SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR2, SIGVTALRM, SIGXCPU,
];

/// The time limit for writes in flight.
const WRITES_TAKE: Duration = Duration::from_secs(5);

/// The time limit for undoing files, including the wait for writes.
const UNDOING_TAKES: Duration = Duration::from_secs(10);

/// The files to be undone when the program is interrupted.
static UNFINISHED: Mutex<Vec<Arc<UndoEntry>>> = Mutex::new(Vec::new());

/// The receiver of lines about undone files. Without one, signals aren't handled.
static REPORT: OnceLock<fn(&str)> = OnceLock::new();

/// Undoes unfinished files when a signal ends the program, from the first such file on. `tell` receives a line about
/// each. It is called from another thread, at most once for each file, after all are undone. Only the first call of
/// this function has an effect.
pub fn undo_when_interrupted(tell: fn(&str)) {
    let _ = REPORT.set(tell);
}

/// Returns true if the program handles signals.
fn handles_signals() -> bool {
    REPORT.get().is_some()
}

/// The function that is called before the first line about a file.
static BEFORE: OnceLock<fn()> = OnceLock::new();

/// Sets a function for the end by a signal, which is called from another thread after files are undone and before any
/// line about them. Only the first call has an effect. From then on the program handles signals, even without
/// unfinished files.
pub fn before_interrupt(action: fn()) {
    let _ = BEFORE.set(action);
    undo_on_signals();
}

fn tell(line: &str) {
    if let Some(tell) = REPORT.get() {
        tell(line);
    }
}

/// Locks and returns the list of files that are undone when the program is interrupted. While it is locked nothing is
/// undone.
pub(super) fn registry() -> MutexGuard<'static, Vec<Arc<UndoEntry>>> {
    // The list is consistent even after a panic, since entries are added and removed by single operations.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes writes beyond the limit on the length of files fail, which would otherwise end the program. Later calls have
/// no effect.
pub(super) fn fail_beyond_the_limit() {
    static ONCE: Once = Once::new();
    if !handles_signals() {
        return;
    }
    ONCE.call_once(|| drop(signal_hook::flag::register(SIGXFSZ, Arc::default())));
}

/// Makes the signals that end the program undo every unfinished file first. The first unfinished file calls this, and
/// later calls have no effect. Before that the signals aren't handled.
pub(super) fn undo_on_signals() {
    static ONCE: Once = Once::new();
    if !handles_signals() {
        return;
    }
    ONCE.call_once(|| {
        let ignored = ignored();
        let is_ignored = |signal: &i32| ignored & (1 << (signal - 1)) != 0;
        let wanted = ENDING.into_iter().filter(|signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(wanted) else {
            return;
        };
        // Without the thread the signals would have no effect, so their handlers are removed.
        let handle = signals.handle();
        let spawned = thread::Builder::new()
            .name("signals".into())
            .stack_size(64 << 10)
            .spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    undo_in_time();
                    drop(signal_hook::low_level::emulate_default_handler(signal));
                    std::process::abort();
                }
            });
        if spawned.is_err() {
            handle.close();
        }
    });
}

/// Returns the signals that were ignored when the program started, as a bit mask. They stay ignored. A shell, for
/// example, ignores SIGINT for programs in the background.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Undoes all unfinished files, but returns after [`UNDOING_TAKES`] in any case.
fn undo_in_time() {
    GATE.shut();
    let (done, is_done) = mpsc::sync_channel::<()>(0);
    let undoing = thread::Builder::new()
        .name("undo".into())
        .stack_size(64 << 10)
        .spawn(move || {
            undo_all();
            drop(done);
        });
    if undoing.is_err() {
        undo_all();
    } else if is_done.recv_timeout(UNDOING_TAKES) == Err(RecvTimeoutError::Timeout) {
        tell("interrupted: the storage does not answer, what was being written is incomplete");
    }
}

fn undo_all() {
    let all_ended = GATE.wait(WRITES_TAKE);
    let unfinished = registry();
    let lines: Vec<String> = unfinished
        .iter()
        .map(|entry| {
            let became = entry.undo();
            let name = entry.shown();
            match all_ended {
                true => format!("interrupted: {became} '{name}'"),
                false => format!("interrupted: {became} '{name}' while a write to it hung"),
            }
        })
        .collect();
    // The list stays locked, so that no file can be kept any more.
    std::mem::forget(unfinished);
    if let Some(action) = BEFORE.get() {
        action();
    }
    lines.iter().for_each(|line| tell(line));
}
