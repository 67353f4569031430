//! Ending by a signal: unfinished files are undone first, then the program ends as it would have.
//!
//! A thread of its own waits for the signals, so that even a write that hangs doesn't delay them. It closes
//! the [`GATE`], waits for the writes that are under way, and undoes every unfinished file. From then on the
//! list of those is locked: no file can be called finished any more. Further signals change nothing, so that
//! an impatient user leaves no rest either.
//!
//! No storage that hangs keeps the program from ending. A write that isn't over after [`WRITES_TAKE`] is no
//! longer waited for. The file is emptied all the same, which most file systems do only after that write.
//! After [`UNDOING_TAKES`] the program ends whether that is done or not. An existing file is left with a rest
//! only then, or where such a write comes after the emptying. The user is told of it.
//!
//! A limit on the length of files makes the system send SIGXFSZ, which ends programs. Caught, it lets the
//! write fail, and the failure is reported like any other.
//!
//! SIGKILL can't be caught. Formats with a header write that header last, for that case. An abort, such as
//! the one for lack of memory, leaves no time either. The thread that aborts would have to wait for another,
//! for which a handler of signals has no safe means.

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

/// The signals that end a program, those aside that tell of a mistake in it. SIGUSR1 asks for progress.
const ENDING: [i32; 9] = [
    SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR2, SIGVTALRM, SIGXCPU,
];

/// The longest time for which writes under way are waited for.
const WRITES_TAKE: Duration = Duration::from_secs(5);

/// The longest time for which the program waits for the undoing of files, with the wait for writes.
const UNDOING_TAKES: Duration = Duration::from_secs(10);

/// The files to be undone when the program is interrupted.
static UNFINISHED: Mutex<Vec<Arc<UndoEntry>>> = Mutex::new(Vec::new());

/// The receiver of reports on what was undone.
static TOLD: OnceLock<fn(&str)> = OnceLock::new();

/// Sets the receiver of a line for each unfinished file that says what became of it when a signal ended the
/// program. It is called at most once for each, after all are undone, from another thread. Only the first
/// call counts.
pub fn tell_by(tell: fn(&str)) {
    let _ = TOLD.set(tell);
}

/// Called before any such line.
static BEFORE: OnceLock<fn()> = OnceLock::new();

/// Sets what is done when a signal ends the program, once files are undone and before anything is told. It is
/// called from another thread. Only the first call counts. From then on the signals are waited for, whether or
/// not there are unfinished files.
pub fn before_interrupt(action: fn()) {
    let _ = BEFORE.set(action);
    undo_on_signals();
}

fn tell(line: &str) {
    if let Some(tell) = TOLD.get() {
        tell(line);
    }
}

/// The files that are undone when the program is interrupted. While the list is held, it isn't.
pub(super) fn registry() -> MutexGuard<'static, Vec<Arc<UndoEntry>>> {
    // The list stays right whatever panicked while holding it: entries are pushed and removed whole.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes writes beyond the limit on the length of files fail, where the program would end. It is done once.
pub(super) fn fail_beyond_the_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(signal_hook::flag::register(SIGXFSZ, Arc::default())));
}

/// Sets up that the signals which would end the program first undo every unfinished file. The first
/// unfinished file does so, once; before that the signals are untouched.
pub(super) fn undo_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let ignored = ignored();
        let is_ignored = |signal: &i32| ignored & (1 << (signal - 1)) != 0;
        let wanted = ENDING.into_iter().filter(|signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(wanted) else {
            return;
        };
        // Without the thread the signals would be swallowed, so they are given back.
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

/// Returns the signals that were ignored when the program started, as a set of bits: they stay ignored. The
/// shell ignores SIGINT so for programs in the background.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Undoes everything for good, but returns after [`UNDOING_TAKES`] whether that is done or not.
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
    // Held to the end, so that no file can be called finished any more.
    std::mem::forget(unfinished);
    if let Some(action) = BEFORE.get() {
        action();
    }
    lines.iter().for_each(|line| tell(line));
}
