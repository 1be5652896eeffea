//! What Anthropic's models can do about thinking and structured answers, told from their names, and the
//! JSON Schema dialect of their structured answers.

use serde_json::{Map, Value, json};

/// Version in a name such as `claude-sonnet-4-5-20250929` or `claude-3-7-sonnet-latest`, if there is one.
fn version(model: &str) -> Option<(u32, u32)> {
    let parts = model.split("claude-").nth(1)?.split(['-', '.', '@', ':', '_']);
    let mut numbers = parts
        .skip_while(|part| part.parse::<u32>().is_err())
        .map_while(|part| part.parse::<u32>().ok().filter(|n| *n < 1000)); // eight digits are a date
    Some((numbers.next()?, numbers.next().unwrap_or(0)))
}

/// From 4.6 on, models choose how much they think (`thinking.type = adaptive`), and newer ones refuse a budget.
pub(super) fn thinks_adaptively(model: &str) -> bool {
    version(model).is_some_and(|version| version >= (4, 6))
}

/// Whether the model takes `output_config.format`. Structured answers came with 4.5, and with Opus 4.1.
pub(super) fn answers_by_schema(model: &str) -> bool {
    version(model).is_some_and(|version| version >= (4, 5) || (version == (4, 1) && model.contains("opus")))
}

/// A bound for answers whose request names none; Anthropic's format demands one.
pub(super) fn default_max_tokens(model: &str) -> u32 {
    match version(model) {
        Some((major, minor)) if (major, minor) < (3, 5) => 4096,
        Some((3, _)) => 8192,
        _ => 16384,
    }
}

/// Fits a schema to the dialect: objects closed, unsupported constraints moved into the description, where the
/// model still reads them (Anthropic's own SDKs do the same).
pub(super) fn closed(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => Value::Object(closed_object(members)),
        other => other.clone(),
    }
}

fn closed_object(members: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut dropped = Vec::new();
    for (name, value) in members {
        match name.as_str() {
            "properties" | "$defs" | "definitions" | "patternProperties" => {
                let inner = value.as_object().map(|inner| inner.iter().map(|(k, v)| (k.clone(), closed(v))).collect());
                out.insert(name.clone(), inner.map_or_else(|| value.clone(), Value::Object));
            }
            "anyOf" | "allOf" => {
                let inner = value.as_array().map(|inner| inner.iter().map(closed).collect());
                out.insert(name.clone(), inner.map_or_else(|| value.clone(), Value::Array));
            }
            "oneOf" => {
                let inner = value.as_array().map(|inner| inner.iter().map(closed).collect());
                out.insert("anyOf".into(), inner.map_or_else(|| value.clone(), Value::Array));
            }
            "items" => {
                out.insert(name.clone(), closed(value));
            }
            "minItems" if value.as_u64().is_some_and(|n| n <= 1) => {
                out.insert(name.clone(), value.clone());
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" | "minLength"
            | "maxLength" | "minItems" | "maxItems" | "uniqueItems" | "minProperties" | "maxProperties" => {
                dropped.push(format!("{name}: {value}"));
            }
            "additionalProperties" => {}
            _ => {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    if members.get("type").is_some_and(|kind| kind == "object") || members.contains_key("properties") {
        out.insert("additionalProperties".into(), json!(false));
    }
    if !dropped.is_empty() {
        let note = format!("{{{}}}", dropped.join(", "));
        let description = match out.get("description").and_then(Value::as_str) {
            Some(text) => format!("{text}\n\n{note}"),
            None => note,
        };
        out.insert("description".into(), Value::String(description));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_old_and_new_names() {
        for (name, expected) in [
            ("claude-3-haiku-20240307", Some((3, 0))),
            ("claude-3-7-sonnet-latest", Some((3, 7))),
            ("claude-sonnet-4-20250514", Some((4, 0))),
            ("claude-opus-4-1-20250805", Some((4, 1))),
            ("anthropic.claude-haiku-4-5-20251001-v1:0", Some((4, 5))),
            ("claude-sonnet-5", Some((5, 0))),
            ("anthropic/claude-opus-4.6", Some((4, 6))),
            ("claude-latest", None),
            ("gpt-4o", None),
        ] {
            assert_eq!(version(name), expected, "{name}");
        }
        assert!(thinks_adaptively("claude-opus-4-6") && !thinks_adaptively("claude-opus-4-5-20251101"));
        assert!(answers_by_schema("claude-opus-4-1") && !answers_by_schema("claude-sonnet-4-20250514"));
        assert_eq!(default_max_tokens("claude-3-haiku-20240307"), 4096);
    }

    #[test]
    fn schemas_are_closed_and_lost_constraints_are_told() {
        let schema = json!({"type": "object", "properties": {
            "n": {"type": "integer", "minimum": 1, "description": "how many"},
            "minimum": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "object", "properties": {}}]},
        }, "required": ["n"]});
        assert_eq!(
            closed(&schema),
            json!({"type": "object", "properties": {
                "n": {"type": "integer", "description": "how many\n\n{minimum: 1}"},
                "minimum": {"anyOf": [
                    {"type": "string", "description": "{maxLength: 3}"},
                    {"type": "object", "properties": {}, "additionalProperties": false},
                ]},
            }, "required": ["n"], "additionalProperties": false})
        );
    }
}
