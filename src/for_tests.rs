//! Code that the tests of several modules share.

use std::env;
use std::process::Command;

/// Reproducible pseudorandom numbers.
pub(crate) struct RandomNumbers(pub u64);

impl RandomNumbers {
    /// Returns a number less than `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    /// Fills a buffer with bytes that aren't zero.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| u8::try_from(self.below(255) + 1).unwrap());
    }

    /// Returns one of `texts`.
    pub(crate) fn one_of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len())]
    }

    /// Returns one of `texts` with fewer than `limit` changes, each of which replaces some characters by a piece.
    pub(crate) fn changed(&mut self, texts: &[&str], pieces: &[&str], limit: usize) -> String {
        let mut text: Vec<char> = self.one_of(texts).chars().collect();
        for _ in 0..self.below(limit) {
            let start = self.below(text.len() + 1);
            let end = (start + self.below(3) * self.below(8)).min(text.len());
            text.splice(start..end, self.one_of(pieces).chars());
        }
        text.into_iter().collect()
    }
}

/// Runs the test of this name as `test`, in a process of its own: the test runs itself in a child process, with these
/// environment variables.
pub(crate) fn run_alone(name: &str, variables: &[(&str, &str)], test: impl FnOnce()) {
    const INSIDE: &str = "COWHIDE_TEST_RUN_ALONE";
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}
