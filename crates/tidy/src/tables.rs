//! Rules for the database: one owner per table, and the same migrations for both engines.
//!
//! The first lines of a migration say who owns its tables: `Owner: domain/runs; model_calls: domain/models.`

use std::collections::BTreeMap;

use crate::{Tree, rust::Source};

const POSTGRES: &str = "crates/db/migrations/postgres/";
const SQLITE: &str = "crates/db/migrations/sqlite/";
/// Words of SQL that stand before the name of a table. Upper case, as all SQL here, so that prose is not meant.
const BEFORE_TABLE: [&str; 5] = ["FROM", "INTO", "JOIN", "UPDATE", "TABLE"];

/// Every table with its owning folder, such as `domain/runs`.
fn declared(tree: &Tree, offences: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for (path, file) in tree.files().filter(|(path, _)| path.starts_with(POSTGRES)) {
        let head: String = file.text.lines().take_while(|line| line.starts_with("--")).collect();
        let Some((_, says)) = head.split_once("Owner:") else {
            if !created(&file.text).is_empty() {
                offences.push(format!("{path}:1: the head does not say `Owner: domain/….`"));
            }
            continue;
        };
        let mut parts = says.trim().trim_end_matches('.').split(';').map(str::trim);
        let general = parts.next().unwrap_or_default();
        let single: BTreeMap<&str, &str> =
            parts.filter_map(|part| part.split_once(':').map(|(table, owner)| (table.trim(), owner.trim()))).collect();
        for table in created(&file.text) {
            owners.insert(table.to_owned(), (*single.get(table).unwrap_or(&general)).to_owned());
        }
    }
    owners
}

/// The tables that a migration makes.
fn created(sql: &str) -> Vec<&str> {
    let without_comments = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
    without_comments
        .filter(|line| line.trim_start().starts_with("CREATE"))
        .filter_map(|line| {
            let after = line.split_once("TABLE ")?.1;
            let after = after.trim_start().strip_prefix("IF NOT EXISTS").unwrap_or(after);
            after.split(|c: char| c.is_whitespace() || c == '(').find(|word| !word.is_empty())
        })
        .collect()
}

/// Only the `store.rs` of the owner (or a file of its `store/`) names a table in SQL; tests of a file may, too.
pub fn owners(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    let owners = declared(tree, &mut offences);
    for owner in owners.values() {
        let store = store_of(owner);
        if !tree.has(&format!("{store}.rs")) && !tree.has(&format!("{store}/mod.rs")) {
            offences.push(format!("{POSTGRES}: the owner `{owner}` has no {store}.rs"));
        }
    }
    for (path, text) in tree.sources() {
        let source = Source::scan(text);
        let last = source.product_lines();
        for (line, text) in source.texts.iter().filter(|(line, _)| *line <= last) {
            let words: Vec<&str> = text
                .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '{')
                .filter(|word| !word.is_empty())
                .collect();
            for pair in words.windows(2).filter(|pair| BEFORE_TABLE.contains(&pair[0])) {
                if pair[1].starts_with('{') && pair[0] != "UPDATE" {
                    offences.push(format!("{path}:{line}: a table named by a variable has no visible owner"));
                }
                let Some(owner) = owners.get(pair[1]) else { continue };
                let store = store_of(owner);
                if path != format!("{store}.rs") && !path.starts_with(&format!("{store}/")) {
                    offences.push(format!("{path}:{line}: the table `{}` belongs to {owner}; ask it", pair[1]));
                }
            }
        }
    }
    offences
}

/// `domain/runs` → `crates/domain/src/runs/store`.
fn store_of(owner: &str) -> String {
    let (krate, folder) = owner.split_once('/').unwrap_or(("domain", owner));
    format!("crates/{krate}/src/{folder}/store")
}

/// Every migration exists for both engines under the same name.
pub fn migrations(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (here, there) in [(POSTGRES, SQLITE), (SQLITE, POSTGRES)] {
        for (path, _) in tree.files() {
            if let Some(name) = path.strip_prefix(here)
                && !tree.has(&format!("{there}{name}"))
            {
                offences.push(format!("{path}: there is no {there}{name}"));
            }
        }
    }
    offences
}
