//! The API document: committed, whole, and true.

use std::collections::BTreeSet;

use serde_json::Value;

fn documents() -> Vec<(&'static str, String)> {
    backlot_faces::openapi_documents()
}

#[test]
fn the_committed_openapi_documents_are_those_of_the_code() {
    for (path, text) in documents() {
        let committed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(&committed, &text).unwrap();
        }
        let found = std::fs::read_to_string(&committed).unwrap_or_default();
        assert!(found == text, "{path} is not up to date: UPDATE_OPENAPI=1 cargo test -p backlot-faces openapi");
    }
}

#[test]
fn references_resolve_and_names_are_unique() {
    for (path, text) in documents() {
        let document: Value = serde_json::from_str(&text).unwrap();
        let mut references = BTreeSet::new();
        collect_references(&document, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{path}: {reference} leaves the file"));
            assert!(document.pointer(pointer).is_some(), "{path}: {reference} leads nowhere");
        }
        let mut ids = BTreeSet::new();
        for (route, method, operation) in operations(&document) {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{path}: {method} {route} has no id"));
            assert!(ids.insert(id.to_owned()), "{path}: {id} twice");
            assert!(operation["summary"].is_string(), "{path}: {id} says nothing of itself");
            let variables: BTreeSet<_> =
                route.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            let declared = operation["parameters"].as_array().into_iter().flatten();
            let declared: BTreeSet<_> = declared
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(variables, declared, "{path}: {method} {route}");
        }
        assert!(!text.contains("http://") && !text.contains("https://localhost"), "{path} names a host");
    }
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                if let (true, Some(reference)) = (name == "$ref", value.as_str()) {
                    found.insert(reference.to_owned());
                }
                collect_references(value, found);
            }
        }
        _ => {}
    }
}

/// Route, method and operation of every operation.
pub(crate) fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (route, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if ["get", "post", "put", "patch", "delete"].contains(&method.as_str()) {
                all.push((route.clone(), method.to_uppercase(), operation.clone()));
            }
        }
    }
    all
}
