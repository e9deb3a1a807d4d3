//! `tidings demo`: people who chat through the public API, their badges at the end, and wrong settings.

use std::{process::Stdio, time::Duration};

use axum::{
    Json, Router,
    extract::{WebSocketUpgrade, ws::Message},
    response::IntoResponse,
    routing::post,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};

use crate::{
    app::{App, program},
    maintenance::{Output, run, run_in},
};

/// Runs the demo against a server.
async fn demo(url: &str, arguments: &[&str]) -> Output {
    run(&[&["demo", "--url", url], arguments].concat(), &[]).await
}

/// Returns the numbers of the last row: sent, reads, deleted, failed, frames, badge, query, differences.
fn totals(stdout: &str) -> [i64; 8] {
    let row = stdout.lines().find(|line| line.starts_with("all ")).unwrap_or_else(|| panic!("{stdout}"));
    let numbers: Vec<i64> = row.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[tokio::test]
async fn people_chat_and_every_badge_equals_the_query() {
    let app = App::start().await;
    let output = demo(&app.url, &["--people", "5", "--dialogs", "4", "--rate", "25", "--for", "4s"]).await;
    output.assert(0, "differences: 0");
    let [sent, reads, _, failed, frames, badge, query, differences] = totals(&output.stdout);
    // A busy machine leaves turns out and merges frames.
    assert!(sent >= 20 && reads >= 5 && frames >= sent / 4, "{}", output.stdout);
    assert_eq!((failed, differences, badge), (0, 0, query), "{}", output.stdout);
    run_in(app.folder.path(), &["reconcile"]).await.assert(0, "compared 4 dialogs");

    let login = output.stdout.lines().flat_map(str::split_whitespace).find(|word| word.starts_with("ana-"));
    let password = output.stdout.lines().find_map(|line| line.strip_prefix("The password of all is "));
    let input = json!({"login": login.unwrap(), "password": password.unwrap()});
    let query = "mutation($input: LoginInput!) { login(input: $input) { user { name } } }";
    let body = json!({"query": query, "variables": {"input": input}});
    let request = reqwest::Client::new().post(format!("{}/graphql", app.url)).json(&body);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["data"]["login"]["user"]["name"], "ana", "{answer}");
}

#[tokio::test]
async fn the_demo_ends_after_its_messages_and_waits_where_the_server_limits_it() {
    let limits = [("RATE_LIMIT_SIGN_IN", "60/m:3,10/m"), ("RATE_LIMIT_REQUESTS", "4/s:8")];
    let app = App::start_with(&limits).await;
    let arguments = ["--people", "4", "--dialogs", "1", "--rate", "40", "--messages", "60", "--for", "1h"];
    let output = demo(&app.url, &arguments).await;
    output.assert(0, "differences: 0");
    assert_eq!(totals(&output.stdout)[..4][0], 60, "{}", output.stdout);
    assert_eq!(totals(&output.stdout)[3], 0, "nothing fails: {}", output.stdout);
    assert!(!output.stdout.contains("; 0 operations were delayed"), "{}", output.stdout);
    assert!(app.metric("gateway_rate_limited_total").await > 1.0);
}

#[tokio::test]
async fn a_signal_ends_the_demo_with_its_table_even_after_a_restart_of_the_server() {
    let port = testkit::free_port();
    let listen = format!("127.0.0.1:{port}");
    let app = App::start_with(&[("LISTEN", &listen)]).await;
    let mut command = Command::new(program());
    command.args(["demo", "--url", &app.url, "--people", "3", "--rate", "10", "--for", "1h"]);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains(" sent, ") {
        timeout(Duration::from_secs(30), stdout.read_line(&mut text)).await.expect("a status line").unwrap();
    }
    let folder = app.kill().await;
    let app = App::start_in(folder, &[("LISTEN", &listen)]).await;
    let opened = text.lines().count();
    while text.lines().count() < opened + 2 {
        timeout(Duration::from_secs(30), stdout.read_line(&mut text)).await.expect("a status line").unwrap();
    }
    testkit::signal(child.id().unwrap(), "-INT");
    timeout(Duration::from_secs(60), stdout.read_to_string(&mut text)).await.expect("an end").unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{text}");
    assert!(text.contains("differences: 0") && text.contains(" 3 sockets opened again"), "{text}");
    run_in(app.folder.path(), &["reconcile"]).await.assert(0, "drift: 0");
}

#[tokio::test]
async fn a_wrong_setting_is_one_line_and_exit_status_2() {
    let closed = format!("http://127.0.0.1:{}", testkit::free_port());
    for (arguments, message) in [
        (["--rate", "0"], "invalid value '0' for '--rate <NUMBER>': 0 is not in 1..=100"),
        (["--rate", "1000000"], "is not in 1..=100"),
        (["--people", "1"], "invalid value '1' for '--people <NUMBER>': 1 is not in 2..=100"),
        (["--people", "10000"], "10000 is not in 2..=100"),
        (["--dialogs", "0"], "0 is not in 1..=100"),
        (["--messages", "0"], "0 is not in 1..=1000000"),
        (["--for", "2w"], "a duration is a number from 1 with a unit"),
        (["--for", "2d"], "the time is 1s to 1d"),
        (["--url", "localhost:8080"], "a URL is http://HOST:PORT, such as http://127.0.0.1:8080"),
        (["--url", "https://chat.example"], "https is not supported"),
        (["--url", &closed], "does not answer: Connection refused"),
    ] {
        let output = run(&[&["demo"][..], &arguments].concat(), &[]).await;
        output.assert(2, message);
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_tidings_or_refuses_is_one_line_and_exit_status_2() {
    let app = App::start().await;
    let metrics = demo(&app.ops, &[]).await;
    metrics.assert(
        2,
        "is not the public address of this version of Tidings: POST /graphql is answered with 404",
    );
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents.json");
    std::fs::write(&documents, r#"{"a": "{ me { id } }"}"#).unwrap();
    let strict = App::start_with(&[("TRUSTED_DOCUMENTS", documents.to_str().unwrap())]).await;
    demo(&strict.url, &[]).await.assert(2, "PERSISTED_QUERY_REQUIRED: ");
    let closed_to_people = App::start_with(&[("RATE_LIMIT_SIGN_IN", "1/h:1,10/m")]).await;
    demo(&closed_to_people.url, &[]).await.assert(2, "RATE_LIMITED: ");
}

/// Answers like Tidings, but the query `unread` counts one message more than the subscription.
async fn wrong_server() -> String {
    let execute = async |Json(request): Json<Value>| {
        let document = request["query"].as_str().unwrap();
        let session = json!({"accessToken": "a", "refreshToken": "r", "user": {"id": "u"},
            "expiresAt": "2999-01-01T00:00:00.000000Z"});
        let data = match document {
            _ if document.contains("register(") => json!({"register": session}),
            _ if document.contains("createDialog(") => json!({"createDialog": {"id": "d"}}),
            _ if document.contains("sendMessage(") => json!({"sendMessage": {"id": "m"}}),
            _ if document.contains("unread(") => {
                let rows = [json!({"dialogId": "d", "unread": 1})];
                json!({"unread": {"version": "1-1", "total": 1, "stale": false, "dialogs": rows}})
            }
            _ => json!({}),
        };
        Json(json!({"data": data}))
    };
    let upgrade = async |upgrade: WebSocketUpgrade| {
        upgrade
            .protocols(["graphql-transport-ws"])
            .on_upgrade(async |mut socket| {
                let frame = json!({"kind": "SNAPSHOT", "version": "1-1", "total": 0, "changed": []});
                let next = json!({"id": "unread", "type": "next", "payload": {"data": {"unread": frame}}});
                for answer in [json!({"type": "connection_ack"}), next] {
                    socket.recv().await;
                    socket.send(Message::text(answer.to_string())).await.unwrap();
                }
                while socket.recv().await.is_some() {}
            })
            .into_response()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/graphql", post(execute).get(upgrade));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_badge_that_differs_from_the_query_is_exit_status_1() {
    let output = demo(&wrong_server().await, &["--people", "2", "--dialogs", "1", "--messages", "2"]).await;
    output.assert(1, "0 unread by the frames, 1 by the query");
    output.assert(1, "dialog d: 0 by the frames, 1 by the query");
    output.assert(1, "differences: 4");
    assert_eq!(totals(&output.stdout)[7], 4);
}
