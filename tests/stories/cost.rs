//! What an answer costs: calls between the gateway and the services, however many dialogs a page has.

use serde_json::json;
use testkit::eventually;

use crate::{app::App, person::Person};

const PAGE: &str = "query($first: Int!) { dialogs(first: $first) { nodes {
    id title unreadCount
    participants(first: 20) { nodes { id name } }
    lastMessage { text sender { name } }
    readStates(first: 20) { readSeq user { name } }
} pageInfo { hasNextPage } } }";

#[tokio::test]
async fn a_page_of_dialogs_with_everything_makes_at_most_six_calls() {
    let app = App::start().await;
    let mut people = Vec::new();
    for number in 0..4 {
        people.push(Person::register(&app, &format!("person{number}")).await);
    }
    let (me, others) = people.split_first().unwrap();
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
