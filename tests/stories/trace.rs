//! One request, found again wherever it led: in its answer, and in the events that it caused in every service.

use std::path::Path;

use db::{Db, query};
use serde_json::json;
use testkit::eventually;

use crate::{app::App, person::Person};

const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }";
const STATUS: &str = "query($id: ID!) { message(id: $id) { status } }";

#[tokio::test]
async fn a_request_id_travels_from_http_through_the_calls_into_the_events() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let body = json!({"query": SEND, "variables": {"input": {"dialogId": dialog, "text": "x"}}});
    let request = a.http.post(format!("{}/graphql", a.url)).bearer_auth(&a.token).json(&body);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = request.header("x-request-id", "story-1").header("traceparent", trace).send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "story-1");
    let answer: serde_json::Value = answer.json().await.unwrap();
    let id = answer["data"]["sendMessage"]["id"].clone();
    eventually("the message is counted and committed", || async {
        a.data(STATUS, json!({"id": id})).await["message"]["status"] == "COMMITTED"
    })
    .await;
    let (folder, _) = app.stop().await;
    assert_eq!(caused_by(folder.path(), "dialog", "story-1").await, ["MessageSent", "MessageCommitted"]);
    assert_eq!(caused_by(folder.path(), "counter", "story-1").await, ["Counted", "UnreadChanged"]);
}

/// The events of a service's outbox that this request caused, all of the one trace.
async fn caused_by(folder: &Path, service: &str, request: &str) -> Vec<String> {
    let db = Db::open_file(&folder.join(format!("{service}.db"))).await.unwrap();
    let rows = query("select type, traceparent from outbox where request_id = $1 order by id").bind(request);
    let rows = rows.all(&db).await.unwrap();
    for row in &rows {
        let trace: String = row.get("traceparent").unwrap();
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{service}: {trace}");
    }
    rows.iter().map(|row| row.get("type").unwrap()).collect()
}
