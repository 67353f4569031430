//! The sandbox: the process drops the privileges that reading an image doesn't need, before it parses the image.
//!
//! Images may be malicious. Once all named files are open, reading them needs no more files, no network and no other
//! programs, so the kernel is asked to refuse those. An exploit of the code that parses tables and headers could then
//! only print nonsense.
//!
//! Two independent parts of the kernel do that. Seccomp allows a list of system calls and no others (on the
//! architectures that [`filter`] knows). Landlock denies access to all files, ports and signals.
//!
//! A call that isn't on the list fails with ENOSYS, as in a kernel that doesn't have it, and doesn't end the program.
//! The C library and the Rust library have fallbacks for most new calls. Without a fallback the error is reported
//! like any other. The call has no effect in either case.
//!
//! No failure here is an error. If the kernel has none of this or forbids it (in containers), the command runs
//! without it.

mod filter;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetError, RulesetStatus, Scope,
};
use nix::libc::{self, c_long};
use seccompiler::BpfProgram;

use self::filter::Condition;
use crate::nodes::Node;

/// The system calls that are allowed with any arguments. Reading open files, printing, memory, threads and the end of
/// the program need them.
const ALLOWED: &[c_long] = &[
    // Open files.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_close,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // Threads and their synchronisation.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // The handling of signals.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // The time, and random numbers for hash tables.
    libc::SYS_clock_gettime,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    // The end of the program, when the dynamic linker may print statistics (LD_DEBUG).
    libc::SYS_getpid,
    libc::SYS_writev,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Enters the sandbox if the policy of `node` says so. Callers do that once all its files are open, and only reading
/// is left to do.
pub(super) fn all_is_open(node: &Node<'_>) {
    if node.policy.sandbox {
        enter();
    }
}

/// Drops all privileges that reading open files doesn't need, for the whole process and for good. Callers do that
/// once all files are open and before they start threads, since Landlock doesn't apply to existing threads.
pub(super) fn enter() {
    // Landlock comes first, since its own system calls aren't on the list of seccomp.
    let _ = forbid_files();
    if let Some(filter) = system_calls() {
        let _ = seccompiler::apply_filter_all_threads(&filter);
    }
}

/// Forbids this thread, and those that it starts, to open, create or remove files, to use TCP ports, and to send
/// signals to other programs. Returns the degree to which the kernel's Landlock enforces that.
fn forbid_files() -> Result<RulesetStatus, RulesetError> {
    let newest = ABI::V6;
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(restricted.ruleset)
}

/// Compiles the seccomp filter. Returns `None` on architectures without one.
fn system_calls() -> Option<BpfProgram> {
    let only = |argument, value| Condition {
        argument,
        mask: u32::MAX,
        value,
    };
    let no_code = Condition {
        argument: 2,
        mask: libc::PROT_EXEC.cast_unsigned(),
        value: 0,
    };
    let conditions = [
        // Memory, unless it can be executed.
        (libc::SYS_mmap, no_code),
        (libc::SYS_mprotect, no_code),
        // Debug builds test a descriptor before they close it.
        (libc::SYS_fcntl, only(1, libc::F_GETFD.cast_unsigned())),
        // The test for a terminal, but no request that injects input into it. The number has another type in other C
        // libraries.
        (libc::SYS_ioctl, only(1, u32::try_from(libc::TCGETS).ok()?)),
    ];
    let always = ALLOWED.iter().map(|call| (*call, None));
    let sometimes = conditions.map(|(call, condition)| (call, Some(condition)));
    filter::filter(always.chain(sometimes))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Read as _};
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;
    use crate::for_tests::run_alone;

    /// The sandbox is for a whole process and for good, so this test runs alone.
    #[test]
    fn inside_only_what_is_open_can_be_used() {
        let name = "commands::sandbox::tests::inside_only_what_is_open_can_be_used";
        run_alone(name, &[], inside);
    }

    fn inside() {
        let program = std::env::current_exe().unwrap();
        let mut open = File::open(&program).unwrap();
        enter();
        // These are refused.
        let denied = File::open(&program).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::Unsupported, "{denied}");
        assert!(File::create("made-in-a-sandbox").is_err());
        assert!(std::fs::remove_file(&program).is_err());
        assert!(TcpListener::bind("127.0.0.1:0").is_err());
        assert!(UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(UnixListener::bind("made-in-a-sandbox").is_err());
        assert!(Command::new(&program).spawn().is_err());
        // These are still allowed.
        let mut buf = vec![0; 1 << 20];
        assert!(open.read(&mut buf).unwrap() > 0);
        let thread = std::thread::Builder::new().name("inside".into());
        let thread = thread.spawn(|| File::open("/proc/self/status").is_err());
        assert!(thread.unwrap().join().unwrap());
        assert!(std::panic::catch_unwind(|| panic!("inside")).is_err());
        assert_eq!(std::collections::HashMap::from([(1, 2)]).get(&1), Some(&2));
    }

    #[test]
    fn landlock_alone_forbids_files_too() {
        // Landlock applies to a single thread, so this part runs in one.
        let thread = std::thread::spawn(|| {
            let enforced = forbid_files().unwrap() != RulesetStatus::NotEnforced;
            (enforced, File::open("/proc/self/status").map(drop))
        });
        let (enforced, opened) = thread.join().unwrap();
        let denied = opened.err().map(|error| error.kind());
        assert_eq!(denied, enforced.then_some(ErrorKind::PermissionDenied));
        assert!(File::open("/proc/self/status").is_ok());
    }
}
