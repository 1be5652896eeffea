//! The sandbox launcher as a program of its own, for tests, examples and benchmarks. The `backlot` binary has the
//! same entry as a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    backlot_sandbox::process::launcher_main()
}
