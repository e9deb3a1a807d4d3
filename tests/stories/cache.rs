//! The counter's Redis cache: invalid URLs, an unavailable server, and recovery.

use std::process::Output;

use serde_json::Value;
use testkit::{RedisServer, eventually};
use tokio::process::Command;

use crate::{app::App, caller::Caller};

async fn run(arguments: &[&str], redis_url: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).env("DATA_DIR", folder.path()).env("REDIS_URL", redis_url);
    command.output().await.unwrap()
}

#[tokio::test]
async fn an_invalid_redis_url_is_reported_in_one_line_without_its_password() {
    for url in ["rediss://:hunter2@cache", "redis://:hunter2@", "hunter2", ""] {
        let output = run(&["serve"], url).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.lines().count() == 1 && stderr.contains("REDIS_URL: invalid Redis URL: expected redis://"),
            "{stderr}"
        );
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
    let help = String::from_utf8(run(&["--help"], "redis://:hunter2@cache").await.stdout).unwrap();
    assert!(help.contains("REDIS_URL") && !help.contains("hunter2"), "{help}");
}

async fn readiness(app: &App) -> (u16, Value) {
    let answer = reqwest::get(format!("{}/readyz", app.ops)).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn an_unavailable_redis_degrades_readiness_and_stops_nothing() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let app = App::start_with(&[("REDIS_URL", &server.url())]).await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    a.send(&dialog, "hello").await;
    eventually("the message is counted", || async { b.total().await == 1 }).await;
    eventually("readiness reports Redis as degraded", || async {
        let (status, report) = readiness(&app).await;
        status == 200 && report["status"] == "degraded" && report["checks"]["redis"]["status"] == "degraded"
    })
    .await;
    server.restart();
    eventually("readiness reports Redis as available", || async {
        readiness(&app).await.1["status"] == "ready"
    })
    .await;
    assert_eq!(b.mark_read(&dialog, None).await.0, 0);
    eventually("the message is read", || async { b.total().await == 0 }).await;
    let errors = app.metric("counter_redis_errors_total").await;
    assert!(errors > 0.0 && app.metric("counter_cache_total").await > 0.0, "{errors}");
}
