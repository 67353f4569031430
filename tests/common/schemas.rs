//! The schemas of the JSON outputs, as files.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Returns the folder of the schemas.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json-schema")
}

/// Returns all schemas by their names.
pub fn all() -> BTreeMap<String, Value> {
    let files = fs::read_dir(folder()).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = name.strip_suffix(".json").unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let schema =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, schema)
        })
        .collect()
}

/// Calls `found` with each object of a JSON value, and with its path.
pub fn each_object(value: &Value, path: &str, found: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => {
            found(path, value);
            for (name, value) in map {
                each_object(value, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                each_object(item, &format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Returns the names that a schema describes.
pub fn described(schema: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    each_object(schema, "", &mut |path, properties| {
        // A condition only repeats names.
        if path.ends_with("/properties") && !path.contains("/if/") && !path.contains("/then/") {
            names.extend(properties.as_object().unwrap().keys().cloned());
        }
    });
    names
}

/// Returns the examples in `docs/json.md`: the name of the schema that the section links, and the JSON.
pub fn examples() -> Vec<(String, Value)> {
    let text = fs::read_to_string(folder().join("../json.md")).unwrap();
    let mut examples = Vec::new();
    for section in text.split("\n## ") {
        let schema = section
            .split_once("(json-schema/")
            .and_then(|(_, rest)| rest.split_once(".json)"));
        for block in section.split("```json\n").skip(1) {
            let (name, _) = schema.unwrap_or_else(|| panic!("no schema in {section}"));
            let (block, _) = block.split_once("```").unwrap();
            let values = serde_json::Deserializer::from_str(block).into_iter::<Value>();
            examples.extend(values.map(|value| (name.to_owned(), value.unwrap())));
        }
    }
    examples
}
