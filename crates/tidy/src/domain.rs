//! Rules inside `crates/domain`: the order of its folders, that it does not know HTTP, and that chance is an argument.

use crate::{
    Tree,
    rust::{Source, names_after},
};

const DOMAIN: &str = "crates/domain/src/";
/// Root files that may name every folder: they connect them.
const CONNECTING: [&str; 2] = ["lib.rs", "assemble.rs"];

/// The order of the folders, as a line of `text` with `◄` between them says it, leftmost first.
fn declared(text: &str) -> Option<Vec<&str>> {
    let line = text.lines().find(|line| line.contains('◄'))?;
    Some(line.trim_start_matches("//!").split('◄').map(str::trim).collect())
}

/// A folder uses those to its left only; the other root files use none. The order is said in `lib.rs` and in
/// `ARCHITECTURE.md`, and a new folder must get its place in both.
pub fn order(tree: &Tree) -> Vec<String> {
    let Some(order) = tree.text("crates/domain/src/lib.rs").and_then(declared) else {
        return vec![String::from("crates/domain/src/lib.rs: no line says the order of the folders, as in `a ◄ b`")];
    };
    let mut offences = Vec::new();
    if tree.text("ARCHITECTURE.md").and_then(declared).as_ref() != Some(&order) {
        offences.push(String::from(
            "ARCHITECTURE.md: the order of the domain's folders is not that of crates/domain/src/lib.rs",
        ));
    }
    for folder in tree.folders(DOMAIN) {
        if !order.contains(&folder) {
            offences
                .push(format!("{DOMAIN}{folder}: this folder has no place in the order of crates/domain/src/lib.rs"));
        }
    }
    for (path, text) in tree.rust(DOMAIN) {
        let inside = path.trim_start_matches(DOMAIN);
        if CONNECTING.contains(&inside) {
            continue;
        }
        let own = inside.split_once('/').map(|(folder, _)| folder);
        let allowed = match own.and_then(|own| order.iter().position(|folder| *folder == own)) {
            Some(place) => &order[..=place],
            None => &[],
        };
        let code = Source::scan(text).code;
        // `super::super::` and so on lead out of the folder, too.
        for (line, name) in ["crate::", "super::"].iter().flat_map(|prefix| names_after(&code, prefix)) {
            if order.contains(&name) && !allowed.contains(&name) {
                offences.push(format!(
                    "{path}:{line}: `{name}` is not to the left of `{}`; turn the dependency round, or let lib.rs's \
                     assemble connect them",
                    own.unwrap_or("the root")
                ));
            }
        }
    }
    offences
}

/// The domain fails without knowing HTTP: no server library, no status codes.
pub fn http(tree: &Tree) -> Vec<String> {
    const FOREIGN: [&str; 6] = ["axum", "hyper", "tower", "tower_http", "utoipa", "StatusCode"];
    let mut offences = Vec::new();
    for (path, text) in tree.rust("crates/domain/") {
        let code = Source::scan(text).code;
        for (number, line) in code.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            for word in words.filter(|word| FOREIGN.contains(word)) {
                offences.push(format!("{path}:{}: `{word}` belongs to a face", number + 1));
            }
        }
    }
    offences
}

/// Chance arrives as `Ids`, so that tests can repeat it; `ids.rs` is where it comes from. (For time, `clippy.toml` says
/// the same.)
pub fn chance(tree: &Tree) -> Vec<String> {
    const SOURCES: [&str; 7] =
        ["rand::random", "rand::rng", "thread_rng", "OsRng", "from_os_rng", "Ulid::new", "getrandom"];
    let mut offences = Vec::new();
    for (path, text) in tree.rust(DOMAIN).filter(|(path, _)| !path.ends_with("/src/ids.rs")) {
        let source = Source::scan(text);
        for (number, line) in source.product().lines().enumerate() {
            for word in SOURCES.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{path}:{}: `{word}`: take `Ids` as an argument", number + 1));
            }
        }
    }
    offences
}
