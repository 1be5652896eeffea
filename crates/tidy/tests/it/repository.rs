//! All rules on this repository.

use std::path::Path;

use backlot_tidy::{RULES, Tree};

#[test]
fn keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository");
    let tree = Tree::read(&root).expect("readable files");
    assert!(tree.sources().count() > 100, "the walk found next to nothing below {}", root.display());
    let mut report = String::new();
    for (sentence, rule) in RULES {
        let offences = rule(&tree);
        if !offences.is_empty() {
            report.push_str(&format!("\n{sentence}:\n  {}\n", offences.join("\n  ")));
        }
    }
    assert!(report.is_empty(), "{report}");
}
