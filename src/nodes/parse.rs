//! The parser of trees of options into nodes: QEMU's block devices, as far as images in files have them.
//!
//! An image is the node of a format with the node of its protocol below it: `driver=raw` and `file.driver=file`. A
//! raw node may be between the two, as a window of a larger file. Options that only affect speed are checked and have
//! no effect. An unknown option is refused, with the name of the driver that doesn't know it.

use std::ffi::OsStr;
use std::path::PathBuf;

use serde_json::{Map, json};

use super::names::Warn;
use super::node::{BackingNode, Node, RawNode, unknown_driver};
use super::options::{NodeOptions, format_with, take_options};
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::formats::{FORMATS, Format};
use crate::options::json::PREFIX;
use crate::options::values::one_of;
use crate::options::{Kind, Tree, Value, Values, list, qemu_json};
use crate::storage::{Protocol, Sharing, WindowRange};

/// The node of an image, and the name that `info` shows.
pub(super) struct Parsed<'a> {
    pub(super) source: Node<'a>,
    /// The file's name if no other options are given, else `json:{…}`.
    pub(super) shown: Shown,
}

/// The name of an image in reports.
pub(super) enum Shown {
    Plain(String),
    Json(serde_json::Value),
}

/// Parses the tree of an image that messages name `name`.
///
/// # Errors
/// Returns an error if options are missing, unknown or malformed, or if a driver is unknown.
pub(super) fn image<'a>(
    mut tree: Tree,
    name: &str,
    secrets: &'a Secrets,
    warn: Warn,
) -> Result<Parsed<'a>> {
    refuse_repeated_names(&tree)?;
    let driver = driver(&mut tree);
    if let Some(driver) = driver.as_deref().and_then(Protocol::from_name) {
        return Ok(without_format(protocol(tree, driver)?, name));
    }
    let format = driver.as_deref().map(known_format).transpose()?;
    if format.is_none() && !tree.has("file") {
        return Err(Error::invalid("Must specify either driver or file"));
    }
    let file = storage(&mut tree, "file", secrets, warn)?;
    let common = common(&mut tree, false)?.over(file.common);
    let mut source = Node {
        sharing: common.sharing,
        is_read_only: common.is_read_only,
        windows: file.windows,
        between: file.nodes,
        protocol: Some(file.protocol),
        protocol_options: file.options,
        inside: file.inside,
        needs_direct: common.needs_direct(),
        secrets: Some(secrets),
        ..Node::plain(file.path, name.to_owned(), format)
    };
    let known: Vec<Format> = format.map_or_else(|| FORMATS.to_vec(), |format| vec![format]);
    let mut options = Map::new();
    source.others = other_files(&mut tree, &known, secrets, warn, &mut options)?;
    if known.iter().any(|format| format.capabilities().backing) {
        source.below = below(&mut tree, secrets, warn)?;
    }
    let shown = known.iter().flat_map(|format| format.shown_options());
    for key in shown.copied() {
        if let Some(value) = tree.get(key) {
            options.insert(key.into(), value.to_json());
        }
    }
    source.options = match format {
        Some(format) => NodeOptions::Taken(take_options(format, tree)?),
        None => NodeOptions::Unread(tree),
    };
    let shown = if options.is_empty() && file.direct {
        Shown::Plain(file.filename)
    } else {
        // Without a driver, reports name the first format that has all of the options.
        let keys: Vec<&str> = options.keys().map(String::as_str).collect();
        let found = format_with(&keys).filter(|_| !keys.is_empty());
        let found = found.map(|format| format.name().to_owned());
        let is_guess = driver.is_none();
        if let Some(driver) = driver.or(found) {
            options.insert("driver".into(), json!(driver));
        }
        options.insert("file".into(), file.shown);
        source.guessed = is_guess.then(|| options.clone());
        Shown::Json(options.into())
    };
    Ok(Parsed { source, shown })
}

/// Returns the node of a file that options named without any format.
fn without_format<'a>(file: Holder<'a>, name: &str) -> Parsed<'a> {
    Parsed {
        source: Node {
            sharing: file.common.sharing,
            is_read_only: file.common.is_read_only,
            protocol: Some(file.protocol),
            protocol_options: file.options,
            is_bare: true,
            needs_direct: file.common.needs_direct(),
            ..Node::plain(file.path, name.to_owned(), Some(Format::RAW))
        },
        shown: Shown::Plain(file.filename),
    }
}

/// Parses the nodes of other files with parts of the image, for each role that the possible formats `known` have. Adds
/// those that reports show to `shown`.
fn other_files(
    tree: &mut Tree,
    known: &[Format],
    secrets: &Secrets,
    warn: Warn,
    shown: &mut Map<String, serde_json::Value>,
) -> Result<Vec<(String, PathBuf)>> {
    let mut others = Vec::new();
    for role in known.iter().flat_map(|format| format.roles()).copied() {
        if let Some((role, path, node)) = other_file(tree, role, secrets, warn)? {
            let shows = |format: &Format| format.shown_options().contains(&&*role);
            if known.iter().any(shows) {
                shown.insert(role.clone(), node);
            }
            others.push((role, path));
        }
    }
    for list in known.iter().flat_map(|format| format.list_roles()) {
        let roles = (0..).map(|number| format!("{list}.{number}"));
        for role in roles.take_while(|role| tree.has(role)).collect::<Vec<_>>() {
            let file = other_file(tree, &role, secrets, warn)?;
            others.extend(file.map(|(role, path, _)| (role, path)));
        }
    }
    Ok(others)
}

/// Parses the node of another file with a part of the image. Returns its role, its path, and the node as reports show
/// it.
fn other_file(
    tree: &mut Tree,
    role: &str,
    secrets: &Secrets,
    warn: Warn,
) -> Result<Option<(String, PathBuf, serde_json::Value)>> {
    if tree.get(role) == Some(&Value::Null) {
        tree.take(role);
        return Ok(None);
    }
    if !tree.has(role) {
        return Ok(None);
    }
    let file = storage(tree, role, secrets, warn)?;
    if !file.windows.is_empty() || file.inside.is_some() {
        return Err(Error::unsupported(
            "a data file that is part of a file is not supported by this version",
        ));
    }
    Ok(Some((role.to_owned(), file.path, file.shown)))
}

/// The storage of an image: a file, a part of a file, or another image's disk.
struct Holder<'a> {
    path: PathBuf,
    filename: String,
    windows: Vec<WindowRange>,
    /// The raw nodes between the file and the image, from the file on.
    nodes: Vec<RawNode>,
    common: Common,
    protocol: Protocol,
    /// The options of that protocol.
    options: Values,
    /// True if it is the file itself.
    direct: bool,
    shown: serde_json::Value,
    /// The image whose disk it is, if it isn't the node of a protocol.
    inside: Option<Box<Node<'a>>>,
}

/// Parses the node at `key`, which contains an image.
fn storage<'a>(
    parent: &mut Tree,
    key: &str,
    secrets: &'a Secrets,
    warn: Warn,
) -> Result<Holder<'a>> {
    let reference = parent.take(key);
    let mut tree = parent.take_below(key);
    if let Some(node) = reference.and_then(Value::into_text) {
        return Err(no_such_node(&node));
    }
    if tree.is_empty() {
        return Err(Error::invalid(format!(
            "A block device must be specified for \"{key}\""
        )));
    }
    match driver(&mut tree).as_deref() {
        None => protocol(tree, Protocol::FILE),
        Some(name) if Format::from_name(name).is_some_and(is_transparent) => {
            let mut below = storage(&mut tree, "file", secrets, warn)?;
            below.common = common(&mut tree, true)?.over(below.common);
            let format = known_format(name)?;
            let mut options = Map::new();
            for key in format.shown_options() {
                if let Some(value) = tree.get(key) {
                    options.insert((*key).into(), value.to_json());
                }
            }
            let values = take_options(format, tree)?;
            let window = format.window(&values);
            below.windows.extend(window);
            let is_plain = options.is_empty() && below.direct;
            options.insert("driver".into(), json!(name));
            options.insert("file".into(), below.shown);
            let shown: serde_json::Value = options.into();
            let name = if is_plain {
                below.filename.clone()
            } else {
                format!("{PREFIX}{}", qemu_json::one_line(&shown)?)
            };
            below.nodes.push(RawNode { name, window });
            Ok(Holder {
                direct: false,
                shown,
                ..below
            })
        }
        Some(name) if Format::from_name(name).is_some() => {
            tree.put("driver", name);
            inside(image(tree, "", secrets, warn)?)
        }
        Some(other) => match Protocol::from_name(other) {
            Some(driver) => protocol(tree, driver),
            None => Err(unknown_driver(other)),
        },
    }
}

/// Returns an image's disk as the storage of another image.
fn inside(node: Parsed<'_>) -> Result<Holder<'_>> {
    let Parsed { mut source, shown } = node;
    let shown_path = || json!({"driver": "file", "filename": source.path.to_string_lossy()});
    let (filename, shown) = match shown {
        Shown::Plain(name) => (
            name,
            json!({"driver": format_name(&source), "file": shown_path()}),
        ),
        Shown::Json(json) => (format!("{PREFIX}{}", qemu_json::one_line(&json)?), json),
    };
    source.name.clone_from(&filename);
    Ok(Holder {
        path: source.path.clone(),
        filename,
        windows: Vec::new(),
        nodes: Vec::new(),
        common: Common {
            sharing: source.sharing,
            is_read_only: source.is_read_only,
            is_direct: false,
            is_native: false,
        },
        protocol: Protocol::FILE,
        options: Values::default(),
        direct: false,
        shown,
        inside: Some(Box::new(source)),
    })
}

fn format_name(source: &Node<'_>) -> &'static str {
    source.format.map_or("", |format| format.name())
}

/// Parses the rest of a protocol's node.
fn protocol<'a>(mut tree: Tree, protocol: Protocol) -> Result<Holder<'a>> {
    let mut common = common(&mut tree, true)?;
    let mut shown = Map::new();
    for key in protocol.shown_options() {
        if let Some(value) = tree.get(key) {
            shown.insert((*key).into(), value.to_json());
        }
    }
    let options = Values::of_tree(&[protocol.open_options()], &mut tree)?;
    for spec in protocol.open_options() {
        // JSON may have a number for a name, which means its digits.
        if let (Kind::Text, Some(value)) = (spec.kind, shown.get_mut(spec.name)) {
            *value = options.name(spec.name).map(OsStr::to_string_lossy).into();
        }
    }
    let stipulations = protocol.check(&options)?;
    nothing_left(&tree, |key| {
        let name = protocol.name();
        format!("Block protocol '{name}' doesn't support the option '{key}'")
    })?;
    if stipulations.is_unlocked {
        common.sharing = Sharing::Unlocked;
    }
    common.is_native = stipulations.is_native;
    shown.insert("driver".into(), json!(protocol.name()));
    let shown = serde_json::Value::from(shown);
    let direct = stipulations.path.is_some();
    let path = match stipulations.path {
        Some(path) => path,
        None => format!("{PREFIX}{}", qemu_json::one_line(&shown)?).into(),
    };
    Ok(Holder {
        filename: path.to_string_lossy().into_owned(),
        direct,
        path,
        windows: Vec::new(),
        nodes: Vec::new(),
        common,
        protocol,
        options,
        shown,
        inside: None,
    })
}

/// Parses the node of the backing file.
fn below<'a>(tree: &mut Tree, secrets: &'a Secrets, warn: Warn) -> Result<BackingNode<'a>> {
    let reference = tree.take("backing");
    if reference == Some(Value::Null) {
        return Ok(BackingNode::Nothing);
    }
    match reference.and_then(Value::into_text) {
        Some(node) if node.is_empty() => {
            warn(
                "Use of \"backing\": \"\" is deprecated; use \"backing\": null instead",
                "",
            );
            return Ok(BackingNode::Nothing);
        }
        Some(node) => return Err(no_such_node(&node)),
        None => {}
    }
    let mut tree = tree.take_below("backing");
    if tree.is_empty() {
        return Ok(BackingNode::Stored);
    }
    let names = ["filename", "file.filename", "file.file"];
    let stored = !names.iter().any(|name| tree.has(name));
    if stored {
        // The name is the one of the image's header. The rest is parsed as any other node.
        let driver = tree.get("driver").cloned().and_then(Value::into_text);
        let is_file = driver.is_some_and(|name| Protocol::from_name(&name).is_some());
        let key = if is_file { "filename" } else { "file.filename" };
        tree.put(key, "backing file");
    }
    let mut node = image(tree, "", secrets, warn)?;
    node.source.name = node.source.path.to_string_lossy().into_owned();
    let source = Box::new(node.source);
    Ok(if stored {
        BackingNode::StoredWith(source)
    } else {
        BackingNode::Given(source)
    })
}

/// The options of every node that have an effect.
#[derive(Clone, Copy)]
struct Common {
    sharing: Sharing,
    is_read_only: bool,
    /// True for `cache.direct=on`. It has no effect here but to allow `aio=native`.
    is_direct: bool,
    /// True for `aio=native`, which QEMU has only with `cache.direct=on`.
    is_native: bool,
}

impl Common {
    /// Returns these options for an image whose file has `below`.
    fn over(self, below: Self) -> Self {
        Self {
            sharing: self.sharing.max(below.sharing),
            is_read_only: self.is_read_only || below.is_read_only,
            is_direct: self.is_direct || below.is_direct,
            is_native: below.is_native,
        }
    }

    fn needs_direct(self) -> bool {
        self.is_native && !self.is_direct
    }
}

/// Parses the options that every node has, and returns those that have an effect. Below another node, `discard` is on
/// by default.
fn common(tree: &mut Tree, is_below: bool) -> Result<Common> {
    if let Some(name) = tree.take_text("node-name")
        && !list::is_identifier(&name)
    {
        return Err(Error::invalid(format!("Invalid node-name: '{name}'")));
    }
    for key in ["auto-read-only", "cache.no-flush"] {
        tree.take_switch(key)?;
    }
    let is_direct = tree.take_switch("cache.direct")? == Some(true);
    let is_read_only = tree.take_switch("read-only")? == Some(true);
    let sharing = match tree.take_switch("force-share")? {
        Some(true) => Sharing::Forced,
        Some(false) | None => Sharing::Agreed,
    };
    let discards = match tree.take_text("discard").as_deref() {
        None => is_below,
        Some("ignore" | "off") => false,
        Some("unmap" | "on") => true,
        Some(_) => return Err(Error::invalid("Invalid discard option")),
    };
    let detects = one_of(tree.take_text("detect-zeroes"), &["off", "on", "unmap"])?;
    if detects.as_deref() == Some("unmap") && !discards {
        return Err(Error::invalid(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
        ));
    }
    Ok(Common {
        sharing,
        is_read_only,
        is_direct,
        is_native: false,
    })
}

/// Refuses a node name that several nodes have.
fn refuse_repeated_names(tree: &Tree) -> Result<()> {
    let mut names = Vec::new();
    for key in tree.keys() {
        if key != "node-name" && !key.ends_with(".node-name") {
            continue;
        }
        if let Some(name) = tree.get(&key).cloned().and_then(Value::into_text) {
            if names.contains(&name) {
                return Err(Error::invalid(format!(
                    "Duplicate nodes with node-name='{name}'"
                )));
            }
            names.push(name);
        }
    }
    Ok(())
}

fn nothing_left(tree: &Tree, message: impl Fn(&str) -> String) -> Result<()> {
    match tree.first() {
        None => Ok(()),
        Some((key, _)) => Err(Error::invalid(message(key))),
    }
}

fn driver(tree: &mut Tree) -> Option<String> {
    tree.take("driver").and_then(Value::into_text)
}

/// Returns true if the bytes of a file of this format are the disk itself.
fn is_transparent(format: Format) -> bool {
    format.capabilities().transparent
}

/// Returns the format of that name.
///
/// # Errors
/// Returns an error if this version doesn't have it.
fn known_format(name: &str) -> Result<Format> {
    Format::from_name(name).ok_or_else(|| unknown_driver(name))
}

fn no_such_node(name: &str) -> Error {
    let error = format!("Cannot find device='{name}' nor node-name='{name}'");
    Error::invalid(error).with_hint("A file is named by driver=FORMAT,file.filename=NAME")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;

    fn read(text: &str, secrets: &Secrets, test: impl FnOnce(&Node<'_>)) {
        let node = image(Tree::from_list(text, "file"), "name", secrets, |_, _| ()).unwrap();
        test(&node.source);
    }

    #[test]
    fn windows_are_kept_from_the_inside_out() {
        let text = "driver=qcow2,file.driver=raw,file.offset=1k,file.file.driver=raw,\
                    file.file.size=1M,file.file.file.filename=x";
        read(text, &Secrets::default(), |source| {
            assert_eq!(source.path, PathBuf::from("x"));
            assert_eq!(source.format, Format::from_name("qcow2"));
            let ranges = [(0, Some(1 << 20)), (1024, None)];
            let ranges = ranges.map(|(offset, size)| WindowRange { offset, size });
            assert_eq!(source.windows, ranges);
        });
        read(
            "driver=raw,file.filename=x",
            &Secrets::default(),
            |source| {
                assert_eq!(source.windows, []);
            },
        );
    }

    #[test]
    fn what_is_below_is_stored_given_or_nothing() {
        let mut secrets = Secrets::default();
        secrets.insert("s".to_owned(), Secret::new(b"abc".to_vec()));
        let read = |text: &str, test: fn(&BackingNode<'_>)| {
            read(text, &secrets, |source| test(&source.below));
        };
        read("file.filename=x", |below| {
            assert!(matches!(below, BackingNode::Stored));
        });
        read("file.filename=x,backing.encrypt.key-secret=s", |below| {
            let BackingNode::StoredWith(source) = below else {
                panic!("not the stored one");
            };
            let options = source
                .options
                .of(Format::from_name("qcow2").unwrap())
                .unwrap();
            assert_eq!(options.text("encrypt.key-secret"), Some("s"));
            assert_eq!(source.format, None);
        });
        let given =
            "file.filename=x,backing.driver=raw,backing.file.filename=y,data-file.filename=z";
        read(given, |below| {
            let BackingNode::Given(source) = below else {
                panic!("not the given one");
            };
            assert_eq!(source.path, PathBuf::from("y"));
            assert_eq!(source.format, Some(Format::RAW));
        });
        let json = r#"{"driver":"qcow2","backing":null,"file.filename":"x"}"#;
        let node = image(Tree::from_json(json).unwrap(), "name", &secrets, |_, _| ()).unwrap();
        assert!(matches!(node.source.below, BackingNode::Nothing));
    }

    #[test]
    fn nobody_knows_these() {
        for (text, expected) in [
            (
                "driver=raw",
                "A block device must be specified for \"file\"",
            ),
            ("filename=x", "Must specify either driver or file"),
            (
                "driver=qcow2,file.filename=x,data-file.driver=raw,data-file.offset=1,\
                 data-file.file.filename=y",
                "a data file that is part of a file is not supported",
            ),
            (
                "driver=qcow2,file.filename=x,encrypt.cipher-alg=y",
                "Block format 'qcow2' does not support the option 'encrypt.cipher-alg'",
            ),
            (
                "driver=raw,file.driver=raw,file.zoo=1,file.file.filename=x",
                "Block format 'raw' does not support the option 'zoo'",
            ),
            (
                "driver=raw,file.driver=host_device,file.filename=x,file.zoo=1",
                "Block protocol 'host_device' doesn't support the option 'zoo'",
            ),
            (
                "file.filename=x,backing=y",
                "Cannot find device='y' nor node-name='y'",
            ),
            (
                "driver=qcow2,file.filename=x,cache-size=y",
                "'cache-size' expects a non",
            ),
        ] {
            let tree = Tree::from_list(text, "file");
            match image(tree, "name", &Secrets::default(), |_, _| ()) {
                Ok(_) => panic!("{text} was accepted"),
                Err(error) => assert!(error.to_string().contains(expected), "{error}"),
            }
        }
    }
}
