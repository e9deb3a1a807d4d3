//! Requests as multipart forms: they run like JSON bodies, under the same limits, and only after a preflight.

use axum::{
    body::Body,
    http::{Request, header, request},
};
use serde_json::{Value, json};

use super::BODY_MAX_BYTES;
use crate::testing::{Answer, TestGateway};

const QUERY: &str = r#"{"query":"{ __typename }"}"#;
const OPERATIONS: &str = r#"name="operations""#;
const MAP: &str = r#"name="map""#;
const NO_FILE: &str = "no field takes a file: send only the parts `operations` and `map`, with `map` as {}";

/// Creates a form. Each part has the parameters of its `Content-Disposition`, and its content.
fn form(parts: &[(&str, &str)]) -> String {
    let parts = parts.iter().map(|(parameters, content)| {
        format!("--x\r\nContent-Disposition: form-data; {parameters}\r\n\r\n{content}\r\n")
    });
    parts.chain(["--x--\r\n".to_owned()]).collect()
}

/// Creates a form without files.
fn operations(json: &str) -> String {
    form(&[(OPERATIONS, json), (MAP, "{}")])
}

/// Creates a request for a form. The caller adds the header that requires a preflight, and the body.
fn post() -> request::Builder {
    Request::post("/graphql").header(header::CONTENT_TYPE, "multipart/form-data; boundary=x")
}

async fn send(fixture: &TestGateway, body: String) -> Answer {
    let request = post().header("graphql-require-preflight", "1");
    fixture.send(request.body(Body::from(body)).expect("a request")).await
}

fn message(answer: &Answer) -> &str {
    answer.json["errors"][0]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_form_without_files_runs_as_the_same_json_would() {
    let fixture = TestGateway::alone();
    let answer = send(&fixture, operations(QUERY)).await;
    assert_eq!((answer.status.as_u16(), &answer.json), (200, &json!({ "data": { "__typename": "Query" } })));
    let hash = crate::operation::persisted_queries::hash;
    let known = "query Known { __typename }";
    let extensions = json!({ "persistedQuery": { "version": 1, "sha256Hash": hash(known) } });
    fixture.post(&json!({ "query": known, "extensions": extensions })).await;
    for body in [
        json!({ "query": "query A { a: __typename } query B { b: __typename }", "operationName": "B" }),
        json!({ "query": "query($a: Boolean!) { __typename @skip(if: $a) }", "variables": { "a": false } }),
        json!({ "extensions": extensions }),
        json!({ "documentId": format!("sha256:{}", hash(known)) }),
        json!({ "documentId": "unknown" }),
        json!([{ "query": "{ __typename }" }, { "query": "{" }, { "query": "{ b: __typename }" }]),
        json!({ "query": "{ nonsense }" }),
        json!({ "query": "subscription { unread { total } }" }),
        json!({ "query": "{ me { id } }" }),
        json!({ "query": 1 }),
        json!({ "query": "{ __typename }", "variables": { "x": "y".repeat(300_000) } }),
        json!(vec![json!({ "query": "{ __typename }" }); 11]),
        json!(["{ __typename }"]),
        json!([]),
        json!(null),
    ] {
        let expected = fixture.post(&body).await;
        let answer = send(&fixture, operations(&body.to_string())).await;
        assert_eq!(
            (answer.status, &answer.json),
            (expected.status, &expected.json),
            "{:.100}",
            expected.text
        );
    }
}

#[tokio::test]
async fn a_form_that_needs_no_preflight_is_415_and_runs_nothing() {
    let fixture = TestGateway::alone();
    let body = operations(&json!({ "query": r#"mutation { updateMe(name: "A") { id } }"# }).to_string());
    let send = async |request: request::Builder| {
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", fixture.token(300)));
        fixture.send(request.body(Body::from(body.clone())).expect("a request")).await
    };
    for request in [
        post(),
        post().header("graphql-require-preflight", ""),
        post().header("apollo-require-preflight", ""),
        post().header(header::ORIGIN, "https://evil.example"),
    ] {
        let answer = send(request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (415, "BAD_REQUEST"));
        assert!(message(&answer).contains("GraphQL-Require-Preflight"), "{}", answer.text);
        assert_eq!(answer.headers["accept-post"], "application/json, multipart/form-data");
    }
    assert_eq!(fixture.calls.lock().len(), 0, "no service is called");
    for name in ["graphql-require-preflight", "apollo-require-preflight"] {
        let answer = send(post().header(name, "1")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (200, "UNAVAILABLE"), "{name}");
    }
    assert!(!fixture.calls.lock().is_empty(), "the mutation calls its service");
}

#[tokio::test]
async fn a_form_with_a_file_is_400_and_runs_nothing() {
    let fixture = TestGateway::alone();
    let register =
        r#"mutation { register(input: {login: "ann", name: "A", password: "correct horse"}) { expiresAt } }"#;
    let mutation = json!({ "query": register, "variables": { "file": null } }).to_string();
    let mutation = mutation.as_str();
    let bound = r#"{"0": ["variables.file"]}"#;
    for parts in [
        vec![(OPERATIONS, mutation), (MAP, bound), (r#"name="0"; filename="a.txt""#, "content")],
        vec![(OPERATIONS, mutation), (MAP, bound), (r#"name="0""#, "content")],
        vec![(OPERATIONS, mutation), (MAP, bound)],
        vec![(OPERATIONS, mutation), (MAP, r#"{"0": []}"#)],
        vec![(OPERATIONS, mutation), (MAP, "{}"), (r#"name="0"; filename="a.txt""#, "content")],
        vec![(r#"name="operations"; filename="a.json""#, mutation), (MAP, "{}")],
        vec![(OPERATIONS, mutation), ("", "content"), (MAP, "{}")],
    ] {
        let answer = send(&fixture, form(&parts)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "BAD_REQUEST"), "{parts:?}");
        assert_eq!(message(&answer), NO_FILE, "{parts:?}");
        assert_eq!(answer.json.get("data"), None);
    }
    assert_eq!(fixture.calls.lock().len(), 0, "no service is called");
}

#[tokio::test]
async fn a_form_over_1_mb_is_413() {
    let fixture = TestGateway::alone();
    let overhead = operations("").len();
    let padded = |size: usize| operations(&[QUERY, &" ".repeat(size - overhead - QUERY.len())].concat());
    for (size, status, code) in [(BODY_MAX_BYTES, 200, "none"), (BODY_MAX_BYTES + 1, 413, "LIMIT_EXCEEDED")] {
        let body = padded(size);
        assert_eq!(body.len(), size);
        let answer = send(&fixture, body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{size} bytes");
    }
}

#[tokio::test]
async fn operations_that_nest_more_than_128_levels_are_400() {
    let fixture = TestGateway::alone();
    let nested = |depth: usize| {
        let lists = ["[", "]"].map(|bracket| bracket.repeat(depth - 1)).concat();
        operations(&format!(r#"{{"query": "{{ __typename }}", "z": {lists}}}"#))
    };
    assert_eq!(send(&fixture, nested(128)).await.status.as_u16(), 200);
    for depth in [129, 100_000] {
        let answer = send(&fixture, nested(depth)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "BAD_REQUEST"), "{depth} levels");
        assert_eq!(
            message(&answer),
            "lists and objects in the body are nested more than 128 levels deep",
            "{depth} levels"
        );
    }
    let map = format!("{{\"0\": {}", "[".repeat(100_000));
    let answer = send(&fixture, form(&[(OPERATIONS, QUERY), (MAP, map.as_str())])).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (400, "BAD_REQUEST"));
}

#[tokio::test]
async fn a_malformed_form_is_400_in_the_accepted_media_type() {
    let fixture = TestGateway::alone();
    let cut = |form: String| form.replace("--x--", "");
    for (body, expected) in [
        (operations("{"), "the body is not JSON: "),
        (operations(r#"{"query": ["a"]}"#), "`query` must be a string"),
        (operations(r#"{"query": "a", "variables": []}"#), "`variables` must be an object"),
        (form(&[(MAP, "{}")]), "the form has no part `operations`"),
        (form(&[(OPERATIONS, QUERY)]), "the form has no part `map`"),
        (form(&[]), "the form has no part `map`"),
        (
            form(&[(OPERATIONS, QUERY), (OPERATIONS, QUERY), (MAP, "{}")]),
            "the form has the part `operations` or `map` twice",
        ),
        (
            form(&[(OPERATIONS, QUERY), (MAP, "[]")]),
            "`map` must be an object whose values are lists of strings",
        ),
        (
            form(&[(OPERATIONS, QUERY), (MAP, r#"{"0": "variables.file"}"#)]),
            "`map` must be an object whose values are lists of strings",
        ),
        (cut(operations(QUERY)), "the body is not a multipart form"),
        (QUERY.to_owned(), "the body is not a multipart form"),
        (String::new(), "the body is not a multipart form"),
    ] {
        let request = post().header("graphql-require-preflight", "1");
        let request = request.header(header::ACCEPT, "application/graphql-response+json");
        let answer = fixture.send(request.body(Body::from(body.clone())).expect("a request")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "BAD_REQUEST"), "{body}");
        assert!(message(&answer).starts_with(expected), "{body}: {}", answer.text);
        assert_eq!(answer.json.get("data"), None::<&Value>, "{body}");
        let kind = answer.headers[header::CONTENT_TYPE].to_str().expect("ASCII header");
        assert!(kind.starts_with("application/graphql-response+json"), "{kind}");
    }
    let unbounded = Request::post("/graphql").header(header::CONTENT_TYPE, "multipart/form-data");
    let unbounded = unbounded.header("graphql-require-preflight", "1");
    let answer = fixture.send(unbounded.body(Body::from(operations(QUERY))).expect("a request")).await;
    assert_eq!((answer.status.as_u16(), message(&answer)), (400, "the form has no boundary"));
}

#[tokio::test]
async fn a_part_of_a_multipart_type_is_read_as_json() {
    let fixture = TestGateway::alone();
    let body = operations(QUERY).replace("\r\n\r\n", "\r\nContent-Type: multipart/mixed\r\n\r\n");
    let answer = send(&fixture, body).await;
    assert_eq!((answer.status.as_u16(), &answer.json["data"]["__typename"]), (200, &"Query".into()));
}
