//! Tests of GraphQL over HTTP through the router: statuses, bodies, and rejections before any work is done.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::{Value, json};

use crate::testing::{Answer, TestGateway, post, unavailable};

const GRAPHQL_JSON: &str = "application/graphql-response+json";

async fn post_accepting(fixture: &TestGateway, accept: &str, query: &str) -> Answer {
    let body = json!({ "query": query }).to_string();
    let request = post(&body).header(header::ACCEPT, accept).body(Body::from(body)).expect("request");
    fixture.send(request).await
}

async fn get(fixture: &TestGateway, query: &str) -> Answer {
    let request = Request::get(format!("/graphql?{query}")).body(Body::empty()).expect("request");
    fixture.send(request).await
}

fn content_type(answer: &Answer) -> &str {
    answer.headers[header::CONTENT_TYPE].to_str().expect("ASCII header")
}

#[tokio::test]
async fn the_status_depends_on_the_accepted_media_type() {
    let fixture = TestGateway::alone();
    for (query, code, status) in [
        ("{ __typename }", "none", 200),
        ("{", "GRAPHQL_PARSE_FAILED", 400),
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED", 400),
        ("query($id: ID!) { user(id: $id) { id } }", "GRAPHQL_VALIDATION_FAILED", 400),
        ("query { a: me { id } } query B { me { id } }", "GRAPHQL_VALIDATION_FAILED", 400),
        ("query A { me { id } } query B { me { id } }", "BAD_REQUEST", 400),
        ("subscription { unread { total } }", "BAD_REQUEST", 400),
        ("{ me { id } }", "UNAUTHENTICATED", 200),
    ] {
        let answer = post_accepting(&fixture, GRAPHQL_JSON, query).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{query}");
        assert!(content_type(&answer).starts_with(GRAPHQL_JSON));
        assert_eq!(answer.json.get("data").is_some(), status == 200, "{query}");
        let answer = post_accepting(&fixture, "application/json", query).await;
        let status = if code == "BAD_REQUEST" { 400 } else { 200 };
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{query}");
        assert!(content_type(&answer).starts_with("application/json"));
    }
    assert_eq!(
        post_accepting(&fixture, "text/html", "{ __typename }").await.status,
        StatusCode::NOT_ACCEPTABLE
    );
}

#[tokio::test]
async fn get_executes_only_queries() {
    let fixture = TestGateway::alone();
    let answer = get(&fixture, "query=%7B__typename%7D").await;
    assert_eq!((answer.status.as_u16(), &answer.json), (200, &json!({ "data": { "__typename": "Query" } })));
    let answer = get(&fixture, "query=mutation%7B__typename%7D").await;
    assert_eq!((answer.status.as_u16(), answer.code()), (405, "BAD_REQUEST"));
    assert_eq!(answer.headers[header::ALLOW], "POST");
    let named = "query=query%20A%7B__typename%7D%20mutation%20B%7B__typename%7D&operationName=";
    assert_eq!(get(&fixture, &format!("{named}A")).await.status, StatusCode::OK);
    assert_eq!(get(&fixture, &format!("{named}B")).await.status, StatusCode::METHOD_NOT_ALLOWED);
    for empty in ["", "query=", "q=a", "variables=%7B%7D"] {
        assert_eq!(get(&fixture, empty).await.code(), "BAD_REQUEST", "{empty}");
    }
}

#[tokio::test]
async fn a_valid_document_is_persisted_under_its_hash() {
    let fixture = TestGateway::alone();
    let hash = crate::operation::persisted_queries::hash;
    let hashed = |text: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": hash(text) } });
    let by_get = |text: &str| {
        let extensions =
            format!("%7B%22persistedQuery%22:%7B%22version%22:1,%22sha256Hash%22:%22{}%22%7D%7D", hash(text));
        format!("extensions={extensions}")
    };
    let valid = "query Known { __typename }";
    let invalid = "{ nonsense }";
    let large = format!("{{ {} }}", many(101, |n| format!("a{n}: __typename")));
    for (media, status) in [("application/json", 200), (GRAPHQL_JSON, 400)] {
        for text in [valid, invalid, large.as_str()] {
            let body = json!({ "extensions": hashed(text) }).to_string();
            let request = post(&body).header(header::ACCEPT, media).body(Body::from(body)).expect("request");
            let answer = fixture.send(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (200, "PERSISTED_QUERY_NOT_FOUND"),
                "{media} {text}"
            );
            assert_eq!(answer.json["errors"][0]["message"], "PersistedQueryNotFound");
        }
        for text in [invalid, large.as_str()] {
            let body = json!({ "query": text, "extensions": hashed(text) }).to_string();
            let request = post(&body).header(header::ACCEPT, media).body(Body::from(body)).expect("request");
            assert_eq!(
                fixture.send(request).await.status.as_u16(),
                status,
                "a rejected document is not persisted: {text}"
            );
        }
    }
    let wrong = fixture.post(&json!({ "query": valid, "extensions": hashed("{ a }") })).await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (400, "BAD_REQUEST"));
    assert_eq!(get(&fixture, &by_get(valid)).await.code(), "PERSISTED_QUERY_NOT_FOUND");
    let answer = json!({ "data": { "__typename": "Query" } });
    assert_eq!(fixture.post(&json!({ "query": valid, "extensions": hashed(valid) })).await.json, answer);
    assert_eq!(fixture.post(&json!({ "extensions": hashed(valid) })).await.json, answer);
    assert_eq!(fixture.post(&json!({ "documentId": format!("sha256:{}", hash(valid)) })).await.json, answer);
    assert_eq!(get(&fixture, &by_get(valid)).await.json, answer);
    let batch =
        fixture.post(&json!([{ "extensions": hashed(valid) }, { "extensions": hashed("{ a }") }, {}])).await;
    assert_eq!(batch.json[0], answer);
    assert_eq!(batch.json[1]["errors"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_FOUND");
    assert_eq!(batch.json[2]["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    let mutation = "mutation { __typename }";
    fixture.post(&json!({ "query": mutation, "extensions": hashed(mutation) })).await;
    assert_eq!(get(&fixture, &by_get(mutation)).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn content_types_that_need_no_preflight_are_415() {
    let fixture = TestGateway::alone();
    for kind in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        let mut request = Request::post("/graphql");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let answer =
            fixture.send(request.body(Body::from(r#"{"query":"{ __typename }"}"#)).expect("request")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (415, "BAD_REQUEST"), "{kind:?}");
    }
}

#[tokio::test]
async fn a_body_over_1_mb_is_413_and_is_not_read_to_its_end() {
    let fixture = TestGateway::alone();
    let declared = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    let declared = declared.header(header::CONTENT_LENGTH, "60000000");
    let unread = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = fixture.send(declared.body(unread).expect("request")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "LIMIT_EXCEEDED"));

    // A body without `Content-Length` is read up to the limit.
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65_536]));
    let chunked = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    let answer = fixture.send(chunked.body(Body::from_stream(endless)).expect("request")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "LIMIT_EXCEEDED"));

    let padded = |size: usize| format!("{}{}", r#"{"query":"{ __typename }"}"#, " ".repeat(size - 26));
    for (size, status) in [(super::BODY_MAX_BYTES, 200), (super::BODY_MAX_BYTES + 1, 413)] {
        let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
        let answer = fixture.send(request.body(Body::from(padded(size))).expect("request")).await;
        assert_eq!(answer.status.as_u16(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_takes_more_than_30_seconds_is_408() {
    let started = tokio::time::Instant::now();
    let slow = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    let answer = TestGateway::alone().send(request.body(Body::from_stream(slow)).expect("request")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (408, "BAD_REQUEST"));
    assert_eq!(
        (started.elapsed().as_secs(), &answer.headers[header::CONNECTION]),
        (30, &"close".parse().expect("header value"))
    );
}

#[tokio::test]
async fn an_invalid_token_is_rejected_even_if_the_operation_needs_none() {
    let fixture = TestGateway::alone();
    let valid = fixture.token(300);
    let expired = fixture.token(-1);
    let truncated = &valid[..valid.len() - 5];
    let foreign = TestGateway::alone().token(300);
    for header_value in [
        "Bearer",
        "Bearer x",
        "Basic YTpi",
        &valid,
        &format!("Bearer {expired}"),
        &format!("Bearer {truncated}"),
        &format!("Bearer {foreign}"),
    ] {
        let body = r#"{"query":"{ __typename }"}"#;
        let request =
            post(body).header(header::AUTHORIZATION, header_value).body(Body::from(body)).expect("request");
        let answer = fixture.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "UNAUTHENTICATED"), "{header_value}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(answer.json.get("data"), None);
    }
    assert_eq!(fixture.ask("{ __typename }").await, json!({ "data": { "__typename": "Query" } }));
}

#[tokio::test]
async fn an_unavailable_service_fails_only_its_fields() {
    let fixture = TestGateway::alone();
    let answer = fixture.ask("{ me { id } __typename dialogs { nodes { id } } unread { total } }").await;
    assert_eq!(answer["data"], json!({ "me": null, "__typename": "Query", "dialogs": null, "unread": null }));
    let errors = answer["errors"].as_array().expect("list of errors");
    assert_eq!(errors.len(), 3);
    for error in errors {
        assert_eq!(error["extensions"]["code"], "UNAVAILABLE");
        assert_eq!(error["message"], "a service is unavailable, try again later");
    }
    let answer = fixture.ask(r#"mutation { updateMe(name: "A") { id } }"#).await;
    assert_eq!(
        (&answer["data"], &answer["errors"][0]["extensions"]["code"]),
        (&Value::Null, &json!("UNAVAILABLE"))
    );
}

#[tokio::test(start_paused = true)]
async fn hanging_services_fail_only_their_fields_within_5_seconds() {
    let fixture = TestGateway::hanging();
    let started = tokio::time::Instant::now();
    let answer = fixture.ask("{ me { id } __typename unread { total } }").await;
    assert_eq!(answer["data"], json!({ "me": null, "__typename": "Query", "unread": null }));
    let codes =
        answer["errors"].as_array().expect("list of errors").iter().map(|error| &error["extensions"]["code"]);
    assert_eq!(codes.collect::<Vec<_>>(), ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]);
    let took = started.elapsed();
    assert!(
        (4..5).contains(&took.as_secs()),
        "calls time out before the deadline of the operation: {took:?}"
    );
    let answer = fixture.ask(r#"mutation { updateMe(name: "A") { id } }"#).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn each_field_that_needs_a_caller_has_its_own_error() {
    let fixture = TestGateway::alone();
    let answer = fixture.post(&json!({ "query": "{ __typename me { id } dialogs { nodes { id } } }" })).await;
    assert!(
        answer.text.contains(r#""data":{"__typename":"Query","me":null,"dialogs":null}"#),
        "{}",
        answer.text
    );
    let codes: Vec<_> = answer.json["errors"].as_array().expect("list of errors").iter().collect();
    assert!(codes.len() == 2 && codes.iter().all(|error| error["extensions"]["code"] == "UNAUTHENTICATED"));
    let answer = fixture.post(&json!({ "query": r#"mutation { deleteMessage(id: "x") { id } }"# })).await;
    assert_eq!((&answer.json["data"], answer.code()), (&Value::Null, "UNAUTHENTICATED"));
    assert_eq!(fixture.calls.lock().len(), 0, "no service is called for an anonymous caller");
}

#[tokio::test]
async fn a_batch_has_ordered_results_and_a_limit_on_its_total_cost() {
    let fixture = TestGateway::alone();
    let batch = json!([{ "query": "{ __typename }" }, { "query": "{" }, { "query": "{ b: __typename }" }]);
    let answer = fixture.post(&batch).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json[0], json!({ "data": { "__typename": "Query" } }));
    assert_eq!(answer.json[1]["errors"][0]["extensions"]["code"], "GRAPHQL_PARSE_FAILED");
    assert_eq!(answer.json[1].get("data"), None);
    assert_eq!(answer.json[2], json!({ "data": { "b": "Query" } }));

    let expensive = "{ dialogs(first: 100) { nodes { messages(first: 40) { nodes { id } } } } }";
    assert_eq!(fixture.post(&json!([{ "query": expensive }, { "query": expensive }])).await.code(), "none");
    let answer =
        fixture.post(&json!([{ "query": expensive }, { "query": expensive }, { "query": expensive }])).await;
    assert_eq!(answer.code(), "LIMIT_EXCEEDED");
    let answer = fixture.post(&json!(vec![json!({ "query": "{ __typename }" }); 11])).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (400, "LIMIT_EXCEEDED"));
    assert_eq!(fixture.post(&json!([])).await.code(), "BAD_REQUEST");
}

#[tokio::test]
async fn cors_allows_only_the_configured_origins() {
    let fixture = TestGateway::alone();
    let preflight = |origin: &'static str| {
        Request::options("/graphql")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type")
            .body(Body::empty())
            .expect("request")
    };
    let answer = fixture.send(preflight("https://app.example")).await;
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "authorization,content-type");
    assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    let answer = fixture.send(preflight("https://evil.example")).await;
    assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

fn many(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(" ")
}

/// Returns the documents of docs/protocol.md#hostile-requests, each with its error code.
fn hostile_documents() -> Vec<(String, &'static str)> {
    let deep = format!("{{ message(id: 1) {{ {} id {} }} }}", "sender { ".repeat(48), "} ".repeat(48));
    let bomb =
        many(12, |n| format!("fragment F{n} on User {{ {} }}", many(12, |_| format!("...F{}", n + 1))));
    vec![
        (format!("{{ {} }}", many(101, |n| format!("a{n}: __typename"))), "LIMIT_EXCEEDED"),
        (
            format!(
                "{{ __schema {{ types {} }} }}",
                "{ fields { type ".repeat(10) + "{ name }" + &"} }".repeat(10)
            ),
            "LIMIT_EXCEEDED",
        ),
        (format!("{{ __typename {} }}", many(100, |_| "@include(if: true)".to_owned())), "LIMIT_EXCEEDED"),
        (format!("{{ {} }}", many(500, |_| "__typename".to_owned())), "LIMIT_EXCEEDED"),
        (format!("{{ me {{ {} }} }}", many(500, |_| "id".to_owned())), "LIMIT_EXCEEDED"),
        (
            "{ me { ...A } } fragment A on User { ...B } fragment B on User { ...A }".to_owned(),
            "GRAPHQL_VALIDATION_FAILED",
        ),
        (format!("{{ me {{ ...F0 }} }} {bomb} fragment F12 on User {{ id }}"), "LIMIT_EXCEEDED"),
        (deep, "LIMIT_EXCEEDED"),
        ("{".repeat(990_000), "LIMIT_EXCEEDED"),
        (
            "{ dialogs(first: 100) { nodes { messages(first: 100) { nodes { id } } } } }".to_owned(),
            "LIMIT_EXCEEDED",
        ),
        ("{ dialogz { id } }".to_owned(), "GRAPHQL_VALIDATION_FAILED"),
    ]
}

#[tokio::test]
async fn hostile_documents_are_rejected_before_execution() {
    let open = TestGateway::alone();
    let closed = TestGateway::new(false, unavailable);
    for (document, code) in hostile_documents() {
        let fixture = if document.contains("__schema") { &open } else { &closed };
        let excerpt = &document[..document.len().min(60)];
        let started = std::time::Instant::now();
        let answer = post_accepting(fixture, GRAPHQL_JSON, &document).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, code), "{excerpt}");
        assert!(!answer.text.contains("Did you mean"), "{}", answer.text);
        assert!(answer.text.len() < 5_000, "the response does not repeat the document: {excerpt}");
        if document.len() < 500_000 {
            let answer = fixture.post(&json!([{ "query": document }])).await;
            assert_eq!(answer.json[0]["errors"][0]["extensions"]["code"], code, "in a batch: {excerpt}");
        }
        println!("{:>8.2?}  {excerpt}", started.elapsed());
    }
    let query = "query($a: String) { user(id: $a) { id } }";
    let large = json!({ "query": query, "variables": { "a": "x".repeat(900_000) } });
    assert_eq!(closed.post(&large).await.code(), "LIMIT_EXCEEDED");
    assert_eq!(closed.post(&json!({ "query": 1 })).await.code(), "BAD_REQUEST");
    for fixture in [open, closed] {
        assert_eq!(fixture.calls.lock().len(), 0);
    }
}

#[tokio::test]
async fn introspection_and_hints_can_be_disabled() {
    let open = TestGateway::alone();
    let closed = TestGateway::new(false, unavailable);
    for query in
        ["{ __schema { types { name } } }", r#"{ __type(name: "User") { name } }"#, "{ _service { sdl } }"]
    {
        assert_eq!(post_accepting(&open, GRAPHQL_JSON, query).await.status, StatusCode::OK, "{query}");
        assert_eq!(
            post_accepting(&closed, GRAPHQL_JSON, query).await.code(),
            "GRAPHQL_VALIDATION_FAILED",
            "{query}"
        );
    }
    let answer = post_accepting(&open, GRAPHQL_JSON, "{ dialogz { id } }").await;
    assert!(answer.text.contains("Did you mean"), "{}", answer.text);
}

#[tokio::test]
async fn a_panicking_resolver_fails_only_its_request_and_is_counted() {
    let recorder = telemetry::recorder::install();
    let fixture = TestGateway::new(true, |_, _| panic!("the secret reason"));
    let body = json!({ "query": "{ me { id } }" }).to_string();
    let request = post(&body).header(header::AUTHORIZATION, format!("Bearer {}", fixture.token(300)));
    let answer = fixture
        .send(request.header("x-request-id", "panic-1").body(Body::from(body)).expect("request"))
        .await;
    assert_eq!((answer.status.as_u16(), answer.code()), (500, "INTERNAL"));
    assert_eq!(answer.json["errors"][0]["extensions"]["requestId"], "panic-1");
    assert!(answer.json.get("data").is_none() && !answer.text.contains("reason"), "{}", answer.text);
    assert!(recorder.render().contains(r#"panics_total{place="resolver"} "#));
    assert_eq!(
        fixture.post(&json!({ "query": "{ __typename }" })).await.status,
        StatusCode::OK,
        "the next request succeeds"
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_arrives_is_408() {
    let fixture = TestGateway::alone();
    let started = tokio::time::Instant::now();
    let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = fixture.send(post("{}").body(body).expect("request")).await;
    assert_eq!((answer.status, started.elapsed().as_secs()), (StatusCode::REQUEST_TIMEOUT, 30));
    assert_eq!(answer.headers[header::CONNECTION], "close");
}
