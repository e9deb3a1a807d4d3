//! Propagation of a request id: from the HTTP request to the response and to the events in every service.

use std::path::Path;

use db::{Db, query};
use serde_json::json;
use testkit::eventually;

use crate::{app::App, caller::Caller};

const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }";
const STATUS: &str = "query($id: ID!) { message(id: $id) { status } }";

#[tokio::test]
async fn a_request_id_is_propagated_from_http_to_the_events() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
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
    assert_eq!(event_types(folder.path(), "dialog", "story-1").await, ["MessageSent", "MessageCommitted"]);
    assert_eq!(
        event_types(folder.path(), "counter", "story-1").await,
        ["Counted", "ReadMarked", "UnreadChanged", "UnreadChanged"]
    );
}

/// Returns the types of the events that the request caused in a service's outbox. All must belong to the
/// same trace.
async fn event_types(folder: &Path, service: &str, request: &str) -> Vec<String> {
    let db = Db::open_file(&folder.join(format!("{service}.db"))).await.unwrap();
    let rows = query("select type, traceparent from outbox where request_id = $1 order by id").bind(request);
    let rows = rows.all(&db).await.unwrap();
    for row in &rows {
        let trace: String = row.get("traceparent").unwrap();
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{service}: {trace}");
    }
    rows.iter().map(|row| row.get("type").unwrap()).collect()
}
