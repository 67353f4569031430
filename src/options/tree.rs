//! Options in a tree: those of `--image-opts`, of `--object` and of `json:` names.
//!
//! QEMU takes the same tree in three spellings: `driver=raw,file.filename=x`, nested JSON, and JSON with dotted keys.
//! All three become a flat list of dotted keys, which parsers take out one by one. An option that is left in the end
//! is unknown, and is refused by name.

use std::ffi::{OsStr, OsString};

use super::Value;
use super::json::{self, Document};
use super::list;
use crate::error::{Error, Result};
use crate::units::parse_size;

/// The message for JSON that isn't an object.
pub const NO_OBJECT: &str = "Invalid JSON object given";

/// A tree of options, flat.
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Tree(Vec<(String, Value)>);

impl Tree {
    /// Parses `key=value,key2=value2`. The last value of a repeated key counts. `implied` is the key of a
    /// first element without one.
    pub fn from_list(text: impl AsRef<OsStr>, implied: &str) -> Self {
        let mut tree = Self::default();
        for option in list::parse(text, Some(implied)) {
            tree.0.retain(|(key, _)| *key != option.key);
            tree.0.push((option.key, option.value.into()));
        }
        tree
    }

    /// Parses a JSON object.
    ///
    /// # Errors
    /// Returns an error if the text isn't a JSON object, if a key is repeated, or if the nesting is too deep.
    pub fn from_json(text: &str) -> Result<Self> {
        let Document::Map(entries) = json::parse(text)? else {
            return Err(Error::invalid(NO_OBJECT));
        };
        let mut tree = Self::default();
        for (key, node) in entries {
            tree.flatten(key, node)?;
        }
        Ok(tree)
    }

    fn flatten(&mut self, key: String, node: Document) -> Result<()> {
        let value = match node {
            Document::Value(value) => value,
            Document::Map(entries) => {
                for (below, node) in entries {
                    self.flatten(format!("{key}.{below}"), node)?;
                }
                return Ok(());
            }
            Document::List(nodes) => {
                for (index, node) in nodes.into_iter().enumerate() {
                    self.flatten(format!("{key}.{index}"), node)?;
                }
                return Ok(());
            }
        };
        if self.0.iter().any(|(known, _)| *known == key) {
            return Err(Error::invalid(format!(
                "JSON parse error, duplicate key '{key}'"
            )));
        }
        self.0.push((key, value));
        Ok(())
    }

    /// Returns true if there is an option of that name, or any below it.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| {
            let rest = known.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Returns the value of an option, which stays in the tree.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    /// Adds an option that isn't in the tree.
    pub fn put(&mut self, key: &str, value: &str) {
        self.0.push((key.to_owned(), Value::Text(value.to_owned())));
    }

    /// Takes an option out.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1)
    }

    /// Takes out an option as text. A number or a switch of JSON becomes its text.
    pub fn take_text(&mut self, key: &str) -> Option<String> {
        let name = self.take_name(key)?.into_string();
        Some(name.unwrap_or_else(|name| name.to_string_lossy().into_owned()))
    }

    /// Takes out an option that is the name of a file. A number or a switch of JSON becomes its text. `null` means
    /// that the option isn't given.
    pub fn take_name(&mut self, key: &str) -> Option<OsString> {
        Some(match self.take(key)? {
            Value::Null => return None,
            Value::Switch(on) => if on { "on" } else { "off" }.into(),
            Value::Number(number) => number.to_string().into(),
            Value::Text(text) => text.into(),
            Value::Bytes(bytes) => bytes,
        })
    }

    /// Takes out an option that must be text even in JSON.
    ///
    /// # Errors
    /// Returns an error if it has another kind of value.
    pub fn take_string(&mut self, key: &str) -> Result<Option<OsString>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.into())),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(Error::invalid(format!(
                "Invalid parameter type for '{key}', expected: string"
            ))),
        }
    }

    /// Takes out an option that is a size, in bytes.
    ///
    /// # Errors
    /// Returns an error if it isn't a size.
    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        let text = match self.take(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Text(text)) => text,
            Some(Value::Switch(_) | Value::Bytes(_)) => String::new(),
        };
        let size = parse_size(&text);
        size.map(Some)
            .map_err(|error| list::no_size(key, &text, error))
    }

    /// Takes out an option that is on or off.
    ///
    /// # Errors
    /// Returns an error if it is neither.
    pub fn take_switch(&mut self, key: &str) -> Result<Option<bool>> {
        Ok(Some(match self.take(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Switch(on)) => on,
            Some(Value::Text(text)) if matches!(text.as_str(), "on" | "yes" | "true" | "y") => true,
            Some(Value::Text(text)) if matches!(text.as_str(), "off" | "no" | "false" | "n") => {
                false
            }
            Some(_) => {
                return Err(Error::invalid(format!(
                    "Parameter '{key}' expects 'on' or 'off'"
                )));
            }
        }))
    }

    /// Takes out all options below a key: `file.filename` becomes `filename` of the tree `file`.
    pub fn take_below(&mut self, key: &str) -> Self {
        let mut below = Self::default();
        self.0.retain_mut(|(known, value)| {
            let rest = known
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('.'));
            let Some(rest) = rest else {
                return true;
            };
            below
                .0
                .push((rest.to_owned(), std::mem::replace(value, Value::Null)));
            false
        });
        below
    }

    /// Returns the names of all options.
    pub fn keys(&self) -> Vec<String> {
        self.0.iter().map(|(key, _)| key.clone()).collect()
    }

    /// Returns true if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first option that is left.
    pub fn first(&self) -> Option<(&str, &Value)> {
        self.0.first().map(|(key, value)| (key.as_str(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_are_one_tree() {
        let mut nested =
            Tree::from_json(r#" {"driver":"raw","file":{"filename":"x,y"}} "#).unwrap();
        let dotted = Tree::from_json(r#"{"driver":"raw","file.filename":"x,y"}"#).unwrap();
        let list = Tree::from_list("driver=qcow2,file.filename=x,,y,driver=raw", "file");
        assert_eq!(nested, dotted);
        let mut list = list;
        let mut file = list.take_below("file");
        assert_eq!(file.take_text("filename").as_deref(), Some("x,y"));
        assert!(file.is_empty());
        assert_eq!(list.take("driver"), Some(Value::Text("raw".into())));
        assert!(list.is_empty());
        nested.take("driver");
        assert_eq!(
            nested.first(),
            Some(("file.filename", &Value::Text("x,y".into())))
        );
    }

    #[test]
    fn values_have_kinds() {
        let mut tree = Tree::from_json(
            r#"{"a":512,"b":"1k","c":true,"d":"off","e":null,"f":[1,{"g":"h"}],"i":1.5,"j":-5}"#,
        )
        .unwrap();
        assert_eq!(tree.take_size("a").unwrap(), Some(512));
        assert_eq!(tree.take_size("b").unwrap(), Some(1024));
        assert_eq!(tree.take_switch("c").unwrap(), Some(true));
        assert_eq!(tree.take_switch("d").unwrap(), Some(false));
        assert_eq!(tree.take("e"), Some(Value::Null));
        assert_eq!(tree.take_size("f.0").unwrap(), Some(1));
        assert_eq!(tree.take_text("f.1.g").as_deref(), Some("h"));
        assert!(tree.take_size("i").is_err());
        let error = tree.take_size("j").unwrap_err().to_string();
        assert_eq!(error, "Value '-5' is out of range for parameter 'j'");
        assert!(tree.is_empty());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, message) in [
            ("", "Expecting a JSON value"),
            ("  ", "Expecting a JSON value"),
            ("[]", "Invalid JSON object given"),
            ("5", "Invalid JSON object given"),
            ("{", "JSON parse error, premature EOI"),
            ("{} x", "Expecting at most one JSON value"),
            (r#"{"a":1,"a":2}"#, "duplicate key 'a'"),
            (r#"{"a":{"b":1},"a.b":2}"#, "duplicate key 'a.b'"),
            (&r#"{"a":"#.repeat(100_000), "nesting depth limit"),
        ] {
            let error = Tree::from_json(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
