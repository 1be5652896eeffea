//! A rule for every text file: it must hold on any machine, with any mirror.

use crate::Tree;

/// What no file may contain, with the reason. In pieces, so that this file itself does not contain it.
const FORBIDDEN: [(&[&str], &str); 12] = [
    (&["/wo", "rk/"], "a path of one machine"),
    (&["/ho", "me/user"], "a path of one machine"),
    (&["/ho", "me/runner"], "a path of one machine"),
    (&["/Us", "ers/"], "a path of one machine"),
    (&["/ro", "ot/."], "a path of one machine"),
    (&["crates", ".io"], REGISTRY),
    (&["py", "pi.org"], REGISTRY),
    (&["python", "hosted"], REGISTRY),
    (&["npm", "js."], REGISTRY),
    (&["registry", ".yarn"], REGISTRY),
    (&["deb.", "debian.org"], REGISTRY),
    (&["archive.", "ubuntu.com"], REGISTRY),
];
const REGISTRY: &str = "a package registry: the host's own settings decide where packages come from";

/// Lines with a forbidden word.
pub fn offences(tree: &Tree) -> Vec<String> {
    let forbidden = FORBIDDEN.map(|(pieces, reason)| (pieces.concat(), reason));
    let mut offences = Vec::new();
    for (path, file) in tree.files() {
        // cargo itself writes there which index it used.
        if path == "Cargo.lock" {
            continue;
        }
        // The escape suite tries to read what a host may have.
        let is_attack = path.starts_with("crates/sandbox/tests/it/escape/");
        for (number, line) in file.text.lines().enumerate() {
            for (word, reason) in &forbidden {
                if line.contains(word.as_str()) && !(is_attack && *reason != REGISTRY) {
                    offences.push(format!("{path}:{}: `{word}` is {reason}", number + 1));
                }
            }
        }
    }
    offences
}
