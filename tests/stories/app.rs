//! The program under test as a child process, on free ports and in a temporary folder; killed when dropped.

use std::{
    ops::Deref,
    os::unix::process::ExitStatusExt,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::endpoint::Endpoint;

/// Signal that ends a process at a failpoint.
pub const SIGABRT: i32 = 6;

/// A running `tidings serve`.
pub struct App {
    endpoint: Endpoint,
    /// `http://host:port` of the operations port, which serves `/metrics`.
    pub ops: String,
    pub folder: TempDir,
    /// Standard output so far.
    pub stdout: Arc<Mutex<String>>,
    child: Child,
}

/// Returns the path of the program under test: the build of these tests, or the one in `TIDINGS_PROGRAM`.
pub fn program() -> String {
    std::env::var("TIDINGS_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_tidings").to_owned())
}

impl Deref for App {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl App {
    /// Starts with an empty data folder.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[]).await
    }

    /// Starts with these environment variables.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings).await
    }

    /// Starts with an existing data folder.
    pub async fn start_in(folder: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::start_with_log(folder, settings, Stdio::inherit()).await
    }

    /// Starts with standard error, and so the log, going to `log`.
    pub async fn start_with_log(folder: TempDir, settings: &[(&str, &str)], log: Stdio) -> Self {
        let mut command = Command::new(program());
        command.stderr(log);
        Self::start_by(command, folder, settings).await
    }

    /// Starts by a command that ends in the program.
    pub async fn start_by(mut command: Command, folder: TempDir, settings: &[(&str, &str)]) -> Self {
        command.env("DATA_DIR", folder.path()).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
        command.env("LOG_FORMAT", "json").env("RUST_LOG", "warn,tidings=info");
        // The tests sign in often from one address. Tests of the rate limits override this.
        command.env("RATE_LIMIT_REQUESTS", "0").env("RATE_LIMIT_SIGN_IN", "0").envs(settings.iter().copied());
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(Duration::from_secs(30), lines.next_line()).await.expect("addresses within 30 s");
        let line = line.unwrap().expect("the program prints its addresses before it exits");
        let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| addresses[name].as_str().unwrap().to_owned();
        let url = address("url");
        let ops = address("operations");
        let stdout = Arc::new(Mutex::new(line));
        let written = Arc::clone(&stdout);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().push_str(&line);
            }
        });
        let endpoint = Endpoint { second_url: url.clone(), url, login_suffix: String::new() };
        Self { endpoint, ops, folder, stdout, child }
    }

    /// Returns the process id.
    pub fn process_id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Returns the resident memory of the process, without pages of files.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Kills the process with SIGKILL and returns its data folder.
    pub async fn kill(mut self) -> TempDir {
        self.child.kill().await.unwrap();
        self.folder
    }

    /// Waits until the process crashes at the failpoint that it was started with. Returns the data folder.
    pub async fn crash(mut self) -> TempDir {
        let status = timeout(Duration::from_secs(60), self.child.wait()).await;
        let status =
            status.expect("a crash at the failpoint: is the program built with failpoints?").unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "exit status at a failpoint: {status}");
        self.folder
    }

    /// Stops the process with SIGTERM. Returns the data folder and the time until it exited successfully.
    pub async fn stop(mut self) -> (TempDir, Duration) {
        let started = Instant::now();
        testkit::signal(self.child.id().unwrap(), "-TERM");
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "exit status after SIGTERM: {status}");
        (self.folder, started.elapsed())
    }

    /// Returns the value of a metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, |_| true).await
    }

    /// Returns the number of calls to services that operations have caused. The gateway itself asks auth
    /// every second for the sessions that have ended.
    pub async fn calls(&self) -> f64 {
        self.metric_of("grpc_client_calls_total", |labels| !labels.contains("\"RevokedSince\"")).await
    }

    async fn metric_of(&self, name: &str, is_counted: impl Fn(&str) -> bool) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.ops)).await.unwrap().text().await.unwrap();
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| is_counted(line))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }
}
