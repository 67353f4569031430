//! `--object secret,…`: passwords that other options refer to by their id.

use std::collections::HashMap;
use std::fs;

use super::options::{self, KeyValue};
use crate::crypto::Secret;
use crate::error::{Error, Result, os_reason};

/// The secrets of a command line, by id.
#[derive(Default)]
pub struct Secrets(HashMap<String, Secret>);

impl Secrets {
    /// Reads the definitions that were given with `--object`.
    ///
    /// # Errors
    /// Anything but a well-formed secret; a file that can't be read; data that isn't UTF-8.
    pub fn parse(definitions: &[String]) -> Result<Self> {
        let mut secrets = HashMap::new();
        for definition in definitions {
            let (id, secret) = parse_secret(definition)?;
            if secrets.insert(id.clone(), secret).is_some() {
                return Err(Error::invalid(format!(
                    "attempt to add duplicate property '{id}' to object (type 'container')"
                )));
            }
        }
        Ok(Self(secrets))
    }

    /// The secret of that id.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, id: &str) -> Result<&Secret> {
        self.0
            .get(id)
            .ok_or_else(|| Error::invalid(format!("No secret with id '{id}'")))
    }
}

fn parse_secret(definition: &str) -> Result<(String, Secret)> {
    let mut kind = None;
    let mut id = None;
    let mut data = None;
    let mut file = None;
    for KeyValue { key, value } in options::parse(definition, Some("qom-type")) {
        match key.as_str() {
            "qom-type" => kind = Some(value),
            "id" => id = Some(value),
            "data" => data = Some(value),
            "file" => file = Some(value),
            "format" if value == "raw" => {}
            "format" | "keyid" | "iv" => {
                return Err(Error::unsupported(format!(
                    "secret option {key}={value} is not supported by this version"
                )));
            }
            // What has no value of its own may be the end of a password with a comma in it.
            _ if value == "on" => {
                return Err(Error::invalid(
                    "an option of the secret is unexpected (a comma in a value is written twice)",
                ));
            }
            _ => return Err(Error::invalid(format!("Parameter '{key}' is unexpected"))),
        }
    }
    match kind.as_deref() {
        Some("secret") => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "Parameter 'qom-type' does not accept value '{other}'"
            )));
        }
        None => return Err(Error::invalid("Parameter 'qom-type' is missing")),
    }
    let id = id.ok_or_else(|| Error::invalid("Parameter 'id' is missing"))?;
    let secret = match (data, file) {
        (Some(data), None) => Secret::new(data.into_bytes()),
        // A newline at the file's end is part of the password, as QEMU has it.
        (None, Some(file)) => Secret::new(fs::read(&file).map_err(|error| {
            Error::invalid(format!(
                "Unable to read {file}: Failed to open file “{file}”: {}",
                os_reason(&error)
            ))
        })?),
        (Some(_), Some(_)) => {
            return Err(Error::invalid("'file' and 'data' are mutually exclusive"));
        }
        (None, None) => {
            return Err(Error::invalid("Either 'file' or 'data' must be provided"));
        }
    };
    if std::str::from_utf8(secret.bytes()).is_err() {
        return Err(Error::invalid(format!(
            "Data from secret {id} is not valid UTF-8"
        )));
    }
    Ok((id, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(definition: &str) -> String {
        match Secrets::parse(&[definition.to_owned()]) {
            Ok(_) => panic!("{definition} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn secrets_come_from_data_and_from_files_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "from file\n").unwrap();
        let secrets = Secrets::parse(&[
            "secret,id=a,data=x,,y".to_owned(),
            format!("secret,id=b,format=raw,file={}", file.path().display()),
        ])
        .unwrap();
        assert_eq!(secrets.get("a").unwrap().bytes(), b"x,y");
        assert_eq!(secrets.get("b").unwrap().bytes(), b"from file\n");
        assert!(secrets.get("c").is_err());
    }

    #[test]
    fn mistakes_are_named_and_never_show_the_secret() {
        for (definition, expected) in [
            ("secret,id=s", "Either 'file' or 'data' must be provided"),
            ("secret,data=hunter2", "Parameter 'id' is missing"),
            ("foo,id=s", "'qom-type' does not accept value 'foo'"),
            ("id=s", "Parameter 'qom-type' is missing"),
            (
                "secret,id=s,data=x,hunter2",
                "a comma in a value is written twice",
            ),
            (
                "secret,id=s,data=hunter2,zz=1",
                "Parameter 'zz' is unexpected",
            ),
            (
                "secret,id=s,file=/nonexistent",
                "Unable to read /nonexistent",
            ),
            ("secret,id=s,data=hunter2,format=base64", "not supported"),
        ] {
            let message = message(definition);
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
