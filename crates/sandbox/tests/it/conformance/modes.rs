//! Every case on the process driver: as the user the tests run as, and, if that is root, as an ordinary user too.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command as HostCommand,
    sync::Arc,
};

use backlot_sandbox::process::{Options, ProcessDriver};

use super::{cases, stage::Stage};

/// Tells a test process that it was started again, as an ordinary user, and where its launcher is.
const LAUNCHER: &str = "BACKLOT_CONFORMANCE_LAUNCHER";
/// A user and group that no host has.
const USER: u32 = 65_533;

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// Runs a case as the present user.
pub(crate) fn here<F: Future<Output = ()>>(case: impl FnOnce(Stage) -> F) {
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let launcher = std::env::var(LAUNCHER).unwrap_or_else(|_| env!("CARGO_BIN_EXE_backlot-sandbox-launcher").into());
    runtime.block_on(async {
        let options = Options::new(launcher.into(), Vec::new(), state.path().to_owned());
        let driver = Arc::new(ProcessDriver::start(options).unwrap());
        case(Stage::new(driver)).await;
    });
}

/// Runs a test of this binary once more as an ordinary user.
pub(crate) fn as_user(test: &str) {
    // The build directory may be closed to that user.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &std::path::Path, name: &str| {
        let to = place.path().join(name);
        // A hard link where that is possible: the files are large.
        fs::hard_link(from, &to).or_else(|_| fs::copy(from, &to).map(drop)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let launcher = copy(env!("CARGO_BIN_EXE_backlot-sandbox-launcher").as_ref(), "launcher");
    let output = HostCommand::new(tests)
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .env(LAUNCHER, launcher)
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    assert!(output.status.success() && text.contains("1 passed"), "as an ordinary user:\n{text}");
}

macro_rules! conforms {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            #[test]
            fn here() {
                super::here(super::cases::$case);
            }

            #[test]
            fn rootless() {
                if super::is_root() {
                    super::as_user(concat!("conformance::modes::", stringify!($case), "::here"));
                }
            }
        }
    )+};
}

conforms! {
    exit_codes_and_signals_are_told,
    what_cannot_start_is_an_error_and_leaves_the_sandbox_usable,
    input_arrives_whole_and_ends,
    output_arrives_whole_and_in_order,
    output_is_streamed_while_the_program_runs,
    too_much_output_ends_the_program,
    too_much_error_output_is_dropped,
    past_its_time_a_program_is_asked_and_then_killed,
    a_program_can_be_killed,
    dropping_an_execution_kills_its_program,
    destroying_and_dropping_end_everything,
    a_second_program_has_to_wait,
    children_left_behind_end_with_the_program,
    a_fork_bomb_is_contained,
    memory_is_limited,
    disk_is_limited_everywhere,
    programs_in_turn_see_the_same_files,
    scratch_carries_over_to_the_next_sandbox,
    layers_are_stacked_and_never_change,
    what_a_sandbox_wrote_can_become_a_layer,
    host_paths_are_shown_where_asked_and_read_only,
    sandboxes_in_parallel_are_apart,
    the_environment_is_only_what_was_given,
    programs_run_as_the_agent_at_home,
    interpreters_start,
    what_was_used_is_told,
    a_slow_reader_holds_the_program_back_and_the_clock_still_runs,
    a_policy_that_cannot_be_meant_is_refused,
}
