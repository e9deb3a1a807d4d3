//! Redis for tests: the server that `TEST_REDIS_URL` names, and a private server that a test may kill,
//! pause and restart.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::free_port;

/// Returns the URL in `TEST_REDIS_URL`. If it is not set, prints that the test is skipped and returns
/// `None`.
pub fn redis_url() -> Option<String> {
    let url = std::env::var("TEST_REDIS_URL").ok();
    if url.is_none() {
        report_skipped();
    }
    url
}

#[expect(clippy::print_stdout, reason = "a test reports that it was skipped")]
fn report_skipped() {
    println!(
        "skipped: TEST_REDIS_URL is not set; run `make engines` and set the variables in target/engines/env"
    );
}

/// Redis server for one test, on a free port. Killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server. A set `TEST_REDIS_URL` is only a sign that redis-server is installed. If it is not
    /// set, prints that the test is skipped and returns `None`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start() -> Option<Self> {
        redis_url()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { address, folder, child: None };
        server.restart();
        Some(server)
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Kills the server. Changes that were not written by `SAVE` are lost.
    ///
    /// # Panics
    /// If the server is not running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server is running");
        child.kill().and_then(|()| child.wait()).expect("the server ends");
    }

    /// Starts a killed server with the data that it saved.
    ///
    /// # Panics
    /// If the server does not answer within ten seconds.
    pub fn restart(&mut self) {
        let port = self.address.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed where TEST_REDIS_URL is set"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.answers() {
            assert!(Instant::now() < deadline, "redis-server does not answer on {}", self.address);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Suspends the process with SIGSTOP. Its connections stay open and receive no reply.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Continues a paused process, which then executes the commands sent to it in between.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        crate::signal(self.child.as_ref().expect("the server is running").id(), signal);
    }

    fn answers(&self) -> bool {
        let ping = || {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut reply = [0; 5];
            stream.read_exact(&mut reply)?;
            std::io::Result::Ok(reply)
        };
        ping().is_ok_and(|reply| &reply == b"+PONG")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
