//! The test that the public interface of the library equals its listing under version control.
//!
//! The interface must not change by accident. `docs/public-interface.txt` is generated from the files of
//! `src/library` and from `src/error.rs`. To accept a change, run this test with `UPDATE_INTERFACE=1`.

use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Fields, ImplItem, Item, Meta, Visibility};

/// The listing, below the crate's root.
const LISTING: &str = "docs/public-interface.txt";

/// Returns the files that define the interface. The crate's root exports their public types.
fn files(root: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(root.join("src/library")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.push(root.join("src/error.rs"));
    files.sort();
    files
}

/// Returns the names that the crate's root exports.
fn public_names(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let uses = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub use "));
    let names = uses.flat_map(|line| {
        let list = line
            .trim_end_matches([';', '}'])
            .rsplit(['{', ':'])
            .next()
            .unwrap();
        list.split(", ").map(str::to_owned).collect::<Vec<_>>()
    });
    names.collect()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Returns true if the documentation leaves an item out, so that it isn't in the interface.
fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            let is_doc = list.path.is_ident("doc");
            let tokens = list.tokens.to_string().replace(' ', "");
            (is_doc && tokens == "hidden") || tokens.contains("doc(hidden)")
        }
        Meta::Path(_) | Meta::NameValue(_) => false,
    })
}

/// Removes the attributes that callers don't depend on.
fn bare(attributes: &mut Vec<Attribute>) {
    let kept = ["derive", "non_exhaustive", "must_use"];
    attributes.retain(|attribute| kept.iter().any(|name| attribute.path().is_ident(name)));
}

fn bare_fields(fields: &mut Fields) {
    fields.iter_mut().for_each(|field| bare(&mut field.attrs));
    if let Fields::Named(named) = fields {
        let kept = named
            .named
            .clone()
            .into_iter()
            .filter(|field| is_public(&field.vis));
        named.named = kept.collect();
    }
}

/// Returns the public part of an item, or `None` if it has none.
fn public_part(item: Item, names: &[String]) -> Option<Item> {
    let is_named = |name: &syn::Ident| names.iter().any(|public| name == public);
    match item {
        Item::Struct(mut item) if is_named(&item.ident) => {
            bare(&mut item.attrs);
            bare_fields(&mut item.fields);
            Some(Item::Struct(item))
        }
        Item::Enum(mut item) if is_named(&item.ident) => {
            bare(&mut item.attrs);
            item.variants
                .iter_mut()
                .for_each(|variant| bare(&mut variant.attrs));
            Some(Item::Enum(item))
        }
        Item::Type(mut item) if is_named(&item.ident) => {
            bare(&mut item.attrs);
            Some(Item::Type(item))
        }
        Item::Impl(item) if is_hidden(&item.attrs) => None,
        Item::Impl(mut item) => {
            let syn::Type::Path(path) = &*item.self_ty else {
                return None;
            };
            let name = &path.path.segments.last()?.ident;
            if !is_named(name) {
                return None;
            }
            bare(&mut item.attrs);
            let of_trait = item.trait_.is_some();
            item.items.retain_mut(|part| match part {
                ImplItem::Fn(function) if of_trait || is_public(&function.vis) => {
                    bare(&mut function.attrs);
                    function.block.stmts.clear();
                    true
                }
                ImplItem::Type(_) | ImplItem::Const(_) => of_trait,
                _ => false,
            });
            (of_trait || !item.items.is_empty()).then_some(Item::Impl(item))
        }
        _ => None,
    }
}

fn listing(root: &Path) -> String {
    let names = public_names(root);
    let mut text = String::new();
    for path in files(root) {
        let source = fs::read_to_string(&path).unwrap();
        let mut file = syn::parse_file(&source).unwrap();
        file.attrs.clear();
        let parts = file
            .items
            .into_iter()
            .filter_map(|item| public_part(item, &names));
        file.items = parts.collect();
        text += &prettyplease::unparse(&file);
    }
    text
}

#[test]
fn the_public_interface_is_the_one_that_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let now = listing(root);
    for name in public_names(root) {
        assert!(
            now.contains(&format!(" {name}")),
            "{name} isn't in the listing"
        );
    }
    let listed = root.join(LISTING);
    if std::env::var_os("UPDATE_INTERFACE").is_some() {
        fs::write(&listed, now).unwrap();
        return;
    }
    let listed = fs::read_to_string(listed).unwrap();
    assert!(
        listed == now,
        "the interface has changed; see this test for how to take that over"
    );
}

#[test]
fn no_type_of_another_crate_is_in_it() {
    let text = listing(Path::new(env!("CARGO_MANIFEST_DIR")));
    for name in [
        "clap", "serde", "anyhow", "rustix", "nix", "Storage", "Node",
    ] {
        assert!(!text.contains(name), "{name}");
    }
}
