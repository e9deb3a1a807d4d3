//! The program under test: started on ports of its own, in a folder of its own, killed when dropped.

use std::{
    ops::Deref,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::place::Place;

/// A running `tidings serve`.
pub struct App {
    place: Place,
    /// Where /metrics is.
    pub ops: String,
    pub folder: TempDir,
    /// What it has written to standard output.
    pub said: Arc<Mutex<String>>,
    child: Child,
}

/// The program under test: the one that was built with the tests, or another build of it.
pub fn program() -> String {
    std::env::var("TIDINGS_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_tidings").to_owned())
}

impl Deref for App {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl App {
    /// Starts on an empty folder.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[]).await
    }

    /// Starts with settings of the environment.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings).await
    }

    /// Starts on a folder that was used before.
    pub async fn start_in(folder: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::start_saying(folder, settings, Stdio::inherit()).await
    }

    /// Starts with its log going there.
    pub async fn start_saying(folder: TempDir, settings: &[(&str, &str)], log: Stdio) -> Self {
        let mut command = Command::new(program());
        command.env("DATA_DIR", folder.path()).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
        command.env("LOG_FORMAT", "json").env("RUST_LOG", "warn,tidings=info");
        // Stories sign in often, and from one address; those of the limits set them.
        command.env("RATE_LIMIT_REQUESTS", "0").env("RATE_LIMIT_SIGN_IN", "0").envs(settings.iter().copied());
        command.stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut url, mut ops, said) = (None, None, Arc::new(Mutex::new(String::new())));
        let deadline = Instant::now() + Duration::from_secs(30);
        while url.is_none() || ops.is_none() {
            assert!(Instant::now() < deadline, "the program did not say where it listens");
            let line =
                lines.next_line().await.unwrap().expect("the program says where it listens before it ends");
            *said.lock().unwrap() += &line;
            let address = line.split_whitespace().find(|word| word.starts_with("http://"));
            let Some(address) = address.map(|word| word.trim_end_matches('/').to_owned()) else { continue };
            if line.contains("Operations") {
                ops = Some(address.trim_end_matches("/metrics").to_owned());
            } else {
                url.get_or_insert(address);
            }
        }
        let heard = said.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                *heard.lock().unwrap() += &line;
            }
        });
        let url: String = url.unwrap();
        let place = Place { other: url.clone(), url, suffix: String::new() };
        Self { place, ops: ops.unwrap(), folder, said, child }
    }

    /// What the program holds in memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// SIGKILL, now; the folder is handed back.
    pub async fn kill(mut self) -> TempDir {
        self.child.kill().await.unwrap();
        self.folder
    }

    /// SIGTERM, and how long it took to end well.
    pub async fn stop(mut self) -> (TempDir, Duration) {
        let begun = Instant::now();
        testkit::signal(self.child.id().unwrap(), "-TERM");
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "a stop that was asked for is a success: {status}");
        (self.folder, begun.elapsed())
    }

    /// The value of a metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.ops)).await.unwrap().text().await.unwrap();
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }
}
