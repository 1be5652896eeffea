//! The rules of `ARCHITECTURE.md` as functions over the files of the repository.
//!
//! What `Cargo.toml` edges and `deny.toml` cannot say is said here. Every rule is a function from a [`Tree`] to a list of
//! offences, one line each, with the place and what to do; `tests/it/repository.rs` runs all of them on this repository,
//! and `tests/it/rules.rs` shows each of them failing on a small tree that breaks it, so that none falls silent unnoticed.
//!
//! To add a rule: a function in the file it belongs to, an entry in [`RULES`], and a tree that breaks it.

pub mod domain;
pub mod edges;
pub mod faces;
pub mod files;
pub mod names;
pub mod rust;
pub mod tables;
mod tree;
pub mod words;

pub use tree::{File, Tree};

/// A rule: what offends against it, one line each.
pub type Rule = fn(&Tree) -> Vec<String>;

/// Every rule with the sentence it keeps.
pub const RULES: &[(&str, Rule)] = &[
    ("a crate uses only the rings below it", edges::offences),
    ("a domain folder uses only those to its left", domain::order),
    ("the domain does not know HTTP", domain::http),
    ("chance is an argument of the domain", domain::chance),
    ("faces do not know each other", faces::offences),
    ("a table has one owner", tables::owners),
    ("both engines have the same migrations", tables::migrations),
    ("no module is called util, common, helpers, misc or types", names::offences),
    ("every source file opens with what it is", rust::opening),
    ("no source or test file is forgotten", rust::forgotten),
    ("exceptions from lints are expected, with a reason", rust::exceptions),
    ("nothing names one machine or one package registry", words::offences),
    ("every example has a README", files::examples),
    ("scripts are executable", files::scripts),
];
