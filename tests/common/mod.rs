//! Helpers that run programs, and make disks for them.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rexpect::session::{PtySession, spawn_command};

pub mod others;

/// The program under test.
pub const COWHIDE: &str = env!("CARGO_BIN_EXE_cowhide");

/// The result of a program.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Asserts success without any output on standard error. Returns standard output.
    pub fn ok(self) -> String {
        assert!(
            self.status == Some(0) && self.stderr.is_empty(),
            "expected silent success: {self:?}"
        );
        self.stdout
    }

    /// Asserts failure with `status`, and a line on standard error that contains `message`. Two lines of help may follow.
    pub fn fails(self, status: i32, message: &str) {
        assert_eq!(self.status, Some(status), "{self:?}");
        let mut lines = self.stderr.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.contains(message), "no {message:?} in {self:?}");
        assert!(first.starts_with("cowhide: "), "{self:?}");
        assert!(
            lines.clone().count() <= 2 && !lines.any(|line| line.starts_with("cowhide: ")),
            "{self:?}"
        );
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

/// Runs a program in `folder` without standard input.
pub fn run<S: AsRef<OsStr>>(
    folder: &Path,
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Ran {
    Command::new(program)
        // As in a shell, messages have the program's name and not the folder of the build.
        .arg0(Path::new(program).file_name().unwrap())
        .args(args)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("running {program}: {error}"))
        .into()
}

/// Runs the `commands` of qemu-io on an image. They must succeed.
pub fn qemu_io<S: AsRef<str>>(folder: &Path, format: &str, image: &str, commands: &[S]) {
    let mut args = vec!["-f", format];
    for command in commands {
        args.extend(["-c", command.as_ref()]);
    }
    args.push(image);
    let ran = run(folder, "qemu-io", args);
    assert_eq!(ran.status, Some(0), "{ran:?}");
}

/// Copies the program with another process. A file can't be executed while this process, or a child that another test
/// has just forked, has it open for writing.
pub fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(COWHIDE).arg(to).status();
    assert!(copied.unwrap().success());
}

/// Runs cowhide with arguments that are separated by spaces.
pub fn cowhide(folder: &Path, args: &str) -> Ran {
    run(folder, COWHIDE, args.split_whitespace())
}

/// Runs cowhide with `input` on its standard input.
pub fn cowhide_with_input(folder: &Path, args: &str, input: &[u8]) -> Ran {
    let mut child = Command::new(COWHIDE)
        .args(args.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Returns true if the file system of a folder has files without a name, of which nothing is left after SIGKILL.
pub fn has_unnamed_files(folder: &Path) -> bool {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    rustix::fs::open(folder, flags, rustix::fs::Mode::RUSR).is_ok()
}

/// Returns the path by which to open the unfinished file that a running cowhide will call `name` in `folder`. It has
/// no name before it is complete, if the file system can do that. Returns `None` if there is no such file yet.
///
/// Only root can open the files of a program that has a password.
pub fn unfinished(folder: &Path, child: &Child, name: &str) -> Option<PathBuf> {
    let named = folder.join(name);
    if named.exists() {
        return Some(named);
    }
    let folder = folder.canonicalize().unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).ok()?;
    let mut paths = open.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| {
        let target = std::fs::read_link(path).unwrap_or_default();
        let is_unnamed = target.to_string_lossy().ends_with(" (deleted)");
        target.parent() == Some(&folder) && is_unnamed
    })
}

/// Waits until an unfinished file of a running cowhide has at least `bytes` bytes. Returns the path by which to open
/// it.
pub fn until_it_has(bytes: u64, folder: &Path, child: &mut Child, name: &str) -> PathBuf {
    loop {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{name} never had {bytes} bytes: {ended:?}");
        if let Some(path) = unfinished(folder, child, name)
            && std::fs::metadata(&path).is_ok_and(|meta| meta.len() >= bytes)
        {
            return path;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Reads lines of `-p` from a running program until `lines` have come. Returns false if it ended before.
pub fn until_it_said(lines: usize, child: &mut Child) -> bool {
    let said = child.stdout.as_mut().unwrap();
    let mut ends = 0;
    let mut byte = [0];
    while ends < lines {
        if said.read(&mut byte).unwrap() == 0 {
            return false;
        }
        ends += usize::from(byte == *b"\r");
    }
    true
}

/// A small generator of reproducible noise. Its constants are those of Knuth's MMIX.
#[derive(Clone)]
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Returns an index below `count`.
    pub fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap()
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 8) as u8).collect()
    }
}

/// Writes a sparse disk of `size` bytes: a few runs of noise (including the first and the last byte), a run of zeroes
/// as data, and holes between.
pub fn write_disk(path: &Path, size: u64, seed: u64) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut noise = Noise(seed);
    let mut write = |start: u64, length: u64, data: bool| {
        let length = length.min(size.saturating_sub(start));
        let bytes = if data {
            noise.bytes(usize::try_from(length).unwrap())
        } else {
            vec![0; usize::try_from(length).unwrap()]
        };
        file.write_all_at(&bytes, start).unwrap();
    };
    write(0, 3000, true);
    write(size / 3, 70_000, true);
    write(size / 3 + 70_000, 10_000, false);
    write(size / 2, 513, true);
    write(size.saturating_sub(5000), 5000, true);
}

/// Returns the path of the real disk image in the repository.
pub fn real_disk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/disk1.img")
}

/// Returns true if two files have the same bytes.
pub fn same_contents(one: &Path, other: &Path) -> bool {
    let status = Command::new("cmp")
        .arg("-s")
        .args([one, other])
        .status()
        .unwrap();
    status.success()
}

/// The original command of this project.
pub const SEED: &str = "convert -o encryption -O qcow2 disk1.img enc1.qcow2";

/// Runs cowhide at a terminal.
pub fn type_at(folder: &Path, args: &str) -> PtySession {
    let mut command = Command::new(COWHIDE);
    command.args(args.split_whitespace()).current_dir(folder);
    spawn_command(command, Some(20_000)).unwrap()
}

/// Runs the [`SEED`] command at a terminal, and types both passwords that it asks for after its warning about legacy
/// AES. Returns the output from then on.
pub fn type_new_password(folder: &Path, password: &str, again: &str) -> String {
    let mut terminal = type_at(folder, SEED);
    let warning = "can't detect a wrong password; 'luks' does both";
    terminal.exp_string(warning).unwrap();
    let prompt = "New password for 'enc1.qcow2': ";
    terminal.exp_string(prompt).unwrap();
    terminal.send_line(password).unwrap();
    terminal.exp_string("The same again: ").unwrap();
    terminal.send_line(again).unwrap();
    terminal.exp_eof().unwrap()
}
