//! Traces: one tree from a mutation to the frame on another gateway, through the services and both logs.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    app::App,
    caller::Caller,
    collector::{Collector, Span, Trace},
    socket_client::SocketClient,
    stack::Stack,
};

const SEND: &str = "mutation SendTraced($input: SendMessageInput!) { sendMessage(input: $input) { id } }";
const TEXT: &str = "a text that no span may have";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Sends a message within the trace of a client and returns the response.
async fn send_traced(caller: &Caller, dialog: &str, sampled: bool) -> Value {
    let input = json!({"dialogId": dialog, "text": TEXT});
    let body = json!({"query": SEND, "variables": {"input": input}, "extensions": {"traceId": true}});
    let flags = if sampled { "01" } else { "00" };
    let request = caller.http.post(format!("{}/graphql", caller.url)).bearer_auth(&caller.token).json(&body);
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}"));
    request.send().await.unwrap().json().await.unwrap()
}

/// Panics if an attribute of a span has a text, a login or a token.
fn assert_no_secrets(collector: &Collector, caller: &Caller) {
    for span in collector.spans() {
        for value in span.attributes.values().chain([&span.name]) {
            let secret = [TEXT, "traced-ann", "traced-bob", caller.token.as_str()];
            assert!(!secret.iter().any(|secret| value.contains(secret)), "{span:?}");
        }
    }
}

#[tokio::test]
async fn a_send_is_one_trace_over_all_services_and_both_logs() {
    let collector = Collector::start().await;
    let Some(stack) = Stack::start(&collector.settings()).await else { return };
    let a = Caller::register(&stack, "traced-ann").await;
    let b = Caller::register(&stack, "traced-bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.until_total(0).await;
    let response = send_traced(&a, &dialog, true).await;
    assert_eq!(response["extensions"]["traceId"], TRACE, "{response}");
    phone.until_total(1).await;
    let is_whole = |trace: &Trace| {
        let processed = |topic: &str, service: &str| {
            trace.0.iter().any(|span| span.name == format!("process {topic}") && span.service == service)
        };
        trace.has("frame")
            && processed("tidings.dialog", "tidings-counter")
            && processed("tidings.counter", "tidings-dialog")
            && processed("tidings.unread", "tidings-gateway")
    };
    eventually("the trace is exported", || async { is_whole(&collector.trace(TRACE)) }).await;

    let trace = collector.trace(TRACE);
    println!("{}", trace.tree());
    let roots = trace.roots();
    assert!(roots.len() == 1 && roots[0].parent == PARENT, "one tree below the client's span: {roots:?}");
    assert_eq!(roots[0].name, "POST /graphql");
    let services = trace.services();
    assert!(
        services.is_superset(&["tidings-gateway", "tidings-dialog", "tidings-counter"].into()),
        "{services:?}"
    );
    let frame = trace.0.iter().find(|span| span.name == "frame").unwrap();
    let path = trace.ancestors(frame);
    assert!(path.len() >= 8, "{path:?}");
    for name in
        ["process tidings.unread", "send tidings.unread", "process tidings.dialog", "send tidings.dialog"]
    {
        assert!(path.contains(&name), "{name} in {path:?}");
    }
    assert_no_secrets(&collector, &a);
}

#[tokio::test]
async fn one_id_finds_the_lines_of_a_request_in_all_services() {
    const REQUEST: &str = "story-of-one-id";
    let settings = [("LOG_FORMAT", "json"), ("RUST_LOG", "info,events=debug")];
    let Some(stack) = Stack::start(&settings).await else { return };
    let a = Caller::register(&stack, "logged-ann").await;
    let b = Caller::register(&stack, "logged-bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let body = json!({"query": SEND, "variables": {"input": {"dialogId": dialog, "text": TEXT}}});
    let request = a.http.post(format!("{}/graphql", a.url)).bearer_auth(&a.token).json(&body);
    let request =
        request.header("x-request-id", REQUEST).header("traceparent", format!("00-{TRACE}-{PARENT}-00"));
    assert!(request.send().await.unwrap().status().is_success());

    let places: BTreeSet<(&str, &str)> = [
        ("gateway1", "request"),
        ("dialog", "call"),
        ("counter", "tidings.dialog"),
        ("dialog", "tidings.counter"),
        ("gateway1", "tidings.unread"),
        ("gateway2", "tidings.unread"),
    ]
    .into();
    eventually("every service has written its lines", || async {
        let found = stack.log_lines(REQUEST);
        places.iter().all(|(role, text)| {
            let text = format!("\"{text}\"");
            found.iter().any(|(at, line)| at == role && line.contains(&text))
        })
    })
    .await;
    for (role, line) in stack.log_lines(REQUEST) {
        println!("{line}");
        let fields: Value = serde_json::from_str(&line).unwrap();
        let service = format!("tidings-{}", role.trim_end_matches(['1', '2']));
        assert_eq!([&fields["request_id"], &fields["trace_id"]], [REQUEST, TRACE], "{line}");
        assert_eq!(fields["service"], service, "{line}");
    }
    assert!(stack.log_lines(TEXT).is_empty());
}

#[tokio::test]
async fn one_process_exports_the_same_trace_and_none_that_is_not_sampled() {
    let collector = Collector::start().await;
    let app = App::start_with(&collector.settings()).await;
    let a = Caller::register(&app, "traced-ann").await;
    let b = Caller::register(&app, "traced-bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.until_total(0).await;
    let not_sampled = send_traced(&a, &dialog, false).await;
    assert_eq!(not_sampled["extensions"]["traceId"], TRACE, "{not_sampled}");
    phone.until_total(1).await;
    let b_reads = b.mark_read(&dialog, None).await;
    assert_eq!(b_reads.0, 0);
    phone.until_total(0).await;
    assert!(collector.trace(TRACE).0.is_empty(), "the client's decision counts");

    send_traced(&a, &dialog, true).await;
    phone.until_total(1).await;
    eventually("the trace is exported", || async { collector.trace(TRACE).has("frame") }).await;
    let trace = collector.trace(TRACE);
    println!("{}", trace.tree());
    assert_eq!(trace.roots().len(), 1);
    assert_no_secrets(&collector, &a);
    futures_util::future::join_all((0..40).map(|_| send_traced(&a, &dialog, true))).await;
    phone.until_total(41).await;
    eventually("a transaction of several requests links to them", || async {
        let is_batch = |span: &Span| span.name.starts_with("transaction") && span.links > 0;
        collector.spans().iter().any(is_batch)
    })
    .await;
    // The last spans are exported when the process stops.
    let before = collector.spans().len();
    a.total().await;
    app.stop().await;
    assert!(collector.spans().len() > before);
}
