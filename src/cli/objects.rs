//! The option `--object`: secrets that other options refer to by their id.
//!
//! A secret's data is on the command line or in a file, plain or in base64, and may be encrypted with another secret.
//! The data of a `secret_keyring` is in the kernel. Messages never show any of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::mem;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::readable_file;
use crate::crypto::{self, Secret, Secrets};
use crate::error::{Error, Result, os_reason};
use crate::options::{Tree, Value, list};

/// The other objects of QEMU that `qemu-img` accepts. They have no use for images in files.
const OTHER_KINDS: [&str; 8] = [
    "authz-list",
    "authz-list-file",
    "authz-pam",
    "authz-simple",
    "throttle-group",
    "tls-creds-anon",
    "tls-creds-psk",
    "tls-creds-x509",
];

/// The largest initial capacity of the buffer for a password file, in bytes.
const MOST_AT_ONCE: usize = 1 << 20;

/// Parses a definition of `--object`, which may refer to `secrets`, and adds the secret to these. Returns the help
/// text if the definition asks for it.
///
/// # Errors
/// Returns an error if the definition is malformed, if a file can't be read, or if a key is missing or wrong.
pub(super) fn add(secrets: &mut Secrets, definition: &OsStr) -> Result<Option<String>> {
    let text = definition.to_str().filter(|text| text.starts_with('{'));
    let mut tree = if let Some(json) = text {
        Tree::from_json(json)?
    } else {
        if list::asks_for_help(definition) {
            return Ok(Some(help(&definition.to_string_lossy())));
        }
        Tree::from_list(definition, "qom-type")
    };
    let (id, secret) = define(secrets, &mut tree)?;
    secrets.insert(id, secret);
    Ok(None)
}

/// Returns the secrets of several definitions.
#[cfg(any(test, fuzzing))]
pub(super) fn parse(definitions: &[String]) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    for definition in definitions {
        assert_eq!(add(&mut secrets, definition.as_ref())?, None);
    }
    Ok(secrets)
}

fn define(secrets: &Secrets, tree: &mut Tree) -> Result<(String, Secret)> {
    let missing = |what| Error::invalid(format!("Parameter '{what}' is missing"));
    let kind = take_text(tree, "qom-type")?.ok_or_else(|| missing("qom-type"))?;
    let id = take_text(tree, "id")?;
    let checked_id = || {
        let id = id.ok_or_else(|| missing("id"))?;
        if !list::is_identifier(&id) {
            let mistake = Error::invalid("Parameter 'id' expects an identifier");
            return Err(mistake.with_hint(
                "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
            ));
        }
        if secrets.contains(&id) {
            return Err(Error::invalid(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        Ok(id)
    };
    match kind.as_str() {
        "secret" => {
            let definition = Definition::take(tree)?;
            Ok((checked_id()?, definition.load(secrets)?))
        }
        "secret_keyring" => {
            let serial = take_serial(tree)?.ok_or_else(|| missing("serial"))?;
            let envelope = Envelope::take(tree)?;
            Ok((
                checked_id()?,
                envelope.open(secrets, crypto::from_keyring(serial)?)?,
            ))
        }
        // QEMU has these only in programs that run a guest.
        "iothread" => Err(Error::invalid(format!("invalid object type: {kind}"))),
        other if OTHER_KINDS.contains(&other) => Err(Error::unsupported(format!(
            "objects of type '{other}' are not supported by this version"
        ))),
        other => Err(Error::invalid(format!(
            "Parameter 'qom-type' does not accept value '{other}'"
        ))),
    }
}

/// Returns the help text about objects, or about one kind.
fn help(definition: &str) -> String {
    let kind = definition.split(',').next().unwrap_or_default();
    let text = match kind {
        "secret" => [
            "secret options:",
            "data=<string>",
            "file=<string>",
            "format=<QCryptoSecretFormat>",
            "iv=<string>",
            "keyid=<string>",
        ]
        .as_slice(),
        "secret_keyring" => &[
            "secret_keyring options:",
            "format=<QCryptoSecretFormat>",
            "iv=<string>",
            "keyid=<string>",
            "serial=<int32_t>",
        ],
        _ => &[
            "List of user creatable objects:",
            "secret",
            "secret_keyring",
        ],
    };
    text.join("\n  ") + "\n"
}

/// The options of a `secret` as written.
struct Definition {
    data: Option<Zeroizing<Vec<u8>>>,
    file: Option<OsString>,
    envelope: Envelope,
}

impl Definition {
    fn take(tree: &mut Tree) -> Result<Self> {
        Ok(Self {
            data: tree
                .take_string("data")?
                .map(|data| Zeroizing::new(data.into_vec())),
            file: tree.take_string("file")?,
            envelope: Envelope::take(tree)?,
        })
    }

    fn load(self, secrets: &Secrets) -> Result<Secret> {
        let loaded = match (self.data, self.file) {
            (Some(mut data), None) => Secret::new(mem::take(&mut *data)),
            // A newline at the file's end is part of the password, as in QEMU.
            (None, Some(file)) => Secret::new(read(file.as_ref()).map_err(|error| {
                let (file, reason) = (file.display(), os_reason(&error));
                Error::invalid(format!(
                    "Unable to read {file}: Failed to open file “{file}”: {reason}"
                ))
            })?),
            (Some(_), Some(_)) => {
                return Err(Error::invalid("'file' and 'data' are mutually exclusive"));
            }
            (None, None) => {
                return Err(Error::invalid("Either 'file' or 'data' must be provided"));
            }
        };
        self.envelope.open(secrets, loaded)
    }
}

/// Reads a file with a password.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    readable_file::warn(path, &file);
    // The buffer has its full capacity from the start: growing it would leave copies of the password in memory.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length.min(MOST_AT_ONCE) + 64);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The encoding of a secret's bytes, and the key that encrypts them.
struct Envelope {
    base64: bool,
    key: Option<String>,
    iv: Option<String>,
}

impl Envelope {
    /// Takes the remaining options of a secret.
    ///
    /// # Errors
    /// Returns an error if one of them is malformed, or if an unknown option is left.
    fn take(tree: &mut Tree) -> Result<Self> {
        let base64 = match take_text(tree, "format")?.as_deref() {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "Parameter 'format' does not accept value '{other}'"
                )));
            }
        };
        let envelope = Self {
            base64,
            key: take_text(tree, "keyid")?,
            iv: take_text(tree, "iv")?,
        };
        match tree.first() {
            None => Ok(envelope),
            // A word without a value may be the rest of a password with a comma, which no message may show.
            Some((_, Value::Text(text))) if text == "on" || text == "off" => Err(Error::invalid(
                "an option of the secret is unexpected (a comma in a value is written twice)",
            )),
            Some((key, _)) => Err(Error::invalid(format!("Parameter '{key}' is unexpected"))),
        }
    }

    fn open(self, secrets: &Secrets, content: Secret) -> Result<Secret> {
        // The key is looked up first, so that a missing one is reported before other errors.
        let key = match &self.key {
            None => None,
            Some(id) => Some(secrets.of_any_bytes(id)?),
        };
        let iv = match (&key, &self.iv) {
            (None, _) => None,
            (Some(_), None) => return Err(Error::invalid("IV is required to decrypt secret")),
            (Some(_), Some(iv)) => Some(decode(iv.as_bytes())?),
        };
        let content = if self.base64 {
            decode(content.bytes())?
        } else {
            content
        };
        match (key, iv) {
            (Some(key), Some(iv)) => key.unseal(iv.bytes(), &content),
            _ => Ok(content),
        }
    }
}

/// Decodes base64 with any line breaks. Text that ends within a group is refused. QEMU drops the last few bytes
/// there, which gives a wrong or an empty password.
fn decode(text: &[u8]) -> Result<Secret> {
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(text.iter().copied().filter(|byte| *byte != b'\n').collect());
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    if !text.iter().all(known) {
        return Err(Error::invalid("Base64 data contains invalid characters"));
    }
    let mut bytes = Zeroizing::new(vec![0; text.len()]);
    let length = STANDARD
        .decode_slice(&*text, &mut bytes)
        .map_err(|_| Error::invalid("Base64 data is incomplete"))?;
    Ok(Secret::new(
        bytes.get(..length).unwrap_or_default().to_vec(),
    ))
}

/// Takes out an option that is text. Bytes that aren't UTF-8 become text that matches nothing.
fn take_text(tree: &mut Tree, key: &str) -> Result<Option<String>> {
    let text = tree.take_string(key)?.map(OsString::into_string);
    Ok(text.map(|text| text.unwrap_or_else(|bytes| bytes.to_string_lossy().into_owned())))
}

/// Takes out the serial number of a key: text or a JSON number.
///
/// # Errors
/// Returns an error if it is neither, or doesn't fit in 32 bits.
fn take_serial(tree: &mut Tree) -> Result<Option<i32>> {
    let number = match tree.take("serial") {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::Text(text)) => text.parse().ok(),
        Some(_) => None,
    };
    number
        .and_then(|number| i32::try_from(number).ok())
        .map(Some)
        .ok_or_else(|| Error::invalid("Parameter 'serial' expects integer"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn message(definitions: &[&str]) -> String {
        let definitions: Vec<String> = definitions.iter().map(|text| (*text).into()).collect();
        match parse(&definitions) {
            Ok(secrets) => match secrets.get("s") {
                Ok(_) => panic!("{definitions:?} was accepted"),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn secrets_come_from_data_and_from_files_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "from file\n").unwrap();
        let path = file.path().display();
        let secrets = parse(&[
            "secret,id=a,data=x,,y".to_owned(),
            format!("secret,id=b,format=raw,file={path}"),
            "secret,id=c,format=base64,data=aGVs\nbG8=".to_owned(),
            r#"{"qom-type":"secret","id":"d","data":"x,y"}"#.to_owned(),
        ])
        .unwrap();
        assert_eq!(secrets.get("a").unwrap().bytes(), b"x,y");
        assert_eq!(secrets.get("b").unwrap().bytes(), b"from file\n");
        assert_eq!(secrets.get("c").unwrap().bytes(), b"hello");
        assert_eq!(secrets.get("d").unwrap().bytes(), b"x,y");
        assert!(secrets.get("e").is_err());
    }

    const MASTER: &str = "secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
    const SEALED: &str = "secret,id=s,format=base64,data=SzSzroeOvT55AkwGz7RGWg==,keyid=m,\
                          iv=aWlpaWlpaWlpaWlpaWlpaQ==";

    #[test]
    fn a_secret_opens_another() {
        let secrets = parse(&[MASTER.to_owned(), SEALED.to_owned()]).unwrap();
        assert_eq!(secrets.get("s").unwrap().bytes(), b"secret");
        let two = |definition| message(&[MASTER, definition]);
        for (definition, expected) in [
            ("secret,id=s,data=x,keyid=m", "IV is required to decrypt"),
            (
                "secret,id=s,data=x,keyid=m,iv=AAAA",
                "16 bytes in length not 3",
            ),
            (
                "secret,id=s,data=x,keyid=m,iv=%",
                "contains invalid characters",
            ),
            ("secret,id=s,data=x,keyid=n,iv=%", "No secret with id 'n'"),
        ] {
            let message = two(definition);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn mistakes_are_named_and_never_show_the_secret() {
        for (definition, expected) in [
            ("secret,id=s", "Either 'file' or 'data' must be provided"),
            ("secret,data=hunter2", "Parameter 'id' is missing"),
            ("secret,id=1,data=hunter2", "'id' expects an identifier"),
            ("foo,id=s", "'qom-type' does not accept value 'foo'"),
            (
                "throttle-group,id=s",
                "objects of type 'throttle-group' are not supported",
            ),
            ("iothread,id=s", "invalid object type: iothread"),
            ("id=s", "Parameter 'qom-type' is missing"),
            (
                "secret,id=s,data=x,hunter2",
                "a comma in a value is written twice",
            ),
            (
                "secret,id=s,data=x,nohunter2",
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
            ("secret,id=s,data=hunter2,file=x", "mutually exclusive"),
            ("secret,id=s,data=hunter2,format=x", "accept value 'x'"),
            ("secret,id=s,data=hunter2,format=base64", "is incomplete"),
            (
                "secret,id=s,data=hunter%,format=base64",
                "invalid characters",
            ),
            ("secret,id=s,data=/+8=,format=base64", "is not valid UTF-8"),
            ("secret_keyring,id=s", "Parameter 'serial' is missing"),
            ("secret_keyring,id=s,serial=x", "'serial' expects integer"),
            ("secret_keyring,id=s,serial=0", "read serial key 00000000: "),
            (
                r#"{"qom-type":"secret","id":"s","data":5}"#,
                "Invalid parameter type for 'data', expected: string",
            ),
            (r#"{"qom-type":"#, "JSON parse error"),
        ] {
            let message = message(&[definition]);
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
