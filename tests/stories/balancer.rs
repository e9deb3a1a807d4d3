//! The stack behind its balancer, which is the real one: deploy/haproxy.cfg in HAProxy. Skipped, with a line that says so,
//! where HAProxy is not installed.

mod fake;
mod killed;
mod passing;

use std::{net::TcpListener, process::Stdio, time::Duration};

use testkit::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    app::App,
    place::Place,
    stack::{Engines, Stack},
    story,
};

/// A running balancer; it is killed when it is dropped.
struct Balancer {
    url: String,
    ops: String,
    _child: Child,
}

impl Balancer {
    /// Starts before two gateways, `host:port` each, and waits until it has found one ready.
    async fn start(gateway1: &str, gateway2: &str) -> Option<Self> {
        let balancer = Self::start_at_once(gateway1, gateway2).await?;
        eventually("the balancer has a gateway", || async { balancer.tells("/readyz").await.0 == 200 }).await;
        Some(balancer)
    }

    /// Starts, and waits only until it listens.
    async fn start_at_once(gateway1: &str, gateway2: &str) -> Option<Self> {
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [listen, ops] = held.map(|listener| listener.local_addr().unwrap().to_string());
        let mut command = Command::new("haproxy");
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command
            .env_clear()
            .env("PATH", path)
            .env("BALANCER_LISTEN", &listen)
            .env("BALANCER_OPS_LISTEN", &ops);
        command.env("GATEWAY1", gateway1).env("GATEWAY2", gateway2);
        command.args(["-db", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy.cfg")]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let Ok(child) = command.spawn() else {
            println!("skipped: HAProxy is not installed (make test-stack)");
            return None;
        };
        let balancer = Self { url: format!("http://{listen}"), ops: format!("http://{ops}"), _child: child };
        eventually("the balancer listens", || async {
            reqwest::get(format!("{}/healthz", balancer.ops)).await.is_ok()
        })
        .await;
        Some(balancer)
    }

    /// Before the gateways of a place.
    async fn before(place: &Place) -> Option<Self> {
        let [one, other] = [&place.url, &place.other].map(|url| url.trim_start_matches("http://"));
        Self::start(one, other).await
    }

    /// Where people are who know the balancer alone.
    fn place(&self, suffix: &str) -> Place {
        Place { url: self.url.clone(), other: self.url.clone(), suffix: suffix.to_owned() }
    }

    /// What its operations port answers.
    async fn tells(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.ops)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What is answered to the head of a request whose body would have so many bytes: whoever went on writing might be cut
    /// off before the answer is read.
    async fn announced(&self, bytes: usize) -> String {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        let head =
            "POST /graphql HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{head}content-length: {bytes}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.contains("LIMIT_EXCEEDED") {
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut bytes)).await;
            let read = read.expect("an answer").unwrap();
            assert!(read > 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
        answer
    }

    /// Waits until it gives a gateway new requests, or gives it none.
    async fn knows(&self, gateway: &str, ready: bool) {
        let state = if ready { "UP" } else { "DOWN" };
        let line =
            format!(r#"haproxy_server_status{{proxy="gateways",server="{gateway}",state="{state}"}} 1"#);
        eventually("the balancer knows how a gateway is", || async {
            self.tells("/metrics").await.1.lines().any(|told| told == line)
        })
        .await;
    }
}

#[tokio::test]
async fn one_process_tells_the_story_and_refuses_through_the_balancer() {
    let app = App::start().await;
    let Some(balancer) = Balancer::before(&app).await else { return };
    story::the_story(&balancer.place("")).await;
    let answer = balancer.announced(1_050_000).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("\r\nx-request-id: "), "the gateway's own refusal: {answer}");
}

#[tokio::test]
async fn the_story_holds_through_the_balancer_of_two_gateways() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let Some(balancer) = Balancer::before(&stack).await else { return };
    story::the_story(&balancer.place(&stack.suffix)).await;
}

/// `make stack` and `make stack-down`, by their scripts.
#[tokio::test]
async fn the_scripts_start_a_stack_and_stop_it() {
    let Some(_engines) = Engines::fresh().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let held = [(); 12].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = held.map(|listener| listener.local_addr().unwrap().port());
    let names = ["AUTH", "DIALOG", "COUNTER", "GATEWAY1", "GATEWAY2", "BALANCER"];
    let settings = names.iter().enumerate().flat_map(|(index, name)| {
        [(format!("{name}_PORT"), ports[2 * index]), (format!("{name}_OPS_PORT"), ports[2 * index + 1])]
    });
    let settings: Vec<(String, String)> = settings.map(|(name, port)| (name, port.to_string())).collect();
    let run = async |script: &str| {
        let mut command =
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/stack/").to_owned() + script);
        command
            .envs(settings.iter().cloned())
            .env("STACK_DIR", folder.path())
            .env("STACK_DATABASES", "stories");
        command.env("TIDINGS", env!("CARGO_BIN_EXE_tidings")).env("FRESH", "1");
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = run("up.sh").await;
    let url = |name: &str| {
        told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap().to_owned()
    };
    let (url, gateway) = (url("BALANCER"), url("GATEWAY1"));
    story::the_story(&Place { url, other: gateway, suffix: String::new() }).await;
    run("down.sh").await;
    for port in ports {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "something still listens on {port}");
    }
}
