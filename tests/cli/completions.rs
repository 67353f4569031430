//! Tests of completions in real shells.

use std::path::Path;
use std::process::Command;

use crate::common::{COWHIDE, Ran, cowhide, others};

/// Runs a script in a shell that finds the program by its name.
fn in_shell(folder: &Path, shell: &[&str], script: &str) -> Ran {
    let [program, options @ ..] = shell else {
        panic!("no shell");
    };
    let bin = Path::new(COWHIDE).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let ran = Command::new(program)
        .args(options)
        .args(["-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .env("HOME", folder)
        .output();
    ran.unwrap_or_else(|error| panic!("{program}: {error}"))
        .into()
}

/// The words before the cursor, and a completion that must be offered.
const COMPLETED: [(&[&str], &str); 4] = [
    (&["conv"], "convert"),
    (&["convert", "-O", "vmd"], "vmdk"),
    (&["create", "-f", "qcow2", "-o", "clus"], "cluster_size="),
    (&["info", "--output", "js"], "json"),
];

/// Completes a line in bash, which splits it into `words`, and returns the completions.
fn in_bash(folder: &Path, line: &str, words: &[&str]) -> Vec<String> {
    let last = words.last().unwrap();
    // Bash gives an empty word after `=`, and no element of the list for it.
    let current = if *last == "=" { "" } else { last };
    let script = format!(
        "source <(cowhide completions bash) || exit 1
         COMP_WORDS=(cowhide {words}); COMP_CWORD={count}; COMP_TYPE=9
         COMP_LINE='cowhide {line}'
         _clap_complete_cowhide cowhide '{current}' ''
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words = words.join(" "),
        count = words.len(),
    );
    let said = in_shell(folder, &["bash", "--norc"], &script);
    assert_eq!(said.stderr, "", "{line}");
    said.stdout
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn bash_completes_subcommands_formats_and_options() {
    let folder = tempfile::tempdir().unwrap();
    for (words, expected) in COMPLETED {
        let found = in_bash(folder.path(), &words.join(" "), words);
        assert_eq!(found, [expected], "{words:?}");
    }
}

#[test]
fn bash_completes_words_that_it_splits_at_equals_signs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("disk.img"), "").unwrap();
    for (line, words, expected) in [
        (
            "info --output=js",
            &["info", "--output", "=", "js"][..],
            &["json"][..],
        ),
        (
            "convert --encrypt=",
            &["convert", "--encrypt", "="],
            &["aes", "luks"],
        ),
        (
            "create -f qcow2 -o compat=1.1,lazy",
            &["create", "-f", "qcow2", "-o", "compat", "=", "1.1,lazy"],
            &["1.1,lazy_refcounts="],
        ),
        ("dd if=di", &["dd", "if", "=", "di"], &["disk.img"]),
        ("convert  di", &["convert", "di"], &["disk.img"]),
    ] {
        assert_eq!(in_bash(folder, line, words), expected, "{line}");
    }
}

#[test]
fn zsh_loads_its_script() {
    if !others::can_run("zsh", "completions in zsh") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let zsh = "autoload -Uz compinit && compinit -u && source <(cowhide completions zsh) && \
               print -r -- ${_comps[cowhide]}";
    let said = in_shell(folder, &["zsh", "-f"], zsh);
    assert!(said.stdout.contains("cowhide"), "{said:?}");
}

#[test]
fn fish_completes_subcommands_formats_and_options() {
    if !others::can_run("fish", "completions in fish") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (words, expected) in COMPLETED {
        let line = words.join(" ");
        let script = format!("cowhide completions fish | source; complete -C 'cowhide {line}'");
        let said = in_shell(folder, &["fish", "--no-config"], &script);
        let found = said
            .stdout
            .lines()
            .filter_map(|line| line.split('\t').next());
        assert_eq!(found.collect::<Vec<_>>(), [expected], "{words:?}: {said:?}");
    }
}

#[test]
fn other_shells_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for args in ["completions", "completions tcsh", "completions bash zsh"] {
        let ran = cowhide(folder.path(), args);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(
            ran.stderr
                .starts_with("cowhide: Expecting one shell: bash, zsh, fish\n"),
            "{ran:?}"
        );
    }
}
