//! Tests of the syntax of command lines, by examples and by comparison with the algorithm of GNU getopt.

use clap::{ArgAction, CommandFactory as _};

use super::super::args::Cli;
use super::*;
use crate::for_tests::RandomNumbers;

fn definition() -> Command {
    let mut definition = Cli::command();
    definition.build();
    definition
}

fn normalised(program: &Command, words: &[OsString]) -> Result<Call, Mistake> {
    normalise(program, words, |_, _, _| Ok(()))
}

/// Normalises a command line of words separated by spaces. `''` is an empty word.
fn form(line: &str) -> Result<String, String> {
    let words: Vec<OsString> = format!("cowhide {line}")
        .split_whitespace()
        .map(|word| if word == "''" { "".into() } else { word.into() })
        .collect();
    match normalised(&definition(), &words) {
        Ok(Call::Run(words, _)) => Ok(words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")),
        Ok(call) => Ok(format!("{call:?}")),
        Err(mistake) => Err(format!(
            "{}: {}",
            mistake.subcommand.unwrap_or_default(),
            mistake.message
        )),
    }
}

#[test]
fn every_spelling_comes_to_one_form() {
    for (line, expected) in [
        ("", "cowhide"),
        ("info x", "cowhide info -- x"),
        (
            "info x --output=json -f qcow2",
            "cowhide info --output=json --format=qcow2 -- x",
        ),
        (
            "convert --progress=json -p a b",
            "cowhide convert --progress=json --progress -- a b",
        ),
        (
            "convert -pq a b",
            "cowhide convert --progress --quiet -- a b",
        ),
        ("info --outp json x", "cowhide info --output=json -- x"),
        (
            "convert -pqfqcow2 -O raw a -n b",
            "cowhide convert --progress --quiet --source-format=qcow2 --target-format=raw \
             --no-create -- a b",
        ),
        (
            "convert --format raw --output-format raw a b",
            "cowhide convert --source-format=raw --target-format=raw -- a b",
        ),
        ("create -f -f x", "cowhide create --format=-f -- x"),
        ("create -f -- x", "cowhide create --format=-- -- x"),
        ("create --format= x", "cowhide create --format= -- x"),
        ("create -f '' x", "cowhide create --format= -- x"),
        ("create -f=raw x", "cowhide create --format==raw -- x"),
        ("create -- -f - -- x", "cowhide create -- -f - -- x"),
        (
            "create -o a -o b x",
            "cowhide create --options=a --options=b -- x",
        ),
        (
            "-T foo -Tbar info x",
            "cowhide --trace=foo --trace=bar info -- x",
        ),
        ("-- info x", "cowhide info -- x"),
        ("create -qh", "Help(Some(\"create\"))"),
        ("create -hz", "Help(Some(\"create\"))"),
        ("create x --hel -z", "LongHelp(\"create\")"),
        ("--help", "Help(None)"),
        ("-hz", "Help(None)"),
        ("-V", "Version"),
        ("--ver", "Version"),
    ] {
        assert_eq!(form(line).as_deref(), Ok(expected), "{line}");
    }
}

#[test]
fn mistakes_have_getopts_words() {
    for (line, expected) in [
        ("foo", ": Command not found: foo"),
        ("-z", ": invalid option -- 'z'"),
        ("-qh info", ": invalid option -- 'q'"),
        ("--zzz=1", ": unrecognized option '--zzz=1'"),
        ("-T", ": option requires an argument -- 'T'"),
        ("--t", ": option '--trace' requires an argument"),
        (
            "--version=1",
            ": option '--version' doesn't allow an argument",
        ),
        ("info -qz x", "info: invalid option -- 'z'"),
        ("info -zh x", "info: invalid option -- 'z'"),
        ("info x -f", "info: option requires an argument -- 'f'"),
        (
            "info --output",
            "info: option '--output' requires an argument",
        ),
        (
            "info --o x",
            "info: option '--o' is ambiguous; possibilities: '--object' '--output'",
        ),
        ("info --zz=1", "info: unrecognized option '--zz=1'"),
        (
            "convert --image-op=1 a b",
            "convert: option '--image-opts' doesn't allow an argument",
        ),
    ] {
        assert_eq!(form(line).unwrap_err(), expected, "{line}");
    }
}

#[test]
fn our_own_options_leave_prefixes_alone() {
    let mut program = Command::new("x").subcommand(
        Command::new("go")
            .arg(
                Arg::new("progress")
                    .long("progress")
                    .action(ArgAction::SetTrue),
            )
            .arg(Arg::new("pry").long("pry").help_heading(OWN)),
    );
    program.build();
    let go = |word: &str| normalised(&program, &["x".into(), "go".into(), word.into()]);
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    assert_eq!(
        go("--pr"),
        Ok(Call::Run(
            words(&["x", "go", "--progress", "--"]),
            Some("go".into())
        ))
    );
    assert_eq!(
        go("--pry=1"),
        Ok(Call::Run(
            words(&["x", "go", "--pry=1", "--"]),
            Some("go".into())
        ))
    );
}

#[test]
fn bytes_that_are_no_text_go_through() {
    let words = [
        "cowhide".into(),
        "create".into(),
        OsString::from_vec(b"-f\xff".to_vec()),
        OsString::from_vec(b"\xfe".to_vec()),
    ];
    let Ok(Call::Run(words, _)) = normalised(&definition(), &words) else {
        panic!("refused");
    };
    assert_eq!(words[2].as_bytes(), b"--format=\xff");
    assert_eq!(words[4].as_bytes(), b"\xfe");
}

#[test]
fn numbers_below_zero_are_operands_where_the_definition_says_so() {
    let mut program = Command::new("x").subcommand(
        Command::new("resize")
            .arg(Arg::new("quiet").short('q').action(ArgAction::SetTrue))
            .arg(
                Arg::new("operands")
                    .num_args(0..)
                    .allow_negative_numbers(true),
            ),
    );
    program.build();
    let words = ["x", "resize", "a", "-10M", "-q"].map(OsString::from);
    let expected = ["x", "resize", "-q", "--", "a", "-10M"].map(OsString::from);
    assert_eq!(
        normalised(&program, &words),
        Ok(Call::Run(expected.to_vec(), Some("resize".into())))
    );
    for words in [
        &["x", "resize", "-1M", "a"][..],
        &["x", "resize", "-q1M", "a"],
        &["x", "resize", "a", "-q", "-1M"],
        &["x", "resize", "a", "-1M", "-1M"],
    ] {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        assert!(normalised(&program, &words).is_err(), "{words:?}");
    }
}

/// Checks that clap parses the normal form correctly.
#[test]
fn clap_reads_the_one_form() {
    use clap::FromArgMatches as _;
    let words = [
        "cowhide", "convert", "-o", "-a", "in", "-o=b", "-T", "", "-fx", "-f--", "--", "-out",
    ];
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    let Ok(Call::Run(words, _)) = normalised(&definition(), &words) else {
        panic!("refused");
    };
    let matches = definition().try_get_matches_from(words).unwrap();
    let cli = Cli::from_arg_matches(&matches).unwrap();
    let Some(super::super::args::Command::Convert(args)) = cli.command else {
        panic!("another subcommand");
    };
    assert_eq!(args.target_options, ["-a", "=b"]);
    assert_eq!(args.source_cache, "");
    assert_eq!(args.source_format.as_deref(), Some("--"));
    assert_eq!(args.operands, ["in", "-out"]);
}

/// The options of the random command lines: a letter, names, and true if it takes a value.
const OPTIONS: [(Option<char>, &[&str], bool); 6] = [
    (Some('a'), &["alpha"], false),
    (Some('b'), &["beta", "bulk"], true),
    (Some('c'), &[], true),
    (None, &["alphabet"], false),
    (None, &["be"], true),
    (Some('d'), &["delta"], false),
];

fn random_program() -> Command {
    let mut go = Command::new("go")
        .disable_help_flag(true)
        .arg(Arg::new("operands").num_args(0..));
    let ids = ["1", "2", "3", "4", "5", "6"];
    for (id, (letter, names, value)) in ids.into_iter().zip(OPTIONS) {
        let mut option = Arg::new(id).action(if value {
            ArgAction::Append
        } else {
            ArgAction::Count
        });
        if let Some(letter) = letter {
            option = option.short(letter);
        }
        if let [first, aliases @ ..] = names {
            option = option.long(*first).aliases(aliases.iter().copied());
        }
        go = go.arg(option);
    }
    let mut program = Command::new("x").subcommand(go);
    program.build();
    program
}

fn shown(letter: Option<char>, names: &[&str]) -> String {
    match (names, letter) {
        ([first, ..], _) => format!("--{first}"),
        ([], Some(letter)) => format!("-{letter}"),
        ([], None) => String::new(),
    }
}

/// The reference: the algorithm of GNU getopt, which permutes words in place during the scan. So the operands so far
/// are always contiguous before the scanned word.
fn model(mut words: Vec<String>) -> Result<(Vec<String>, Vec<String>), ()> {
    let mut given = Vec::new();
    let (mut first, mut next) = (0, 0);
    // words[first..next] are operands. The words before them were consumed.
    while next < words.len() {
        if words[next] == "--" {
            words[first..=next].rotate_right(1);
            first += 1;
            break;
        }
        if !words[next].starts_with('-') || words[next] == "-" {
            next += 1;
            continue;
        }
        let word = words[next].clone();
        let mut consumed = 1;
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.find('=') {
                Some(at) => (&long[..at], Some(long[at + 1..].to_owned())),
                None => (long, None),
            };
            let exact = OPTIONS
                .iter()
                .position(|(_, names, _)| names.contains(&name));
            let begins: Vec<usize> = (0..OPTIONS.len())
                .filter(|n| OPTIONS[*n].1.iter().any(|full| full.starts_with(name)))
                .collect();
            let number = match (exact, begins.as_slice()) {
                (Some(number), _) | (None, &[number]) => number,
                _ => return Err(()),
            };
            let (letter, names, takes) = OPTIONS[number];
            let name = shown(letter, names);
            match (takes, value) {
                (false, None) => given.push(name),
                (true, Some(value)) => given.push(format!("{name}={value}")),
                (true, None) if next + 1 < words.len() => {
                    consumed = 2;
                    given.push(format!("{name}={}", words[next + 1]));
                }
                _ => return Err(()),
            }
        } else {
            let letters: Vec<char> = word.chars().skip(1).collect();
            let mut at = 0;
            while at < letters.len() {
                let (_, names, takes) = OPTIONS
                    .iter()
                    .find(|(letter, ..)| *letter == Some(letters[at]))
                    .ok_or(())?;
                let name = shown(Some(letters[at]), names);
                at += 1;
                if !takes {
                    given.push(name);
                } else if at < letters.len() {
                    let value: String = letters[at..].iter().collect();
                    given.push(format!("{name}={value}"));
                    break;
                } else if next + 1 < words.len() {
                    consumed = 2;
                    given.push(format!("{name}={}", words[next + 1]));
                } else {
                    return Err(());
                }
            }
        }
        words[first..next + consumed].rotate_right(consumed);
        first += consumed;
        next += consumed;
    }
    Ok((given, words.split_off(first)))
}

#[test]
fn random_command_lines_are_read_as_the_model_reads_them() {
    const PIECES: [&str; 24] = [
        "-",
        "--",
        "-a",
        "-b",
        "-c",
        "-d",
        "-ab",
        "-adb",
        "-bx",
        "-c=",
        "-x",
        "--alpha",
        "--alph",
        "--alphabet",
        "--alphab",
        "--be",
        "--bet",
        "--bulk=1",
        "--delta",
        "--d=",
        "--beta=",
        "x",
        "",
        "y=1",
    ];
    let program = random_program();
    let mut random = RandomNumbers(20_261_123);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let words: Vec<String> = (0..random.below(7))
            .map(|_| random.one_of(&PIECES).to_owned())
            .collect();
        let line: Vec<OsString> = ["x", "go"]
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .map(OsString::from)
            .collect();
        match (normalised(&program, &line), model(words.clone())) {
            (Ok(Call::Run(ours, _)), Ok((given, operands))) => {
                let expected: Vec<OsString> = ["x", "go"]
                    .into_iter()
                    .map(str::to_owned)
                    .chain(given)
                    .chain(["--".to_owned()])
                    .chain(operands)
                    .map(OsString::from)
                    .collect();
                assert_eq!(ours, expected, "{words:?}");
                program.clone().try_get_matches_from(ours).unwrap();
                read += 1;
            }
            (Err(_), Err(())) => refused += 1,
            (ours, theirs) => panic!("{words:?}: {ours:?}, but the model: {theirs:?}"),
        }
    }
    assert!(
        read > 2000 && refused > 2000,
        "{read} read, {refused} refused"
    );
}
