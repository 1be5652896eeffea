//! The system calls that no program in a sandbox may make.
//!
//! Everything is allowed except a list: kernel interfaces that change mounts, namespaces, other processes, the
//! clock or the machine, and the exotic ones where kernel bugs are found. Agents run compilers, browsers and
//! interpreters, so a list of allowed calls would break them one kernel release later; the user namespace without
//! capabilities is the first wall, this is the second.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// Compiled once per launcher, installed in every init.
pub(super) struct Filters {
    always: Vec<BpfProgram>,
    without_group: BpfProgram,
}

/// Answered with EPERM, whatever the arguments.
const DENIED: &[libc::c_long] = &[
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // mounts and roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // namespaces
    libc::SYS_unshare,
    libc::SYS_setns,
    // the machine
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    // kernel programs, keys, tracing
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS__sysctl,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Answered with ENOSYS, on which libraries fall back to an older way that can be judged by its arguments
/// (`clone` for `clone3`, epoll for io_uring).
const ABSENT: &[libc::c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Absent as well where no control group limits memory: they make memory that belongs to no process, which measuring
/// the processes does not find. Libraries fall back to `/dev/shm`, whose size is limited.
const ABSENT_WITHOUT_GROUP: &[libc::c_long] = &[libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_shmget];

/// Everything that makes a namespace, for the flags of `clone` (a new time namespace is not among them).
const NEW_NAMESPACE: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The old way to packet sockets, a socket type of its own.
const SOCK_PACKET: libc::c_int = 10;

/// Values of `personality` that ordinary programs use: query, default, no address randomisation, 32-bit `uname`.
const PERSONALITIES: [u64; 4] = [0xffff_ffff, 0, 0x0004_0000, 0x0008];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    // 32 bits: these arguments are C ints, and the upper half of the register is the caller's to fill.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn unsigned(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn denied() -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut rules: Rules = DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
    let mut clone = Vec::new();
    for flag in NEW_NAMESPACE {
        clone.push(SeccompRule::new(vec![condition(0, MaskedEq(unsigned(flag)), unsigned(flag))?])?);
    }
    rules.insert(libc::SYS_clone, clone);
    // Sockets: local, internet, and the routing netlink that getifaddrs() reads. Nothing raw.
    let mut socket = vec![SeccompRule::new(vec![
        condition(0, Ne, unsigned(libc::AF_UNIX))?,
        condition(0, Ne, unsigned(libc::AF_INET))?,
        condition(0, Ne, unsigned(libc::AF_INET6))?,
        condition(0, Ne, unsigned(libc::AF_NETLINK))?,
    ])?];
    socket.push(SeccompRule::new(vec![
        condition(0, Eq, unsigned(libc::AF_NETLINK))?,
        condition(2, Ne, unsigned(libc::NETLINK_ROUTE))?,
    ])?);
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_RAW, SOCK_PACKET] {
            socket.push(SeccompRule::new(vec![
                condition(0, Eq, unsigned(family))?,
                condition(1, MaskedEq(0xf), unsigned(kind))?,
            ])?);
        }
    }
    rules.insert(libc::SYS_socket, socket);
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![condition(0, Ne, unsigned(libc::AF_UNIX))?])?]);
    // Typing into somebody's terminal.
    let mut ioctl = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD] {
        ioctl.push(SeccompRule::new(vec![condition(1, Eq, request & 0xffff_ffff)?])?);
    }
    rules.insert(libc::SYS_ioctl, ioctl);
    // The init has the programs' user id, so the kernel would let them take its open files and processes away.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![condition(0, Eq, 1)?])?]);
    let unusual = PERSONALITIES.iter().map(|value| condition(0, Ne, *value)).collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_personality, vec![SeccompRule::new(unusual)?]);
    Ok(rules)
}

impl Filters {
    /// Compiles for the architecture this was built for; calls of every other architecture kill the caller.
    pub(super) fn compile() -> Result<Self, seccompiler::BackendError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let compile = |rules: Rules, errno: libc::c_int| -> Result<BpfProgram, seccompiler::BackendError> {
            let action = SeccompAction::Errno(errno.cast_unsigned());
            SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
        };
        let absent =
            |calls: &[libc::c_long]| compile(calls.iter().map(|call| (*call, Vec::new())).collect(), libc::ENOSYS);
        let mut always = vec![compile(denied()?, libc::EPERM)?, absent(ABSENT)?];
        if cfg!(target_arch = "x86_64") {
            always.push(without_x32());
        }
        Ok(Self { always, without_group: absent(ABSENT_WITHOUT_GROUP)? })
    }

    /// Puts the filters on this thread and all that descends from it. `memory_grouped`: whether a control group limits
    /// its memory.
    pub(super) fn install(&self, memory_grouped: bool) -> Result<(), seccompiler::Error> {
        self.always.iter().try_for_each(|program| apply_filter(program))?;
        if memory_grouped { Ok(()) } else { apply_filter(&self.without_group) }
    }
}

/// The x32 calls have the architecture of x86-64 but other numbers, which would slip past every rule above.
fn without_x32() -> BpfProgram {
    let step = |code: u32, jt, jf, k| seccompiler::sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number is the first word of seccomp_data.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, 0x4000_0000),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_on_this_architecture() {
        assert!(Filters::compile().is_ok());
    }
}
