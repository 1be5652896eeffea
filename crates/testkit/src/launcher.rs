//! The sandbox launcher inside the test program itself.
//!
//! In the product the launcher is a hidden subcommand of `backlot`. A test program has no subcommands, and cargo tells
//! a package only of its own binaries; so this looks at the arguments before `main`, while the process still has a
//! single thread, and becomes the launcher if it is asked to.
#![expect(unsafe_code, reason = "a function that runs before `main` is found by the linker through its section")]

use std::path::PathBuf;

/// The argument that asks for the launcher.
const ARGUMENT: &str = "backlot-test-sandbox-launcher";

// SAFETY: the section holds addresses of functions without arguments (those given are ignored by the calling
// convention), and the standard library has its arguments by then: its own entry in this section has a priority.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        let _code = backlot_sandbox::process::launcher_main();
        std::process::exit(0);
    }
}

/// The program and the arguments that start the launcher.
pub(crate) fn command() -> (PathBuf, Vec<String>) {
    // Named here so that the linker keeps it.
    std::hint::black_box(&BEFORE_MAIN);
    (std::env::current_exe().expect("a running program has a path"), vec![ARGUMENT.to_owned()])
}
