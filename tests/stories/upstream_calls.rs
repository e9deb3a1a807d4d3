//! Number of gRPC calls for one query: it must not grow with the number of dialogs on a page.

use serde_json::json;
use testkit::eventually;

use crate::{app::App, caller::Caller};

const PAGE: &str = "query($first: Int!) { dialogs(first: $first) { nodes {
    id title unreadCount
    participants(first: 20) { nodes { id name } }
    lastMessage { text sender { name } }
    readStates(first: 20) { readSeq user { name } }
} pageInfo { hasNextPage } } }";

#[tokio::test]
async fn a_full_page_of_dialogs_needs_at_most_six_grpc_calls() {
    let app = App::start().await;
    let mut callers = Vec::new();
    for number in 0..4 {
        callers.push(Caller::register(&app, &format!("caller{number}")).await);
    }
    let (me, others) = callers.split_first().unwrap();
    for number in 0..50 {
        let other = &others[number % others.len()];
        let dialog = me.create_group(&[other], &format!("dialog {number}")).await;
        other.send(&dialog, "hello").await;
    }
    eventually("everything is counted", || async { me.total().await == 50 }).await;
    for first in [1, 20, 50] {
        let before = app.metric("grpc_client_calls_total").await;
        let data = me.data(PAGE, json!({"first": first})).await;
        let calls = app.metric("grpc_client_calls_total").await - before;
        let nodes = data["dialogs"]["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), first);
        for node in nodes {
            assert_eq!(node["participants"]["nodes"].as_array().unwrap().len(), 2);
            assert_eq!(node["readStates"].as_array().unwrap().len(), 2, "{node}");
            assert!(
                node["lastMessage"]["sender"]["name"].is_string() && node["unreadCount"].is_i64(),
                "{node}"
            );
        }
        println!("a page of {first} dialogs: {calls} gRPC calls");
        assert!(calls <= 6.0, "a page of {first} dialogs made {calls} calls");
    }
}
