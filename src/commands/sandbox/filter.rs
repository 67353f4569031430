//! The seccomp filter: a program for the kernel's BPF machine that finds the answer for a system call by binary search.
//!
//! The kernel evaluates a new filter for every existing call, to learn which are always allowed, and translates it to
//! machine code. Chains of comparisons, which filters usually are, take 0.1 ms more for that: a tenth of the time of
//! `cowhide info`.

use std::mem::offset_of;

use nix::libc::{self, c_long};
use seccompiler::{BpfProgram, sock_filter};

/// A system call and the condition under which it is allowed.
pub(super) type Allowed = (c_long, Option<Condition>);

/// The condition that the low 32 bits of an argument have a value after the bits outside of a mask are cleared.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    /// The index of the argument, from 0 to 5.
    pub(super) argument: usize,
    pub(super) mask: u32,
    pub(super) value: u32,
}

/// The number of this architecture in the kernel's `linux/audit.h`. Filters are only made for these two.
const ARCHITECTURE: Option<u32> = {
    // 64 bits, little-endian.
    let flags = 0xc000_0000;
    if cfg!(target_arch = "x86_64") {
        Some(flags | libc::EM_X86_64 as u32)
    } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
        Some(flags | libc::EM_AARCH64 as u32)
    } else {
        None
    }
};

/// Makes the filter that allows these calls, of which there is at least one, answers all others with ENOSYS, and ends a process that makes a call of
/// another architecture. Returns `None` on architectures without filters.
pub(super) fn filter(allowed: impl IntoIterator<Item = Allowed>) -> Option<BpfProgram> {
    let architecture = ARCHITECTURE?;
    let mut program = Program::default();
    let kill = program.answer(libc::SECCOMP_RET_KILL_PROCESS)?;
    let deny = program.answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned())?;
    let allow = program.answer(libc::SECCOMP_RET_ALLOW)?;

    let mut calls = Vec::new();
    for (call, condition) in allowed {
        let start = match condition {
            Some(condition) => program.test(condition, allow, deny)?,
            None => allow,
        };
        calls.push((u32::try_from(call).ok()?, start));
    }
    calls.sort_unstable();
    let tree = program.search(&ranges(&calls, deny))?;
    let tree = program.load(offset_of!(libc::seccomp_data, nr), tree)?;
    let tree = program.jump(libc::BPF_JEQ, architecture, tree, kill)?;
    program.load(offset_of!(libc::seccomp_data, arch), tree)?;
    program.reversed.reverse();
    Some(program.reversed)
}

/// Returns where the answer changes, by ascending numbers of calls from 0 on. `calls` are sorted.
fn ranges(calls: &[(u32, Label)], deny: Label) -> Vec<(u32, Label)> {
    let mut ranges = vec![(0, deny)];
    for &(call, start) in calls {
        // The range that the call before has ended begins with this one.
        ranges.pop_if(|(first, _)| *first == call);
        if ranges.last().is_none_or(|(_, before)| *before != start) {
            ranges.push((call, start));
        }
        ranges.push((call + 1, deny));
    }
    ranges
}

/// An instruction, by its distance from the end of the program.
type Label = usize;

/// A program that is written from its end to its start, since jumps lead forward only. Every function adds
/// instructions and returns the label of the first, or `None` if a jump is too far.
#[derive(Default)]
struct Program {
    reversed: Vec<sock_filter>,
}

impl Program {
    fn add(&mut self, code: u32, k: u32, jt: u8, jf: u8) -> Option<Label> {
        let code = u16::try_from(code).ok()?;
        self.reversed.push(sock_filter { code, jt, jf, k });
        Some(self.reversed.len() - 1)
    }

    /// Ends the program with an answer of seccomp.
    fn answer(&mut self, answer: u32) -> Option<Label> {
        self.add(libc::BPF_RET | libc::BPF_K, answer, 0, 0)
    }

    /// Compares the accumulator with a constant, and goes on at `yes` or `no`.
    fn jump(&mut self, comparison: u32, with: u32, yes: Label, no: Label) -> Option<Label> {
        let from = self.reversed.len();
        let distance = |to: Label| u8::try_from(from - to - 1).ok();
        let (yes, no) = (distance(yes)?, distance(no)?);
        self.add(libc::BPF_JMP | comparison | libc::BPF_K, with, yes, no)
    }

    /// Loads 32 bits of `seccomp_data` into the accumulator, and goes on at `then`, which must follow.
    fn load(&mut self, offset: usize, then: Label) -> Option<Label> {
        debug_assert_eq!(then + 1, self.reversed.len());
        let code = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        self.add(code, u32::try_from(offset).ok()?, 0, 0)
    }

    /// Goes on at `yes` if the condition holds, and at `no` otherwise.
    fn test(&mut self, condition: Condition, yes: Label, no: Label) -> Option<Label> {
        let compared = self.jump(libc::BPF_JEQ, condition.value, yes, no)?;
        let and = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        let masked = self.add(and, condition.mask, 0, 0)?;
        debug_assert_eq!(masked, compared + 1);
        let argument = offset_of!(libc::seccomp_data, args) + condition.argument * size_of::<u64>();
        self.load(argument, masked)
    }

    /// Finds the range of the accumulator.
    fn search(&mut self, ranges: &[(u32, Label)]) -> Option<Label> {
        match ranges {
            [] => None,
            [(_, label)] => Some(*label),
            _ => {
                let (lower, upper) = ranges.split_at(ranges.len() / 2);
                let first = upper.first()?.0;
                let (no, yes) = (self.search(lower)?, self.search(upper)?);
                self.jump(libc::BPF_JGE, first, yes, no)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does. The words are those of `seccomp_data`.
    fn run(program: &[sock_filter], words: &[u32; 16]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let now = &program[at];
            at += 1;
            let goes_on = match u32::from(now.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    assert_eq!(now.k % 4, 0);
                    accumulator = words[now.k as usize / 4];
                    continue;
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                    accumulator &= now.k;
                    continue;
                }
                code if code == libc::BPF_RET | libc::BPF_K => return now.k,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => accumulator == now.k,
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => accumulator >= now.k,
                code => panic!("instruction {code:#x}"),
            };
            at += usize::from(if goes_on { now.jt } else { now.jf });
        }
    }

    /// Returns the `seccomp_data` of a call with these arguments.
    fn data(call: u32, arguments: [u64; 6]) -> [u32; 16] {
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap();
        let mut words = [0; 16];
        words[0] = call;
        words[1] = ARCHITECTURE.unwrap();
        for (index, argument) in arguments.into_iter().enumerate() {
            words[4 + 2 * index] = low(argument);
            words[5 + 2 * index] = low(argument >> 32);
        }
        words
    }

    const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    fn each_call_has_its_answer() {
        let lists: [&[c_long]; 4] = [&[0], &[7, 0, 1, 2, 400], &[3, 4, 6], super::super::ALLOWED];
        for list in lists {
            let program = filter(list.iter().map(|call| (*call, None))).unwrap();
            for call in (0..1000).chain([0x4000_0000, u32::MAX]) {
                let answer = run(&program, &data(call, [0; 6]));
                let allowed = list.contains(&c_long::from(call));
                let expected = if allowed {
                    libc::SECCOMP_RET_ALLOW
                } else {
                    DENIED
                };
                assert_eq!(answer, expected, "call {call} of {list:?}");
            }
        }
    }

    #[test]
    fn conditions_look_at_one_argument() {
        let condition = Condition {
            argument: 2,
            mask: 0b110,
            value: 0b010,
        };
        let program = filter([(5, Some(condition)), (6, None)]).unwrap();
        let answer = |call, third| run(&program, &data(call, [9, 9, third, 9, 9, 9]));
        for third in [0b010, 0b011, 0xff00_0000_0000_000a] {
            assert_eq!(answer(5, third), libc::SECCOMP_RET_ALLOW, "{third:#x}");
        }
        for third in [0, 0b110, 0b100, 0x2_0000_0000] {
            assert_eq!(answer(5, third), DENIED, "{third:#x}");
        }
        assert_eq!(answer(6, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answer(4, 0b010), DENIED);
    }

    #[test]
    fn calls_of_other_architectures_end_the_process() {
        let program = filter([(0, None)]).unwrap();
        let mut words = data(0, [0; 6]);
        words[1] ^= 1;
        assert_eq!(run(&program, &words), libc::SECCOMP_RET_KILL_PROCESS);
    }
}
