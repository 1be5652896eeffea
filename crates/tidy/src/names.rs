//! A rule for the names of modules.

use crate::Tree;

/// Names that say nothing about what is inside, so that everything ends up there.
fn says_nothing(name: &str) -> bool {
    name.starts_with("util")
        || name.ends_with("_util")
        || name.ends_with("_utils")
        || matches!(name, "common" | "helper" | "helpers" | "misc" | "types" | "stuff")
}

/// Files and folders of Rust code with such a name.
pub fn offences(tree: &Tree) -> Vec<String> {
    tree.rust("crates/")
        .filter(|(path, _)| path.trim_end_matches(".rs").split('/').any(says_nothing))
        .map(|(path, _)| {
            format!("{path}: this name says nothing; name it after what is inside, or move it to its only user")
        })
        .collect()
}
