//! Tests of the schemas of the JSON outputs as texts: they describe each name, and docs/json.md links each of them.
//! `tests/oracle/json_schemas.rs` validates outputs.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::schemas::{all, described, each_object, examples, folder};

/// Returns true if a path is inside of a condition, which only selects what is described elsewhere.
fn is_condition(path: &str) -> bool {
    ["/if", "/then"].iter().any(|part| {
        let inside = format!("{part}/");
        path.ends_with(part) || path.contains(&inside)
    })
}

#[test]
fn each_schema_has_a_title_and_describes_each_name() {
    let schemas = all();
    assert!(schemas.len() >= 15, "{:?}", schemas.keys());
    for (name, schema) in &schemas {
        let draft = "https://json-schema.org/draft/2020-12/schema";
        assert_eq!(schema["$schema"], draft, "{name}");
        for what in ["title", "description"] {
            assert!(
                schema[what].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: {what}"
            );
        }
        each_object(schema, name, &mut |path, properties| {
            if !path.ends_with("/properties") || is_condition(path) {
                return;
            }
            for (name, property) in properties.as_object().unwrap() {
                // The names of version 2 of LUKS that version 1 has too are described there.
                let is_shared = property["$ref"]
                    .as_str()
                    .is_some_and(|target| target.contains("/properties/"));
                let text = property["description"].as_str().unwrap_or_default();
                assert!(
                    is_shared || (text.len() > 5 && text.ends_with('.')),
                    "{path}/{name}: {text:?}"
                );
            }
        });
    }
}

/// A number of bytes says so, and each object says which names it must have and if it may have others.
#[test]
fn units_are_told_and_objects_are_closed_or_open_on_purpose() {
    for (name, schema) in &all() {
        each_object(schema, name, &mut |path, object| {
            let Some(properties) = object["properties"]
                .as_object()
                .filter(|_| !is_condition(path))
            else {
                return;
            };
            for name in object["required"].as_array().into_iter().flatten() {
                assert!(
                    properties.contains_key(name.as_str().unwrap()),
                    "{path}: {name}"
                );
            }
            // What is added to another object is closed there.
            let is_part = path.ends_with("/luks1");
            let is_closed = ["additionalProperties", "unevaluatedProperties"];
            let is_closed = is_closed.iter().any(|name| object[name].is_boolean());
            assert!(
                is_closed || is_part,
                "{path}: other names are neither allowed nor forbidden"
            );
            for (name, property) in properties {
                let type_of = &property["type"];
                if type_of == "integer" || type_of == "number" {
                    let has_least = property["minimum"].is_number();
                    assert!(has_least, "{path}/{name} has no range");
                }
            }
        });
    }
}

#[test]
fn the_document_links_each_schema_and_has_its_examples() {
    let schemas = all();
    let text = fs::read_to_string(folder().join("../json.md")).unwrap();
    for name in schemas.keys() {
        let link = format!("(json-schema/{name}.json)");
        assert!(text.contains(&link), "docs/json.md has no {link}");
    }
    let examples = examples();
    assert!(examples.len() >= 9, "{examples:?}");
    for (name, example) in &examples {
        let mut names = BTreeSet::new();
        each_object(example, "", &mut |path, object| {
            // The names of options are those of formats.
            if !path.ends_with("/options") {
                names.extend(object.as_object().unwrap().keys().cloned());
            }
        });
        let mut known = described(&schemas[name]);
        known.extend(described(&schemas["measure"]));
        let unknown: Vec<_> = names.difference(&known).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

/// The tables of docs/json.md have all names of cowhide's own reports.
#[test]
fn the_document_explains_each_name_of_our_own_reports() {
    let text = fs::read_to_string(folder().join("../json.md")).unwrap();
    for (name, schema) in &all() {
        if ["info", "map", "check", "measure"].contains(&name.as_str()) {
            continue;
        }
        for property in described(schema) {
            let is_told = text.contains(&format!("`{property}`"));
            assert!(
                is_told,
                "docs/json.md doesn't explain {property} of {name}.json"
            );
        }
    }
}

/// A reference of a schema is to something that there is.
#[test]
fn references_lead_somewhere() {
    let schemas = all();
    for (name, schema) in &schemas {
        each_object(schema, name, &mut |path, object| {
            let Some(target) = object.get("$ref").and_then(Value::as_str) else {
                return;
            };
            let (file, pointer) = target.split_once('#').unwrap_or((target, ""));
            let file = file.strip_suffix(".json").unwrap_or(name);
            assert!(schemas[file].pointer(pointer).is_some(), "{path}: {target}");
        });
    }
}
