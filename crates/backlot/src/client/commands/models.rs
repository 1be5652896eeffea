//! `backlot models`: the models that the server's gateway answers for, and in which wire format.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::Context;
use crate::client::error::Error;
use crate::client::output::{Head, Table};

/// Lists the models of both gateway dialects, one line per model.
pub(crate) async fn run(ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    let mut models: BTreeMap<String, (String, Vec<&str>)> = BTreeMap::new();
    for dialect in ["anthropic", "openai"] {
        for model in api.models(dialect).await? {
            let text = |name: &str| model.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let id = text("id");
            if id.is_empty() {
                continue;
            }
            let about =
                [text("display_name"), text("owned_by")].into_iter().find(|t| !t.is_empty()).unwrap_or_default();
            let entry = models.entry(id).or_default();
            if entry.0.is_empty() {
                entry.0 = about;
            }
            if !entry.1.contains(&dialect) {
                entry.1.push(dialect);
            }
        }
    }
    if ctx.out.json {
        let list = models.iter().map(|(id, (about, apis))| json!({"id": id, "description": about, "apis": apis}));
        return ctx.out.json(&Value::Array(list.collect()));
    }
    let mut table = Table::new(&[Head::Id("MODEL"), Head::Text("DESCRIPTION"), Head::Word("API")]);
    for (id, (about, apis)) in models {
        table.row([id, about, apis.join(", ")]);
    }
    ctx.out.table(
        &table,
        "No models. Fetch the local one with `backlot models pull`, or set ANTHROPIC_API_KEY for the server.",
    )
}
