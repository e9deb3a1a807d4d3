//! The stack behind HAProxy with the deployed configuration, deploy/haproxy.cfg. Skipped, with a printed
//! line, where HAProxy is not installed.

mod fake_gateway;
mod forwarding;
mod killed_gateways;

use std::{net::TcpListener, process::Stdio, time::Duration};

use testkit::{eventually, free_address, free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    app::App,
    endpoint::Endpoint,
    stack::{Engines, Stack},
    story,
};

/// A running HAProxy; killed when dropped.
pub struct Balancer {
    pub url: String,
    ops: String,
    _child: Child,
}

impl Balancer {
    /// Starts in front of two gateways, `host:port` each, and waits until it considers one ready.
    async fn start(gateway1: &str, gateway2: &str) -> Option<Self> {
        let balancer = Self::start_unready(gateway1, gateway2).await?;
        eventually("the balancer has a ready gateway", || async {
            balancer.get_ops("/readyz").await.0 == 200
        })
        .await;
        Some(balancer)
    }

    /// Starts and waits until it listens, not until a gateway is ready.
    async fn start_unready(gateway1: &str, gateway2: &str) -> Option<Self> {
        let [listen, ops] = [(); 2].map(|()| free_address());
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

    /// Starts in front of both gateways of an endpoint.
    pub async fn in_front_of(endpoint: &Endpoint) -> Option<Self> {
        let [one, other] = [&endpoint.url, &endpoint.second_url].map(|url| url.trim_start_matches("http://"));
        Self::start(one, other).await
    }

    /// Returns the endpoint for clients that know only the balancer.
    fn endpoint(&self, login_suffix: &str) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            second_url: self.url.clone(),
            login_suffix: login_suffix.to_owned(),
        }
    }

    /// Requests a path of the operations port. Returns status and body.
    async fn get_ops(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.ops)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Sends the head of a request with this content length and returns the response. Sends no body: the
    /// connection could be reset before the response is read.
    async fn post_head(&self, bytes: usize) -> String {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        let head =
            "POST /graphql HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{head}content-length: {bytes}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.contains("LIMIT_EXCEEDED") {
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut bytes)).await;
            let read = read.expect("a response").unwrap();
            assert!(read > 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
        answer
    }

    /// Waits until the balancer considers a gateway ready, or not ready.
    async fn wait_for_state(&self, gateway: &str, ready: bool) {
        let state = if ready { "UP" } else { "DOWN" };
        let line =
            format!(r#"haproxy_server_status{{proxy="gateways",server="{gateway}",state="{state}"}} 1"#);
        eventually("the balancer sees the gateway's state", || async {
            self.get_ops("/metrics").await.1.lines().any(|metric| metric == line)
        })
        .await;
    }
}

#[tokio::test]
async fn one_process_works_behind_the_balancer() {
    let app = App::start().await;
    let Some(balancer) = Balancer::in_front_of(&app).await else { return };
    story::run(&balancer.endpoint("")).await;
    let answer = balancer.post_head(1_050_000).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("\r\nx-request-id: "), "the gateway, not the balancer, responds: {answer}");
}

#[tokio::test]
async fn two_gateways_work_behind_the_balancer() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let Some(balancer) = Balancer::in_front_of(&stack).await else { return };
    story::run(&balancer.endpoint(&stack.login_suffix)).await;
}

/// Runs the scripts of `make stack` and `make stack-down`.
#[tokio::test]
async fn the_scripts_start_and_stop_a_stack() {
    let Some(_engines) = Engines::fresh().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let ports = [(); 12].map(|()| free_port());
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
    let printed = run("up.sh").await;
    let url = |name: &str| {
        printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap().to_owned()
    };
    let endpoint =
        Endpoint { url: url("BALANCER"), second_url: url("GATEWAY1"), login_suffix: String::new() };
    story::run(&endpoint).await;
    run("down.sh").await;
    for port in ports {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "a process still listens on {port}");
    }
}
