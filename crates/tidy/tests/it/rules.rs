//! Each rule on a small tree that breaks it, and on one that does not.

use backlot_tidy::{Tree, domain, edges, faces, files, names, rust, tables, words};

const LIB: (&str, &str) = ("crates/domain/src/lib.rs", "//! ```text\n//! accounts ◄ runs ◄ models\n//! ```\n");
const PAGE: (&str, &str) = ("ARCHITECTURE.md", "```\naccounts ◄ runs ◄ models\n```\n");

/// The offences must be as many as the pieces, each with its piece in it.
#[track_caller]
fn assert_offences(offences: &[String], pieces: &[&str]) {
    let matches =
        offences.len() == pieces.len() && offences.iter().zip(pieces).all(|(line, piece)| line.contains(piece));
    assert!(matches, "expected {pieces:#?}, got {offences:#?}");
}

#[test]
fn domain_folders_look_to_the_left() {
    let offences = domain::order(&Tree::of([
        LIB,
        PAGE,
        (
            "crates/domain/src/accounts/mod.rs",
            "//! [`crate::models`] is fine in a comment.\nuse crate::{Error, models::Models};\n",
        ),
        ("crates/domain/src/assemble.rs", "use crate::{accounts, models, runs};\n"),
        ("crates/domain/src/error.rs", "type E = crate::runs::Error;\n"),
        ("crates/domain/src/extra/mod.rs", "//! New.\n"),
        ("crates/domain/src/models/mod.rs", "use crate::{accounts, runs}; use crate::models::x;\n"),
        ("crates/domain/src/runs/store.rs", "//! x\nfn f() {\n    super::super::models::f()\n}\n"),
    ]));
    assert_offences(
        &offences,
        &["src/extra", "accounts/mod.rs:2: `models`", "error.rs:1: `runs`", "runs/store.rs:3: `models`"],
    );
    let other_page = ("ARCHITECTURE.md", "runs ◄ accounts ◄ models\n");
    assert_offences(&domain::order(&Tree::of([LIB, other_page])), &["ARCHITECTURE.md"]);
    assert_offences(&domain::order(&Tree::of([PAGE])), &["no line says the order"]);
}

#[test]
fn the_domain_does_not_speak_http() {
    let offences = domain::http(&Tree::of([
        (
            "crates/domain/src/a.rs",
            "//! axum\nuse axum::Router;\nfn f() -> http::StatusCode {}\nlet axumatic = \"axum\";\n",
        ),
        ("crates/faces/src/a.rs", "use axum::Router;\n"),
    ]));
    assert_offences(&offences, &["a.rs:2: `axum`", "a.rs:3: `StatusCode`"]);
}

#[test]
fn chance_is_an_argument_of_the_domain() {
    let offences = domain::chance(&Tree::of([
        (
            "crates/domain/src/a.rs",
            "//! OsRng\nlet x: u64 = rand::random();\n#[cfg(test)]\nmod tests { rand::rng() }\n",
        ),
        ("crates/domain/src/ids.rs", "OsRng.fill_bytes(bytes)"),
        ("crates/models/src/a.rs", "rand::random()"),
    ]));
    assert_offences(&offences, &["a.rs:2: `rand::random`"]);
}

#[test]
fn faces_do_not_know_each_other() {
    let offences = faces::offences(&Tree::of([
        ("crates/faces/src/lib.rs", "use crate::{castari, caster};\n"),
        ("crates/faces/src/castari/mod.rs", "use crate::{caster::User, http::Json};\nuse crate::castari::x;\n"),
        ("crates/faces/src/caster/mod.rs", "use super::castari;\n"),
        ("crates/faces/src/http/mod.rs", "use crate::caster;\n"),
    ]));
    assert_offences(&offences, &["castari/mod.rs:1", "caster/mod.rs:1", "http/mod.rs:1"]);
}

#[test]
fn a_table_is_named_by_its_owner_alone() {
    let migration = "-- Runs. Owner: domain/runs; model_calls: domain/models.\nCREATE TABLE runs (id TEXT);\n\
                     CREATE UNLOGGED TABLE model_calls (id TEXT); -- CREATE TABLE none\n";
    let offences = tables::owners(&Tree::of([
        ("crates/db/migrations/postgres/0001.sql", migration),
        ("crates/db/migrations/postgres/0002.sql", "CREATE TABLE orphans (id TEXT);\n"),
        ("crates/db/migrations/postgres/0003.sql", "CREATE INDEX i ON runs (id);\n"),
        ("crates/domain/src/models/store.rs", "f(\"SELECT * FROM model_calls JOIN runs USING (id)\");\n"),
        (
            "crates/domain/src/runs/mod.rs",
            "//! FROM runs\nf(\"away FROM home\");\nf(\"\n  DELETE FROM runs\");\nf(\"FROM {table}\");\n",
        ),
        ("crates/domain/src/runs/store.rs", "f(\"UPDATE runs SET x = 1\");\n"),
        ("crates/faces/src/x.rs", "fn f() {}\n#[cfg(test)]\nmod tests { f(\"SELECT 1 FROM runs\"); }\n"),
    ]));
    assert_offences(
        &offences,
        &["0002", "models/store.rs:1: the table `runs`", "runs/mod.rs:3: the table `runs`", "runs/mod.rs:5"],
    );
    let no_store = Tree::of([("crates/db/migrations/postgres/0001.sql", "-- Owner: domain/x.\nCREATE TABLE t (\n")]);
    assert_offences(&tables::owners(&no_store), &["has no crates/domain/src/x/store.rs"]);
}

#[test]
fn migrations_come_in_pairs() {
    let offences = tables::migrations(&Tree::of([
        ("crates/db/migrations/postgres/0001.sql", ""),
        ("crates/db/migrations/sqlite/0001.sql", ""),
        ("crates/db/migrations/sqlite/0002.sql", ""),
    ]));
    assert_offences(&offences, &["sqlite/0002.sql"]);
}

#[test]
fn crates_use_the_rings_below() {
    let lints = "\n[lints]\nworkspace = true\n";
    let [db, faces, extra] = [
        format!(
            "[dependencies]\nbacklot-domain.workspace = true\n[dev-dependencies]\nbacklot-testkit.workspace = true{lints}"
        ),
        format!("[dependencies]\nbacklot-domain.workspace = true\naxum = \"1\"{lints}"),
        lints.to_owned(),
    ];
    let offences = edges::offences(&Tree::of([
        ("crates/blobs/Cargo.toml", "[package]\n"),
        ("crates/db/Cargo.toml", &db),
        ("crates/extra/Cargo.toml", &extra),
        ("crates/faces/Cargo.toml", &faces),
        ("crates/models/Cargo.toml", "[dependencies\n"),
    ]));
    assert_offences(
        &offences,
        &["blobs/Cargo.toml: `[lints]", "`db` may not use `domain`", "extra", "models/Cargo.toml"],
    );
}

#[test]
fn modules_have_names_that_say_something() {
    let offences = names::offences(&Tree::of([
        ("crates/a/src/util.rs", ""),
        ("crates/a/src/json_utils/mod.rs", ""),
        ("crates/a/src/common/x.rs", ""),
        ("crates/a/src/page.rs", ""),
        ("crates/a/templates/utils.mjs", ""),
    ]));
    assert_offences(&offences, &["common", "json_utils", "util.rs"]);
}

#[test]
fn files_open_with_what_they_are() {
    let offences = rust::opening(&Tree::of([
        ("crates/a/src/good.rs", "//! Good.\n"),
        ("crates/a/src/bad.rs", "// Bad.\n//! Late.\n"),
        ("crates/a/tests/it/main.rs", "mod x;\n"),
    ]));
    assert_offences(&offences, &["bad.rs"]);
}

#[test]
fn every_file_is_somebodys_module() {
    let offences = rust::forgotten(&Tree::of([
        ("crates/a/src/bin/tool.rs", ""),
        ("crates/a/src/deep/lost.rs", ""),
        ("crates/a/src/deep/mod.rs", "//! mod lost;\npub(crate) mod found;\n"),
        ("crates/a/src/deep/found.rs", ""),
        ("crates/a/src/lib.rs", "mod deep;\nmod lostandfound;\n"),
        ("crates/a/src/lost.rs", ""),
        ("crates/a/tests/it/main.rs", "mod here;\n"),
        ("crates/a/tests/it/here.rs", ""),
        ("crates/a/tests/it/there.rs", ""),
        ("crates/a/tests/it/folder/mod.rs", ""),
        ("crates/a/tests/own_program.rs", ""),
    ]));
    assert_offences(
        &offences,
        &["deep/lost.rs", "src/lost.rs", "it/folder/mod.rs: no file declares `mod folder;`", "it/there.rs"],
    );
}

#[test]
fn exceptions_are_expected() {
    let offences = rust::exceptions(&Tree::of([(
        "crates/a/src/lib.rs",
        "#![allow(dead_code)]\n// #[allow(x)]\n#[expect(x, reason = \"#[allow(x)]\")]\n    #[allow(x)]\n",
    )]));
    assert_offences(&offences, &["lib.rs:1", "lib.rs:4"]);
}

#[test]
fn nothing_names_one_machine_or_one_registry() {
    let path = ["see /wo", "rk/x"].concat();
    let registry = ["a\nhttps://py", "pi.org/simple"].concat();
    let offences = words::offences(&Tree::of([("Cargo.lock", &registry), ("README.md", &path), ("run", &registry)]));
    assert_offences(&offences, &["README.md:1", "run:2"]);
}

#[test]
fn examples_and_scripts_can_be_used() {
    let tree = Tree::of([
        ("examples/a/README.md", ""),
        ("examples/b/main.py", ""),
        ("quickstart", "#!/bin/sh\n"),
        ("x.md", ""),
    ]);
    assert_offences(&files::examples(&tree), &["examples/b"]);
    assert_offences(&files::scripts(&tree), &["run-tests: missing", ".ci/run: missing", "quickstart: begins with #!"]);
}
