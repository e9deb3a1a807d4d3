//! PostgreSQL primary and streaming replica for one test, which may kill, pause and restart them.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Command,
};

use db::{Db, query};
use tempfile::TempDir;

use crate::{free_port, signal};

/// Settings of both servers. Data must survive a kill of the process, not of the machine.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
shared_buffers = 32MB
wal_retrieve_retry_interval = 100ms
";

/// Primary and streaming replica, on free ports. Killed when dropped.
#[derive(Debug)]
pub struct Replication {
    /// The primary.
    pub primary: PostgresServer,
    /// Its replica.
    pub replica: PostgresServer,
    _folder: TempDir,
}

impl Replication {
    /// Starts both servers. A set `TEST_POSTGRES_URL` is only a sign that PostgreSQL is installed. If it is
    /// not set, prints that the test is skipped and returns `None`.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn start() -> Option<Self> {
        if std::env::var_os("TEST_POSTGRES_URL").is_none() {
            report_skipped();
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let primary = PostgresServer::at(folder.path().join("primary"));
        let replica = PostgresServer::at(folder.path().join("replica"));
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        let data = primary.data.display().to_string();
        let locale = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"];
        run(postgres("initdb").args(["--no-sync", "--pgdata", &data]).args(locale));
        let configuration = OpenOptions::new().append(true).open(primary.data.join("postgresql.conf"));
        let mut configuration = configuration.expect("initdb has written the configuration");
        configuration.write_all(SETTINGS.as_bytes()).expect("the configuration is written");
        primary.start();
        let source = format!("host=127.0.0.1 port={} user=postgres", primary.port);
        let data = replica.data.display().to_string();
        let copy = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", &source];
        run(postgres("pg_basebackup").args(["--pgdata", &data]).args(copy));
        replica.start();
        Some(Self { primary, replica, _folder: folder })
    }
}

/// PostgreSQL server of one test.
#[derive(Debug)]
pub struct PostgresServer {
    data: PathBuf,
    port: u16,
}

impl PostgresServer {
    fn at(data: PathBuf) -> Self {
        Self { data, port: free_port() }
    }

    /// Returns the URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Executes a statement in the database `postgres`.
    ///
    /// # Panics
    /// If it fails.
    pub async fn execute(&self, statement: &str) {
        let db = Db::open(&self.url("postgres"), 1).await.expect("the server answers");
        // `query` takes only static text. Leaking a short string per call is acceptable.
        let executed = query(Box::leak(statement.to_owned().into_boxed_str())).execute(&db).await;
        executed.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        db.close().await;
    }

    /// Changes settings of the running server.
    ///
    /// # Panics
    /// If the server refuses a setting.
    pub async fn set(&self, setting: &str) {
        self.execute(&format!("alter system set {setting}")).await;
        self.execute("select pg_reload_conf()").await;
    }

    /// Starts the server unless it runs, and waits until it accepts connections.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(&self) {
        if self.process_id().is_some() {
            return;
        }
        let data = self.data.display().to_string();
        let log = self.data.join("server.log").display().to_string();
        let options = format!("-p {}", self.port);
        let arguments =
            ["start", "--silent", "--wait", "--pgdata", &data, "--log", &log, "--options", &options];
        run(postgres("pg_ctl").args(arguments));
    }

    /// Kills the server with all of its processes.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill(&self) {
        let data = self.data.display().to_string();
        run(postgres("pg_ctl").args(["stop", "--silent", "--mode=immediate", "--pgdata", &data]));
    }

    /// Makes the replica a primary.
    ///
    /// # Panics
    /// If it is not a running replica.
    pub fn promote(&self) {
        let data = self.data.display().to_string();
        run(postgres("pg_ctl").args(["promote", "--silent", "--wait", "--pgdata", &data]));
    }

    /// Suspends all processes of the server. Its connections stay open and receive no reply.
    ///
    /// # Panics
    /// If it is not running.
    pub fn pause(&self) {
        self.signal_all("-STOP");
    }

    /// Continues a paused server.
    ///
    /// # Panics
    /// If it is not running.
    pub fn resume(&self) {
        self.signal_all("-CONT");
    }

    fn signal_all(&self, name: &str) {
        let main = self.process_id().expect("the server is running");
        signal(main, name);
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            // It may have ended: backends of closed connections do.
            let sent = Command::new("sh").args(["-c", "kill \"$0\" \"$1\" 2>&-", name, child]).status();
            sent.expect("there is a shell");
        }
    }

    fn process_id(&self) -> Option<u32> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.process_id().is_some() {
            self.resume();
            self.kill();
        }
    }
}

/// Returns a program of the newest PostgreSQL, run as another user if this one is root, which the server
/// refuses to run as.
fn postgres(program: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.max_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let path = newest.map_or_else(|| PathBuf::from(program), |entry| entry.path().join("bin").join(program));
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs a program whose output matters only if it fails. The output goes to a file, because a server that it
/// starts keeps the file open.
fn run(command: &mut Command) {
    let output = tempfile::tempfile().expect("a temporary file");
    let copy = output.try_clone().expect("a file can be opened twice");
    let mut read = output.try_clone().expect("a file can be opened twice");
    let status = command.stdout(copy).stderr(output).status().expect("PostgreSQL is installed");
    if !status.success() {
        let mut text = String::new();
        let rewound = std::io::Seek::rewind(&mut read);
        drop(rewound.and_then(|()| std::io::Read::read_to_string(&mut read, &mut text)));
        panic!("{command:?}: {status}\n{text}");
    }
}

#[expect(clippy::print_stdout, reason = "a test reports that it was skipped")]
fn report_skipped() {
    println!("skipped: TEST_POSTGRES_URL is not set (make engines)");
}
