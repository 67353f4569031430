//! Names of images: a file name, `json:{…}`, or with `--image-opts` an option string.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::LazyLock;

use super::file_name;
use super::names::Warn;
use super::node::Node;
use super::parse::{self, Parsed, Shown};
use crate::crypto::Secrets;
use crate::error::{Error, Result, printable};
use crate::formats;
use crate::options::json::PREFIX;
use crate::options::{Tree, qemu_json, tree};

/// Returns the node of an existing image from its name and the format of `-f`, and the name that `info` shows.
///
/// # Errors
/// Returns `Could not open 'name': …` if the format or the protocol is unknown, or if a `json:` name is
/// malformed.
pub fn by_name<'a>(
    name: &OsStr,
    format: Option<&str>,
    secrets: &'a Secrets,
    warn: Warn,
) -> Result<(Node<'a>, String)> {
    let text = name.to_string_lossy().into_owned();
    let source = || {
        if text.starts_with(PREFIX) {
            return by_json(name, format, secrets, warn);
        }
        let path = file_name::file(name)?;
        if path.as_os_str().is_empty() {
            // An image without a name would be one that nothing stands in front of in messages.
            return Err(no_name());
        }
        let shown = path.to_string_lossy().into_owned();
        let mut source = Node::plain(path, text.clone(), None);
        source.of_driver(format)?;
        if format.is_none() {
            source.named = formats::named(name.as_bytes());
        }
        Ok((source, shown))
    };
    source().map_err(|error: Error| error.context(format!("Could not open '{text}'")))
}

/// Returns the node of an image from a `json:{…}` name that was found inside another image. The name may not refer to
/// the user's secrets, since someone else may have written it.
pub(super) fn found_inside(name: &str, format: Option<&str>, warn: Warn) -> Result<Node<'static>> {
    static NONE: LazyLock<Secrets> = LazyLock::new(Secrets::default);
    let read = by_json(OsStr::new(name), format, &NONE, warn);
    let (mut source, shown) = read.map_err(|error| error.context(could_not_open(name)))?;
    source.name = shown;
    Ok(source)
}

/// Returns the error for an image whose file has no name.
pub(super) fn no_name() -> Error {
    Error::invalid("The 'file' block driver requires a file name")
}

fn could_not_open(name: &str) -> String {
    format!("Could not open '{}'", printable(name))
}

fn by_json<'a>(
    name: &OsStr,
    format: Option<&str>,
    secrets: &'a Secrets,
    warn: Warn,
) -> Result<(Node<'a>, String)> {
    let not_parsed = |error: Error| error.context("Could not parse the JSON options");
    let text = name
        .to_str()
        .ok_or_else(|| not_parsed(Error::invalid("they are not UTF-8")))?;
    let json = text.strip_prefix(PREFIX).unwrap_or_default();
    let mut tree = Tree::from_json(json).map_err(|error| {
        if error.to_string() == tree::NO_OBJECT {
            return error;
        }
        not_parsed(error)
    })?;
    if let Some(format) = format {
        tree.take("driver");
        tree.put("driver", format);
    }
    finish(parse::image(tree, text, secrets, warn)?)
}

/// Returns the node of an existing image from an option string, and the name that `info` shows.
///
/// # Errors
/// Returns `Could not open 'string': …` if options are unknown or missing.
pub fn by_options<'a>(
    text: &OsStr,
    secrets: &'a Secrets,
    warn: Warn,
) -> Result<(Node<'a>, String)> {
    let name = text.to_string_lossy().into_owned();
    let tree = Tree::from_list(text, "file");
    parse::image(tree, &name, secrets, warn)
        .and_then(finish)
        .map_err(|error| error.context(format!("Could not open '{name}'")))
}

fn finish(node: Parsed<'_>) -> Result<(Node<'_>, String)> {
    let shown = match node.shown {
        Shown::Plain(name) => name,
        Shown::Json(json) => format!("{PREFIX}{}", qemu_json::one_line(&json)?),
    };
    Ok((node.source, shown))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::crypto::Secret;
    use crate::for_tests::RandomNumbers;
    use crate::formats::Format;

    const QUIET: Warn = |_, _| ();

    #[test]
    fn option_strings_name_file_format_and_secret() {
        let mut secrets = Secrets::default();
        secrets.insert("s".to_owned(), Secret::new(b"abc".to_vec()));
        let text = "driver=qcow2,file.driver=file,file.filename=a,,b,encrypt.key-secret=s";
        let (source, shown) = by_options(OsStr::new(text), &secrets, QUIET).unwrap();
        assert_eq!(source.path, PathBuf::from("a,b"));
        assert_eq!(source.format, Format::from_name("qcow2"));
        let options = source
            .options
            .of(Format::from_name("qcow2").unwrap())
            .unwrap();
        assert_eq!(options.text("encrypt.key-secret"), Some("s"));
        assert!(source.secrets.unwrap().contains("s"));
        assert_eq!(
            shown,
            "json:{\"encrypt.key-secret\": \"s\", \"driver\": \"qcow2\", \"file\": \
             {\"driver\": \"file\", \"filename\": \"a,b\"}}"
        );
    }

    #[test]
    fn mistakes_in_option_strings_are_named() {
        for (text, expected) in [
            (
                "driver=qcow2",
                "A block device must be specified for \"file\"",
            ),
            ("driver=qcow9,file.filename=x", "Unknown driver 'qcow9'"),
            ("x.img", "Cannot find device='x.img' nor node-name='x.img'"),
            (
                "driver=qcow2,file.filename=x,zoo=1",
                "does not support the option 'zoo'",
            ),
            (
                "driver=raw,file.driver=nbd,file.filename=x",
                "Unknown driver 'nbd'",
            ),
            (
                "driver=raw,file.driver=file",
                "The 'file' block driver requires a file name",
            ),
        ] {
            let message = match by_options(OsStr::new(text), &Secrets::default(), QUIET) {
                Ok(_) => panic!("{text} was accepted"),
                Err(error) => error.to_string(),
            };
            assert!(message.contains(expected), "{message}");
            assert!(message.starts_with(&format!("Could not open '{text}': ")));
        }
    }

    /// Checks that every combination of these pieces is parsed or refused, without a panic.
    #[test]
    fn no_name_is_too_strange() {
        const PIECES: [&str; 32] = [
            "json:",
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "driver",
            "raw",
            "qcow2",
            "file",
            ".",
            "filename",
            "x",
            "=",
            "offset",
            "512",
            "-5",
            "1e9",
            "null",
            "true",
            "backing",
            "data-file",
            "encrypt.key-secret",
            "s",
            "size",
            "\\",
            "\u{e9}",
            " ",
            "\\u0000",
            "",
        ];
        const SEEDS: [&str; 3] = [
            r#"json:{"driver":"qcow2","file":{"driver":"raw","file.filename":"x"},"backing":null}"#,
            "driver=qcow2,file.filename=x,backing.file.filename=y,backing.driver=raw",
            "driver=raw,offset=1k,size=512,file.driver=raw,file.offset=5,file.file.filename=x",
        ];
        let mut secrets = Secrets::default();
        secrets.insert("s".to_owned(), Secret::new(b"abc".to_vec()));
        let mut random = RandomNumbers(1);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..30_000 {
            let text = random.changed(&SEEDS, &PIECES, 4);
            for result in [
                by_name(OsStr::new(&text), None, &secrets, QUIET),
                by_options(OsStr::new(&text), &secrets, QUIET),
            ] {
                match result {
                    Ok((_, shown)) => {
                        assert!(!shown.is_empty(), "{text}");
                        read += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(read > 1000 && refused > 1000, "{read} {refused}");
    }
}
