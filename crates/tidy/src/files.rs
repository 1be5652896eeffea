//! Rules for what lies around the code: examples and scripts.

use crate::Tree;

/// The commands that the README and the CI name.
const COMMANDS: [&str; 3] = ["quickstart", "run-tests", ".ci/run"];

/// Every folder of `examples/` says what it is.
pub fn examples(tree: &Tree) -> Vec<String> {
    tree.folders("examples/")
        .into_iter()
        .filter(|name| !tree.has(&format!("examples/{name}/README.md")))
        .map(|name| format!("examples/{name}: there is no README.md"))
        .collect()
}

/// Commands can be called, and what begins with `#!` is a command.
pub fn scripts(tree: &Tree) -> Vec<String> {
    let mut offences: Vec<String> =
        COMMANDS.into_iter().filter(|path| !tree.has(path)).map(|path| format!("{path}: missing")).collect();
    for (path, file) in tree.files() {
        let is_command = file.text.starts_with("#!/");
        if is_command != file.is_executable {
            offences.push(match is_command {
                true => format!("{path}: begins with #! and is not executable (chmod +x)"),
                false => format!("{path}: is executable and does not say with what (#!), or should not be (chmod -x)"),
            });
        }
    }
    offences
}
