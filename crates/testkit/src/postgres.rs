//! A PostgreSQL server for tests, started from the distribution's package and shared by all test processes.
//!
//! nextest runs every test in a process of its own, so the first process that needs the server starts it, and the
//! others find it. Nobody can be trusted to stop it, since tests get killed: a small shell script supervises it, and
//! ends it and removes its files when no test process has used it for some seconds. Processes that are gone are
//! noticed through file locks, which the kernel releases however they ended. If the script itself is killed, the server
//! dies with it, and the next start removes what is left.
//!
//! The server listens on a Unix socket in a folder that only its user may enter, flushes nothing, and never runs as
//! root: where the tests do, it runs as `postgres` or `nobody`.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use backlot_db::{Db, MIGRATIONS};

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// `$1` is the folder, `$2` the folder of the server's programs.
const SUPERVISOR: &str = r#"
exec 9<"$1/supervisor.lock" || exit 1
flock -n 9 || exit 0
setpriv --pdeathsig QUIT "$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off \
    -c synchronous_commit=off -c full_page_writes=off -c max_connections=400 -c shared_buffers=64MB \
    -c autovacuum=off -c max_wal_size=4GB -c wal_level=minimal -c max_wal_senders=0 >"$1/server.log" 2>&1 9<&- &
server=$!
quiet=0
while kill -0 "$server" 2>/dev/null; do
    sleep 1 9<&-
    quiet=$((quiet + 1))
    exec 8<"$1/start.lock"
    if flock -n 8; then
        if ! flock -n -x "$1/users.lock" true; then
            quiet=0
        elif [ "$quiet" -ge 10 ]; then
            kill -QUIT "$server"
            wait "$server"
            rm -rf "$1/data" "$1/server.log"
            exec 9<&-
            exit 0
        fi
    fi
    exec 8<&-
done
"#;

/// A database on the shared server, dropped with this value.
pub(crate) struct Database {
    server: &'static Server,
    name: String,
}

impl Database {
    /// A database with the current schema; nothing where PostgreSQL is not installed.
    pub(crate) async fn with_schema() -> Option<Self> {
        let server = Server::shared()?;
        let template = server.template().await;
        Some(Self::create(server, &template))
    }

    /// A database without any table; nothing where PostgreSQL is not installed.
    pub(crate) fn empty() -> Option<Self> {
        Some(Self::create(Server::shared()?, "template0"))
    }

    fn create(server: &'static Server, template: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        // The name may be left over from a killed process with our id.
        server.run("dropdb", &["--if-exists", "--force", &name]);
        server.run("createdb", &["--template", template, &name]);
        Self { server, name }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Unclean ends are the supervisor's business.
        let _may_fail = self.server.command("dropdb").args(["--if-exists", "--force", &self.name]).status();
    }
}

/// The shared server.
struct Server {
    folder: PathBuf,
    programs: PathBuf,
    /// Locked while this process lives.
    _in_use: File,
}

impl Server {
    fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER
            .get_or_init(|| {
                let Some(programs) = find_programs() else {
                    missing();
                    return None;
                };
                Some(Self::find_or_start(programs))
            })
            .as_ref()
    }

    fn find_or_start(programs: PathBuf) -> Self {
        let user = ServerUser::find();
        let folder = std::env::temp_dir().join(format!("backlot-test-postgres-{}", user.uid));
        if fs::create_dir(&folder).is_ok() {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
            user.give(&folder);
        }
        let starting = lock_file(&folder, "start.lock");
        starting.lock().expect("locks work here");
        let in_use = lock_file(&folder, "users.lock");
        in_use.lock_shared().expect("locks work here");
        let server = Self { folder, programs, _in_use: in_use };
        if lock_file(&server.folder, "supervisor.lock").try_lock().is_ok() {
            server.start(&user);
        }
        server
    }

    #[expect(clippy::zombie_processes, reason = "the supervisor outlives this process on purpose")]
    fn start(&self, user: &ServerUser) {
        let data = self.folder.join("data");
        let _may_be_absent = fs::remove_dir_all(&data);
        let mut initdb = self.command("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("-D")
            .arg(&data);
        user.assume(&mut initdb);
        succeed(&mut initdb);
        let mut supervisor = Command::new("sh");
        supervisor
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(&self.folder)
            .arg(&self.programs)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        user.assume(&mut supervisor);
        supervisor.spawn().expect("sh runs");
        let begun = Instant::now();
        while !self.command("pg_isready").arg("-q").status().is_ok_and(|status| status.success()) {
            let log = self.folder.join("server.log");
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start; see {}", log.display());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A database with the schema of this build, to be copied.
    async fn template(&self) -> String {
        let name = format!("schema_{:016x}", fingerprint());
        let starting = lock_file(&self.folder, "start.lock");
        starting.lock().expect("locks work here");
        let made = self.folder.join("data").join(format!("{name}.made"));
        if !made.exists() {
            self.run("dropdb", &["--if-exists", "--force", &name]);
            self.run("createdb", &["--template", "template0", &name]);
            let db = Db::open(&self.url(&name)).await.expect("the schema is created");
            db.close().await;
            File::create(&made).expect("the folder is ours");
        }
        name
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        succeed(self.command(program).args(arguments));
    }

    /// One of PostgreSQL's programs, told where the server is and nothing else.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PGHOST", &self.folder)
            .env("PGUSER", "postgres")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }
}

/// Who runs the server: us, or somebody without rights when we are root.
struct ServerUser {
    uid: u32,
    gid: u32,
    is_other: bool,
}

impl ServerUser {
    fn find() -> Self {
        use std::os::unix::fs::MetadataExt as _;
        // `/proc/self` belongs to whom this process runs as.
        let me = fs::metadata("/proc/self").expect("there is /proc");
        if me.uid() != 0 {
            return Self { uid: me.uid(), gid: me.gid(), is_other: false };
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ids_of = |user: &str| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
            let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        };
        let (uid, gid) = ids_of("postgres").or_else(|| ids_of("nobody")).unwrap_or((65_534, 65_534));
        Self { uid, gid, is_other: true }
    }

    fn give(&self, folder: &Path) {
        if self.is_other {
            std::os::unix::fs::chown(folder, Some(self.uid), Some(self.gid)).expect("root may give away");
        }
    }

    fn assume(&self, command: &mut Command) {
        if self.is_other {
            command.uid(self.uid).gid(self.gid);
        }
    }
}

/// The folder of the newest PostgreSQL: Debian and its children keep it outside of the path.
#[expect(clippy::disallowed_methods, reason = "programs are looked for as a shell would")]
fn find_programs() -> Option<PathBuf> {
    let version = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = installed.filter(|folder| folder.join("bin/initdb").exists()).max_by_key(|folder| version(folder));
    if let Some(newest) = newest {
        return Some(newest.join("bin"));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
#[expect(clippy::disallowed_methods, reason = "who runs the tests decides")]
fn missing() {
    let advice = "PostgreSQL is not installed (Debian, Ubuntu: apt install postgresql)";
    let is_required = std::env::var_os("BACKLOT_REQUIRE_POSTGRES").is_some_and(|value| value == "1");
    assert!(!is_required, "{advice}, and BACKLOT_REQUIRE_POSTGRES=1 forbids to skip its tests");
    eprintln!("SKIPPED on PostgreSQL: {advice}");
}

fn lock_file(folder: &Path, name: &str) -> File {
    let path = folder.join(name);
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Tells the schemas of different builds apart (FNV-1a).
fn fingerprint() -> u64 {
    let texts = MIGRATIONS.iter().flat_map(|migration| [migration.name, migration.postgres]);
    texts
        .flat_map(str::bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
