//! How an image is named: a file name, or with `--image-opts` an option string.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::objects::Secrets;
use super::options::{self, KeyValue};
use crate::commands::{Source, names};
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::formats::qcow2::EncryptionMethod;

/// The format of that name.
///
/// # Errors
/// There is none that this version has.
pub fn format(name: &str) -> Result<Format> {
    Format::from_name(name).ok_or_else(|| Error::invalid(format!("Unknown file format '{name}'")))
}

/// An existing image from its name and the format that `-f` stated.
///
/// # Errors
/// An unknown format or protocol, as `Could not open 'name': …`.
pub fn by_name<'a>(name: &OsStr, stated: Option<&str>) -> Result<Source<'a>> {
    let text = name.to_string_lossy().into_owned();
    let source = || {
        let format = match stated {
            None => None,
            Some(name) => Some(
                Format::from_name(name)
                    .ok_or_else(|| Error::invalid(format!("Unknown driver '{name}'")))?,
            ),
        };
        Ok(Source::plain(names::file(name)?, text.clone(), format))
    };
    source().map_err(|error: Error| error.context(format!("Could not open '{text}'")))
}

/// An existing image from an option string, and the name by which `info` shows it.
///
/// # Errors
/// Unknown or missing options, as `Could not open 'string': …`.
pub fn by_options<'a>(text: &OsStr, secrets: &'a Secrets) -> Result<(Source<'a>, String)> {
    let name = text.to_string_lossy().into_owned();
    let could_not = |error: Error| error.context(format!("Could not open '{name}'"));
    let Some(text) = text.to_str() else {
        return Err(could_not(Error::invalid("the options are not UTF-8")));
    };
    parse(text, secrets).map_err(could_not)
}

fn parse<'a>(text: &str, secrets: &'a Secrets) -> Result<(Source<'a>, String)> {
    let mut driver = None;
    let mut file_driver = None;
    let mut filename = None;
    let mut encryption = None;
    let mut key_secret = None;
    for KeyValue { key, value } in options::parse(text, Some("file")) {
        match key.as_str() {
            "driver" => driver = Some(value),
            "file.driver" => file_driver = Some(value),
            "file.filename" => filename = Some(value),
            "encrypt.format" => encryption = Some(value),
            "encrypt.key-secret" => key_secret = Some(value),
            "file" => {
                return Err(Error::invalid(format!(
                    "Cannot find device='{value}' nor node-name='{value}'"
                )));
            }
            _ => {
                let driver = driver.as_deref().unwrap_or("qcow2");
                return Err(Error::invalid(format!(
                    "Block format '{driver}' does not support the option '{key}'"
                )));
            }
        }
    }
    let format = match driver.as_deref() {
        None => None,
        Some(name) => Some(
            Format::from_name(name)
                .ok_or_else(|| Error::invalid(format!("Unknown driver '{name}'")))?,
        ),
    };
    match file_driver.as_deref() {
        None | Some("file") => {}
        Some(other) => return Err(Error::invalid(format!("Unknown driver '{other}'"))),
    }
    let filename = filename.ok_or_else(|| {
        Error::invalid(if file_driver.is_some() {
            "The 'file' block driver requires a file name"
        } else {
            "A block device must be specified for \"file\""
        })
    })?;
    let encryption = match encryption.as_deref() {
        None => None,
        Some("aes") => Some(EncryptionMethod::Aes),
        Some("luks") => Some(EncryptionMethod::Luks),
        Some(other) => {
            return Err(Error::invalid(format!(
                "Parameter 'encrypt.format' does not accept value '{other}'"
            )));
        }
    };
    let secret = match &key_secret {
        None => None,
        Some(id) => Some(secrets.get(id)?),
    };
    // Options that the file's name alone doesn't say make it a name of the form json:{…}.
    let shown = match (&key_secret, format) {
        (Some(id), Some(format)) => shown_as_json(id, format, &filename),
        _ => filename.clone(),
    };
    let source = Source {
        secret,
        encryption,
        ..Source::plain(PathBuf::from(&filename), text.to_owned(), format)
    };
    Ok((source, shown))
}

fn shown_as_json(key_secret: &str, format: Format, filename: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "json:{{\"encrypt.key-secret\": {}, \"driver\": {}, \"file\": {{\"driver\": \"file\", \
         \"filename\": {}}}}}",
        quoted(key_secret),
        quoted(format.name()),
        quoted(filename)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_strings_name_file_format_and_secret() {
        let secrets = Secrets::parse(&["secret,id=s,data=abc".to_owned()]).unwrap();
        let text = "driver=qcow2,file.driver=file,file.filename=a,,b,encrypt.key-secret=s";
        let (source, shown) = by_options(OsStr::new(text), &secrets).unwrap();
        assert_eq!(source.path, PathBuf::from("a,b"));
        assert_eq!(source.format, Some(Format::Qcow2));
        assert_eq!(source.secret.unwrap().bytes(), b"abc");
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
                "driver=qcow2,file.filename=x,encrypt.key-secret=u",
                "No secret with id 'u'",
            ),
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
            let message = match by_options(OsStr::new(text), &Secrets::default()) {
                Ok(_) => panic!("{text} was accepted"),
                Err(error) => error.to_string(),
            };
            assert!(message.contains(expected), "{message}");
            assert!(message.starts_with(&format!("Could not open '{text}': ")));
        }
    }
}
