//! Redis for tests: the one that is there, and servers of a test's own that may be stopped, frozen and started again.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The Redis that `TEST_REDIS_URL` names; `None`, with a line that says so, where it names none.
pub fn redis_url() -> Option<String> {
    let url = std::env::var("TEST_REDIS_URL").ok();
    if url.is_none() {
        say_skipped();
    }
    url
}

#[expect(clippy::print_stdout, reason = "a test says that it was skipped")]
fn say_skipped() {
    println!("skipped: TEST_REDIS_URL names no Redis (make engines)");
}

/// A Redis of a test's own, on a free port. Ended when dropped.
#[derive(Debug)]
pub struct RedisServer {
    address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one; `None`, with a line that says so, where `TEST_REDIS_URL` says that there is no Redis on this machine.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start() -> Option<Self> {
        redis_url()?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (address, folder) =
            (free.expect("a free port"), tempfile::tempdir().expect("a temporary folder"));
        let mut server = Self { address, folder, child: None };
        server.start_again();
        Some(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it at once. What it did not `SAVE` is lost.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }

    /// Starts it again, with what it saved.
    ///
    /// # Panics
    /// Where it does not answer within ten seconds.
    pub fn start_again(&mut self) {
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

    /// Freezes it: it keeps its connections and says nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on, with all that was sent to it meanwhile.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        crate::signal(self.child.as_ref().expect("it runs").id(), signal);
    }

    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        ask().is_ok_and(|answer| &answer == b"+PONG")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
