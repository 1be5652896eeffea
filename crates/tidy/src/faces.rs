//! Rules inside `crates/faces`: faces do not know each other, and the floor under them knows none of them.

use crate::{
    Tree,
    rust::{Source, names_after},
};

const FACES: &str = "crates/faces/src/";
/// The folder that every face stands on.
const FLOOR: &str = "http";

/// A face uses itself and the floor; the floor uses itself. Only `lib.rs` names them all.
pub fn offences(tree: &Tree) -> Vec<String> {
    let folders = tree.folders(FACES);
    let mut offences = Vec::new();
    for (path, text) in tree.rust(FACES) {
        let Some((own, _)) = path.trim_start_matches(FACES).split_once('/') else { continue };
        let code = Source::scan(text).code;
        for (line, name) in ["crate::", "super::"].iter().flat_map(|prefix| names_after(&code, prefix)) {
            if folders.contains(&name) && name != own && name != FLOOR && !is_within(tree, own, name) {
                offences.push(format!(
                    "{path}:{line}: the face `{own}` uses the face `{name}`; share a domain method instead"
                ));
            }
        }
    }
    offences
}

/// Whether a face has a module of that name itself.
fn is_within(tree: &Tree, own: &str, name: &str) -> bool {
    tree.has(&format!("{FACES}{own}/{name}.rs")) || tree.has(&format!("{FACES}{own}/{name}/mod.rs"))
}
