//! The escape suite on the process driver: as root, and as an ordinary user.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command as HostCommand,
    sync::Arc,
};

use backlot_sandbox::process::{Options, ProcessDriver};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};

use super::{
    files, greed, network, processes,
    scene::{self, Host},
    system_calls,
};

/// Tells a test process that was started again as an ordinary user where its launcher is.
const LAUNCHER: &str = "BACKLOT_ESCAPE_LAUNCHER";
/// A user that no host has.
const USER: u32 = 61_873;

/// Runs one attack as the user the tests run as; only as root is this the root mode.
fn as_root<F: Future<Output = ()>>(attack: impl FnOnce(Host) -> F) {
    // Otherwise the other mode tests this user.
    if Uid::effective().is_root() {
        run(attack, true);
    }
}

/// Runs one attack as an ordinary user: as root in a process of its own that becomes one.
fn rootless<F: Future<Output = ()>>(name: &str, attack: impl FnOnce(Host) -> F) {
    if !Uid::effective().is_root() {
        return run(attack, false);
    }
    // The build directory may be closed to that user.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = place.path().join(name);
        // A hard link where that is possible: the files are large.
        fs::hard_link(from, &to).or_else(|_| fs::copy(from, &to).map(drop)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let launcher = copy(env!("CARGO_BIN_EXE_backlot-sandbox-launcher").as_ref(), "launcher");
    let probe = copy(&scene::probe(), "probe");
    // A host may let root only open the device, which says nothing about the driver: the process sees another one.
    let device = CString::new(place.path().join("tun").into_os_string().into_encoded_bytes()).unwrap();
    let mut command = HostCommand::new(tests);
    command
        .args(["--exact", &format!("escape::modes::{name}::rootless"), "--nocapture"])
        .current_dir("/")
        .env(LAUNCHER, launcher)
        .env(scene::PROBE, probe);
    let become_user = move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mknod(device.as_c_str(), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200))?;
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            device.as_c_str(),
            Mode::from_bits_truncate(0o666),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
        mount(Some(device.as_c_str()), "/dev/net/tun", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        setgroups(&[])?;
        setgid(Gid::from_raw(USER))?;
        setuid(Uid::from_raw(USER))?;
        Ok(())
    };
    // SAFETY: nothing but system calls, on strings that were made before.
    #[expect(unsafe_code, reason = "becoming another user comes between fork and exec")]
    unsafe {
        command.pre_exec(become_user);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    assert!(output.status.success() && text.contains("1 passed"), "as an ordinary user:\n{text}");
}

fn run<F: Future<Output = ()>>(attack: impl FnOnce(Host) -> F, root: bool) {
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let launcher =
            std::env::var(LAUNCHER).unwrap_or_else(|_| env!("CARGO_BIN_EXE_backlot-sandbox-launcher").into());
        let driver = ProcessDriver::start(Options::new(launcher.into(), Vec::new(), state.path().to_owned())).unwrap();
        attack(Host { driver: Arc::new(driver), whole_sandbox_limits: root }).await;
    });
}

/// One test per attack and mode.
macro_rules! escapes {
    ($($module:ident: $($attack:ident),+;)+) => {$($(
        mod $attack {
            #[test]
            fn root() {
                super::as_root(super::$module::$attack);
            }

            #[test]
            fn rootless() {
                super::rootless(stringify!($attack), super::$module::$attack);
            }
        }
    )+)+};
}

escapes! {
    files: host_files_are_out_of_reach, nothing_of_the_host_can_be_written, links_do_not_lead_out, no_descriptor_leaks,
        setuid_programs_give_nothing;
    network: the_host_and_private_networks_are_out_of_reach, datagrams_do_not_reach_the_host,
        unix_sockets_of_the_host_are_out_of_reach, a_flood_of_the_network_is_bounded;
    system_calls: the_kernels_interfaces_are_refused, other_architectures_calls_are_fatal;
    processes: others_are_invisible, signals_reach_nobody_else, daemonised_children_end_with_the_program,
        a_deaf_program_is_killed, a_fork_bomb_ends, dropping_ends_everything;
    greed: processes_are_counted, memory_is_counted, memory_is_counted_together, hidden_memory_is_counted, disk_is_counted, output_is_capped,
        unread_output_holds_nobody_up, open_files_are_counted, busy_loops_end;
}
