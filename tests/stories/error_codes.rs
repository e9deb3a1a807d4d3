//! Error codes other than those of limits, on every transport: invalid documents, persisted queries and
//! rate limits. Each has the same code on all transports, the documented HTTP status, and is returned
//! before anything is executed.

use serde_json::{Value, json};

use crate::{
    app::App,
    bad_input::REGISTER,
    caller::{Caller, PASSWORD},
    http::{ME, sha256},
    rate_limits::LOGIN,
    transport::{Client, Kind, Operation, Response, TRANSPORTS},
};

/// An operation that is rejected because of its content.
struct Row {
    code: &'static str,
    operation: Operation,
    /// HTTP status of a single response.
    status: u16,
    /// HTTP status for a client that accepts only streams. Errors of validation are results there, with
    /// status 200.
    stream_status: u16,
}

fn rows() -> Vec<Row> {
    let row =
        |code, operation: Operation, status, stream_status| Row { code, operation, status, stream_status };
    let unlike = Operation { document: ME.to_owned(), ..Operation::persisted(&"a".repeat(64)) };
    let taken = json!({"input": {"login": "ann", "password": PASSWORD}});
    vec![
        row("GRAPHQL_PARSE_FAILED", Operation::document("{ me {"), 400, 400),
        row("GRAPHQL_VALIDATION_FAILED", Operation::document("{ nonsense }"), 400, 200),
        row(
            "GRAPHQL_VALIDATION_FAILED",
            Operation::document("subscription { unread { nonsense } }"),
            400,
            200,
        ),
        row(
            "GRAPHQL_VALIDATION_FAILED",
            Operation::document("query($id: ID!) { user(id: $id) { id } }"),
            400,
            200,
        ),
        row("BAD_REQUEST", Operation::document("query A { me { id } } query B { me { id } }"), 400, 400),
        row("BAD_REQUEST", unlike, 400, 400),
        row("BAD_REQUEST", Operation::document(""), 400, 400),
        row("PERSISTED_QUERY_NOT_FOUND", Operation::persisted(&"b".repeat(64)), 200, 200),
        row("CONFLICT", Operation::new(REGISTER, taken), 200, 200),
    ]
}

/// Returns the expected status for this kind of transport.
fn expected_status(kind: Kind, single: u16, stream_status: u16) -> Option<u16> {
    match kind {
        Kind::Single | Kind::Get => Some(single),
        Kind::Batch => Some(200),
        Kind::Stream => Some(stream_status),
        Kind::Socket => None,
    }
}

#[tokio::test]
async fn an_invalid_operation_has_one_code_on_every_transport() {
    let app = App::start().await;
    let ann = Client::of(&Caller::register(&app, "ann").await);
    let mut cells = 0;
    for row in rows() {
        for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&row.operation)) {
            let calls = app.calls().await;
            let response = (transport.execute)(&ann, &row.operation).await;
            let case = format!("{:?} by {}: {response:?}", row.operation, transport.name);
            cells += 1;
            // Over a socket, a message without a document is malformed and closes the connection.
            if transport.kind == Kind::Socket
                && row.operation.document.is_empty()
                && row.code == "BAD_REQUEST"
            {
                assert_eq!(response.close_code, Some(4400), "{case}");
                continue;
            }
            assert_eq!((response.code(), response.close_code), (row.code, None), "{case}");
            assert_eq!(
                response.status,
                expected_status(transport.kind, row.status, row.stream_status),
                "{case}"
            );
            if row.code != "CONFLICT" {
                assert_eq!(app.calls().await, calls, "no service was called: {case}");
                assert!(response.answer.get("data").is_none(), "{case}");
            }
        }
    }
    println!("error codes: {cells} cases");
}

#[tokio::test]
async fn persisted_queries_work_on_every_transport() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let client = Client::of(&ann);
    let hash = sha256(ME).await;
    for transport in &TRANSPORTS {
        let other = format!("query Me {{ me {{ id name login }} }} # {}", transport.name);
        let own = Operation::persisted(&sha256(&other).await);
        assert_eq!(
            (transport.execute)(&client, &own).await.code(),
            "PERSISTED_QUERY_NOT_FOUND",
            "{}",
            transport.name
        );
        for operation in [Operation { document: other, ..own.clone() }, own] {
            let response = (transport.execute)(&client, &operation).await;
            assert_eq!(response.answer["data"]["me"]["id"], ann.id, "{}: {response:?}", transport.name);
        }
    }
    let sent = Operation { document: ME.to_owned(), ..Operation::persisted(&hash) };
    (TRANSPORTS[0].execute)(&client, &sent).await;
    for transport in &TRANSPORTS {
        let response = (transport.execute)(&client, &Operation::persisted(&hash)).await;
        assert_eq!(response.answer["data"]["me"]["id"], ann.id, "{}: {response:?}", transport.name);
    }
    println!("persisted queries: {} cases", 4 * TRANSPORTS.len());
}

#[tokio::test]
async fn an_unlisted_document_runs_on_no_transport() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("documents.json");
    let register = "mutation($input: RegisterInput!) {
            register(input: $input) { accessToken refreshToken user { id } } }";
    std::fs::write(&list, json!({"me": ME, "register": register}).to_string()).unwrap();
    let app = App::start_with(&[("TRUSTED_DOCUMENTS", list.to_str().unwrap())]).await;
    let ann = Caller::register(&app, "ann").await;
    let client = Client::of(&ann);
    let others = [
        Operation::document("{ me { id } }"),
        Operation::document("mutation { logout }"),
        Operation::document("subscription { unread { total } }"),
        Operation::document("{ me {"),
        Operation::persisted("other"),
    ];
    let mut cells = 0;
    for transport in &TRANSPORTS {
        let response = (transport.execute)(&client, &Operation::persisted("me")).await;
        assert_eq!(response.answer["data"]["me"]["id"], ann.id, "{}: {response:?}", transport.name);
        for other in others.iter().filter(|other| transport.carries(other)) {
            let response = (transport.execute)(&client, other).await;
            assert_eq!(
                response.code(),
                "PERSISTED_QUERY_REQUIRED",
                "{other:?} by {}: {response:?}",
                transport.name
            );
            assert_eq!(
                response.status,
                expected_status(transport.kind, 400, 400),
                "{other:?} by {}",
                transport.name
            );
            cells += 1;
        }
        cells += 1;
    }
    println!("trusted documents: {cells} cases");
}

/// Asserts that the response has the code of a rate limit, and the time to wait in the error and in
/// `Retry-After`.
fn assert_rate_limited(response: &Response, context: &str) {
    assert_eq!((response.code(), response.close_code), ("RATE_LIMITED", None), "{context}: {response:?}");
    let wait_ms = response.answer["errors"][0]["extensions"]["retryAfterMs"].as_u64();
    assert!(wait_ms.is_some_and(|wait_ms| (1..=3_600_000).contains(&wait_ms)), "{context}: {response:?}");
    if response.status == Some(429) {
        assert_eq!(
            response.retry_after_s,
            wait_ms.map(|wait_ms| wait_ms.div_ceil(1000)),
            "{context}: {response:?}"
        );
    }
}

#[tokio::test]
async fn the_rate_limit_of_operations_holds_on_every_transport() {
    let app = App::start_with(&[("RATE_LIMIT_REQUESTS", "1/h:12")]).await;
    let operation = ["{ me { login } }", "{", "mutation { logout }", "subscription { unread { total } }"]
        .map(Operation::document);
    let mut cells = 0;
    for (number, transport) in TRANSPORTS.iter().enumerate() {
        let caller = Caller::register(&app, &format!("caller{number}")).await;
        let client = Client::of(&caller);
        for _ in 0..12 {
            caller.data("{ __typename }", json!({})).await;
        }
        for operation in operation.iter().filter(|operation| transport.carries(operation)) {
            let calls = app.calls().await;
            let response = (transport.execute)(&client, operation).await;
            assert_rate_limited(&response, transport.name);
            // A batch is rejected as a whole, so it has a status.
            assert_eq!(
                response.status,
                (transport.kind != Kind::Socket).then_some(429),
                "{}: {response:?}",
                transport.name
            );
            assert_eq!(app.calls().await, calls, "{}", transport.name);
            cells += 1;
        }
    }
    println!("rate limit of operations: {cells} cases");
}

#[tokio::test]
async fn the_rate_limit_of_sign_ins_holds_on_every_transport() {
    let app = App::start_with(&[("RATE_LIMIT_SIGN_IN", "0,2/h")]).await;
    let anonymous = Client { url: app.url.clone(), http: reqwest::Client::new(), token: None };
    let mut cells = 0;
    for (number, transport) in TRANSPORTS.iter().enumerate() {
        let input: Value = json!({"input": {"login": format!("unknown{number}"), "password": PASSWORD}});
        let operation = Operation::new(LOGIN, input);
        if !transport.carries(&operation) {
            continue;
        }
        for _ in 0..2 {
            let response = (transport.execute)(&anonymous, &operation).await;
            assert_eq!(response.code(), "UNAUTHENTICATED", "{}: {response:?}", transport.name);
        }
        let calls = app.calls().await;
        let response = (transport.execute)(&anonymous, &operation).await;
        assert_rate_limited(&response, transport.name);
        assert_eq!(
            response.status,
            expected_status(transport.kind, 429, 429),
            "{}: {response:?}",
            transport.name
        );
        assert_eq!(app.calls().await, calls, "{}: no password was hashed", transport.name);
        cells += 1;
    }
    println!("rate limit of sign-ins: {cells} cases");
}
