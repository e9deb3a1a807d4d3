//! GraphQL over HTTP, from outside: what is answered, with which status, and what is refused before it costs anything.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::{Value, json};

use crate::testing::{Answer, TestGateway, post, unavailable};

const GRAPHQL: &str = "application/graphql-response+json";

async fn accepting(fixture: &TestGateway, accept: &str, query: &str) -> Answer {
    let body = json!({ "query": query }).to_string();
    let request = post(&body).header(header::ACCEPT, accept).body(Body::from(body)).expect("a request");
    fixture.send(request).await
}

async fn get(fixture: &TestGateway, query: &str) -> Answer {
    let request = Request::get(format!("/graphql?{query}")).body(Body::empty()).expect("a request");
    fixture.send(request).await
}

fn content_type(answer: &Answer) -> &str {
    answer.headers[header::CONTENT_TYPE].to_str().expect("text")
}

#[tokio::test]
async fn the_status_follows_what_the_client_accepts() {
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
        let answer = accepting(&fixture, GRAPHQL, query).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{query}");
        assert!(content_type(&answer).starts_with(GRAPHQL));
        assert_eq!(answer.json.get("data").is_some(), status == 200, "{query}");
        let answer = accepting(&fixture, "application/json", query).await;
        let status = if code == "BAD_REQUEST" { 400 } else { 200 };
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{query}");
        assert!(content_type(&answer).starts_with("application/json"));
    }
    assert_eq!(accepting(&fixture, "text/html", "{ __typename }").await.status, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn get_runs_queries_alone() {
    let fixture = TestGateway::alone();
    let answer = get(&fixture, "query=%7B__typename%7D").await;
    assert_eq!((answer.status.as_u16(), &answer.json), (200, &json!({ "data": { "__typename": "Query" } })));
    let answer = get(&fixture, "query=mutation%7B__typename%7D").await;
    assert_eq!((answer.status.as_u16(), answer.code()), (405, "BAD_REQUEST"));
    assert_eq!(answer.headers[header::ALLOW], "POST");
    let named = "query=query%20A%7B__typename%7D%20mutation%20B%7B__typename%7D&operationName=";
    assert_eq!(get(&fixture, &format!("{named}A")).await.status, StatusCode::OK);
    assert_eq!(get(&fixture, &format!("{named}B")).await.status, StatusCode::METHOD_NOT_ALLOWED);
    for nothing in ["", "query=", "q=a", "variables=%7B%7D"] {
        assert_eq!(get(&fixture, nothing).await.code(), "BAD_REQUEST", "{nothing}");
    }
}

#[tokio::test]
async fn a_document_that_was_found_good_is_known_by_its_hash() {
    let fixture = TestGateway::alone();
    let hash = crate::operation::persisted_queries::hash;
    let named = |text: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": hash(text) } });
    let by_get = |text: &str| {
        let extensions =
            format!("%7B%22persistedQuery%22:%7B%22version%22:1,%22sha256Hash%22:%22{}%22%7D%7D", hash(text));
        format!("extensions={extensions}")
    };
    let (good, invalid) = ("query Known { __typename }", "{ nonsense }");
    let large = format!("{{ {} }}", many(101, |n| format!("a{n}: __typename")));
    for (media, refused) in [("application/json", 200), (GRAPHQL, 400)] {
        for text in [good, invalid, large.as_str()] {
            let body = json!({ "extensions": named(text) }).to_string();
            let request =
                post(&body).header(header::ACCEPT, media).body(Body::from(body)).expect("a request");
            let answer = fixture.send(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (200, "PERSISTED_QUERY_NOT_FOUND"),
                "{media} {text}"
            );
            assert_eq!(answer.json["errors"][0]["message"], "PersistedQueryNotFound");
        }
        for text in [invalid, large.as_str()] {
            let body = json!({ "query": text, "extensions": named(text) }).to_string();
            let request =
                post(&body).header(header::ACCEPT, media).body(Body::from(body)).expect("a request");
            assert_eq!(
                fixture.send(request).await.status.as_u16(),
                refused,
                "what is refused is not kept: {text}"
            );
        }
    }
    let wrong = fixture.post(&json!({ "query": good, "extensions": named("{ a }") })).await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (400, "BAD_REQUEST"));
    assert_eq!(get(&fixture, &by_get(good)).await.code(), "PERSISTED_QUERY_NOT_FOUND");
    let answer = json!({ "data": { "__typename": "Query" } });
    assert_eq!(fixture.post(&json!({ "query": good, "extensions": named(good) })).await.json, answer);
    assert_eq!(fixture.post(&json!({ "extensions": named(good) })).await.json, answer);
    assert_eq!(fixture.post(&json!({ "documentId": format!("sha256:{}", hash(good)) })).await.json, answer);
    assert_eq!(get(&fixture, &by_get(good)).await.json, answer);
    let batch =
        fixture.post(&json!([{ "extensions": named(good) }, { "extensions": named("{ a }") }, {}])).await;
    assert_eq!(batch.json[0], answer);
    assert_eq!(batch.json[1]["errors"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_FOUND");
    assert_eq!(batch.json[2]["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    let mutation = "mutation { __typename }";
    fixture.post(&json!({ "query": mutation, "extensions": named(mutation) })).await;
    assert_eq!(get(&fixture, &by_get(mutation)).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_a_page_can_send_unasked_is_415() {
    let fixture = TestGateway::alone();
    for kind in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        let mut request = Request::post("/graphql");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let answer =
            fixture.send(request.body(Body::from(r#"{"query":"{ __typename }"}"#)).expect("a request")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (415, "BAD_REQUEST"), "{kind:?}");
    }
}

#[tokio::test]
async fn a_body_over_a_megabyte_is_413_and_not_read_to_its_end() {
    let fixture = TestGateway::alone();
    let said = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    let said = said.header(header::CONTENT_LENGTH, "60000000");
    let unread = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = fixture.send(said.body(unread).expect("a request")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "LIMIT_EXCEEDED"));

    // Without a length: an endless body is cut off at the bound.
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65_536]));
    let chunked = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    let answer = fixture.send(chunked.body(Body::from_stream(endless)).expect("a request")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "LIMIT_EXCEEDED"));

    let padded = |size: usize| format!("{}{}", r#"{"query":"{ __typename }"}"#, " ".repeat(size - 26));
    for (size, status) in [(super::BODY_MAX_BYTES, 200), (super::BODY_MAX_BYTES + 1, 413)] {
        let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
        let answer = fixture.send(request.body(Body::from(padded(size))).expect("a request")).await;
        assert_eq!(answer.status.as_u16(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_within_30_seconds_is_408() {
    let begun = tokio::time::Instant::now();
    let dripping = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    let answer =
        TestGateway::alone().send(request.body(Body::from_stream(dripping)).expect("a request")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (408, "BAD_REQUEST"));
    assert_eq!(
        (begun.elapsed().as_secs(), &answer.headers[header::CONNECTION]),
        (30, &"close".parse().expect("text"))
    );
}

#[tokio::test]
async fn a_bad_token_is_refused_even_where_none_is_needed() {
    let fixture = TestGateway::alone();
    let (good, expired) = (fixture.token(300), fixture.token(-1));
    let truncated = &good[..good.len() - 5];
    let foreign = TestGateway::alone().token(300);
    for header_value in [
        "Bearer",
        "Bearer x",
        "Basic YTpi",
        &good,
        &format!("Bearer {expired}"),
        &format!("Bearer {truncated}"),
        &format!("Bearer {foreign}"),
    ] {
        let body = r#"{"query":"{ __typename }"}"#;
        let request =
            post(body).header(header::AUTHORIZATION, header_value).body(Body::from(body)).expect("a request");
        let answer = fixture.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "UNAUTHENTICATED"), "{header_value}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(answer.json.get("data"), None);
    }
    assert_eq!(fixture.ask("{ __typename }").await, json!({ "data": { "__typename": "Query" } }));
}

#[tokio::test]
async fn a_service_that_is_away_costs_its_own_fields() {
    let fixture = TestGateway::alone();
    let answer = fixture.ask("{ me { id } __typename dialogs { nodes { id } } unread { total } }").await;
    assert_eq!(answer["data"], json!({ "me": null, "__typename": "Query", "dialogs": null, "unread": null }));
    let errors = answer["errors"].as_array().expect("errors");
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
async fn services_that_never_answer_cost_their_own_fields_and_less_than_five_seconds() {
    let (fixture, begun) = (TestGateway::hanging(), tokio::time::Instant::now());
    let answer = fixture.ask("{ me { id } __typename unread { total } }").await;
    assert_eq!(answer["data"], json!({ "me": null, "__typename": "Query", "unread": null }));
    let codes = answer["errors"].as_array().expect("errors").iter().map(|error| &error["extensions"]["code"]);
    assert_eq!(codes.collect::<Vec<_>>(), ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]);
    let took = begun.elapsed();
    assert!((4..5).contains(&took.as_secs()), "they are given up in time for the rest: {took:?}");
    let answer = fixture.ask(r#"mutation { updateMe(name: "A") { id } }"#).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn fields_that_need_sign_in_say_so_one_by_one() {
    let fixture = TestGateway::alone();
    let answer = fixture.post(&json!({ "query": "{ __typename me { id } dialogs { nodes { id } } }" })).await;
    assert!(
        answer.text.contains(r#""data":{"__typename":"Query","me":null,"dialogs":null}"#),
        "{}",
        answer.text
    );
    let codes: Vec<_> = answer.json["errors"].as_array().expect("errors").iter().collect();
    assert!(codes.len() == 2 && codes.iter().all(|error| error["extensions"]["code"] == "UNAUTHENTICATED"));
    let answer = fixture.post(&json!({ "query": r#"mutation { deleteMessage(id: "x") { id } }"# })).await;
    assert_eq!((&answer.json["data"], answer.code()), (&Value::Null, "UNAUTHENTICATED"));
    assert_eq!(fixture.calls.lock().len(), 0, "nothing is asked for nobody");
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_its_costs_add_up() {
    let fixture = TestGateway::alone();
    let batch = json!([{ "query": "{ __typename }" }, { "query": "{" }, { "query": "{ b: __typename }" }]);
    let answer = fixture.post(&batch).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json[0], json!({ "data": { "__typename": "Query" } }));
    assert_eq!(answer.json[1]["errors"][0]["extensions"]["code"], "GRAPHQL_PARSE_FAILED");
    assert_eq!(answer.json[1].get("data"), None);
    assert_eq!(answer.json[2], json!({ "data": { "b": "Query" } }));

    let dear = "{ dialogs(first: 100) { nodes { messages(first: 40) { nodes { id } } } } }";
    assert_eq!(fixture.post(&json!([{ "query": dear }, { "query": dear }])).await.code(), "none");
    let answer = fixture.post(&json!([{ "query": dear }, { "query": dear }, { "query": dear }])).await;
    assert_eq!(answer.code(), "LIMIT_EXCEEDED");
    let answer = fixture.post(&json!(vec![json!({ "query": "{ __typename }" }); 11])).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (400, "LIMIT_EXCEEDED"));
    assert_eq!(fixture.post(&json!([])).await.code(), "BAD_REQUEST");
}

#[tokio::test]
async fn pages_of_other_origins_are_told_nothing() {
    let fixture = TestGateway::alone();
    let preflight = |origin: &'static str| {
        Request::options("/graphql")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type")
            .body(Body::empty())
            .expect("a request")
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

/// The attacks of PROTOCOL.md that a document makes, each with its code.
fn attacks() -> Vec<(String, &'static str)> {
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
async fn attacks_are_refused_before_anything_is_executed() {
    let (open, closed) = (TestGateway::alone(), TestGateway::new(false, unavailable));
    for (document, code) in attacks() {
        let fixture = if document.contains("__schema") { &open } else { &closed };
        let shown = &document[..document.len().min(60)];
        let begun = std::time::Instant::now();
        let answer = accepting(fixture, GRAPHQL, &document).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, code), "{shown}");
        assert!(!answer.text.contains("Did you mean"), "{}", answer.text);
        assert!(answer.text.len() < 5_000, "an answer does not repeat the document: {shown}");
        if document.len() < 500_000 {
            let answer = fixture.post(&json!([{ "query": document }])).await;
            assert_eq!(answer.json[0]["errors"][0]["extensions"]["code"], code, "in a batch: {shown}");
        }
        println!("{:>8.2?}  {shown}", begun.elapsed());
    }
    let large = json!({ "query": "query($a: String) { user(id: $a) { id } }", "variables": { "a": "x".repeat(900_000) } });
    assert_eq!(closed.post(&large).await.code(), "LIMIT_EXCEEDED");
    assert_eq!(closed.post(&json!({ "query": 1 })).await.code(), "BAD_REQUEST");
    for fixture in [open, closed] {
        assert_eq!(fixture.calls.lock().len(), 0);
    }
}

#[tokio::test]
async fn introspection_is_off_where_it_is_off() {
    let (open, closed) = (TestGateway::alone(), TestGateway::new(false, unavailable));
    for query in
        ["{ __schema { types { name } } }", r#"{ __type(name: "User") { name } }"#, "{ _service { sdl } }"]
    {
        assert_eq!(accepting(&open, GRAPHQL, query).await.status, StatusCode::OK, "{query}");
        assert_eq!(accepting(&closed, GRAPHQL, query).await.code(), "GRAPHQL_VALIDATION_FAILED", "{query}");
    }
    let answer = accepting(&open, GRAPHQL, "{ dialogz { id } }").await;
    assert!(answer.text.contains("Did you mean"), "{}", answer.text);
}

#[tokio::test]
async fn a_panic_of_a_resolver_is_an_internal_error_of_its_own_request_and_is_counted() {
    let recorder = telemetry::recorder::install();
    let fixture = TestGateway::new(true, |_, _| panic!("the secret reason"));
    let body = json!({ "query": "{ me { id } }" }).to_string();
    let request = post(&body).header(header::AUTHORIZATION, format!("Bearer {}", fixture.token(300)));
    let answer = fixture
        .send(request.header("x-request-id", "panic-1").body(Body::from(body)).expect("a request"))
        .await;
    assert_eq!((answer.status.as_u16(), answer.code()), (500, "INTERNAL"));
    assert_eq!(answer.json["errors"][0]["extensions"]["requestId"], "panic-1");
    assert!(answer.json.get("data").is_none() && !answer.text.contains("reason"), "{}", answer.text);
    assert!(recorder.render().contains(r#"panics_total{place="resolver"} "#));
    assert_eq!(
        fixture.post(&json!({ "query": "{ __typename }" })).await.status,
        StatusCode::OK,
        "the next one is served"
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_408() {
    let fixture = TestGateway::alone();
    let begun = tokio::time::Instant::now();
    let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = fixture.send(post("{}").body(body).expect("a request")).await;
    assert_eq!((answer.status, begun.elapsed().as_secs()), (StatusCode::REQUEST_TIMEOUT, 30));
    assert_eq!(answer.headers[header::CONNECTION], "close");
}
