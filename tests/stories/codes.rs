//! Codes that are of no bound, on every transport: documents that are none, documents by their names, rates. Each is the same
//! wherever an operation comes, with the status of the answer where there is one, before anything is executed.

use serde_json::{Value, json};

use crate::{
    app::App,
    bad_input::REGISTER,
    http::{ME, sha256},
    limits::LOGIN,
    person::{PASSWORD, Person},
    transport::{Asked, Caller, Kind, TRANSPORTS, Told},
};

/// What is refused for its own sake.
struct Row {
    code: &'static str,
    asked: Asked,
    /// Over HTTP, alone.
    status: u16,
    /// The same, where the client takes streams alone: what is the document's own fault is a result like others there.
    of_stream: u16,
}

fn rows() -> Vec<Row> {
    let row = |code, asked: Asked, status, of_stream| Row { code, asked, status, of_stream };
    let unlike = Asked { document: ME.to_owned(), ..Asked::named(&"a".repeat(64)) };
    let taken = json!({"input": {"login": "ann", "password": PASSWORD}});
    vec![
        row("GRAPHQL_PARSE_FAILED", Asked::bare("{ me {"), 400, 400),
        row("GRAPHQL_VALIDATION_FAILED", Asked::bare("{ nonsense }"), 400, 200),
        row("GRAPHQL_VALIDATION_FAILED", Asked::bare("subscription { unread { nonsense } }"), 400, 200),
        row("GRAPHQL_VALIDATION_FAILED", Asked::bare("query($id: ID!) { user(id: $id) { id } }"), 400, 200),
        row("BAD_REQUEST", Asked::bare("query A { me { id } } query B { me { id } }"), 400, 400),
        row("BAD_REQUEST", unlike, 400, 400),
        row("BAD_REQUEST", Asked::bare(""), 400, 400),
        row("PERSISTED_QUERY_NOT_FOUND", Asked::named(&"b".repeat(64)), 200, 200),
        row("CONFLICT", Asked::new(REGISTER, taken), 200, 200),
    ]
}

/// The status of an operation that was refused, where it came so.
fn status(kind: Kind, alone: u16, of_stream: u16) -> Option<u16> {
    match kind {
        Kind::Answer | Kind::Link => Some(alone),
        Kind::Batch => Some(200),
        Kind::Stream => Some(of_stream),
        Kind::Socket => None,
    }
}

#[tokio::test]
async fn what_is_refused_for_its_own_sake_has_one_code_on_every_transport() {
    let app = App::start().await;
    let ann = Caller::of(&Person::register(&app, "ann").await);
    let mut cells = 0;
    for row in rows() {
        for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&row.asked)) {
            let calls = app.metric("grpc_client_calls_total").await;
            let told = (transport.ask)(&ann, &row.asked).await;
            let place = format!("{:?} by {}: {told:?}", row.asked, transport.name);
            cells += 1;
            // A message that has no document is none: the socket is closed with the code for that.
            if transport.kind == Kind::Socket && row.asked.document.is_empty() && row.code == "BAD_REQUEST" {
                assert_eq!(told.closed, Some(4400), "{place}");
                continue;
            }
            assert_eq!((told.code(), told.closed), (row.code, None), "{place}");
            assert_eq!(told.status, status(transport.kind, row.status, row.of_stream), "{place}");
            if row.code != "CONFLICT" {
                assert_eq!(
                    app.metric("grpc_client_calls_total").await,
                    calls,
                    "nothing was executed: {place}"
                );
                assert!(told.answer.get("data").is_none(), "{place}");
            }
        }
    }
    println!("codes: {cells} cells tried");
}

#[tokio::test]
async fn a_document_has_its_name_on_every_transport() {
    let app = App::start().await;
    let ann = Person::register(&app, "ann").await;
    let (caller, hash) = (Caller::of(&ann), sha256(ME).await);
    for transport in &TRANSPORTS {
        let other = format!("query Me {{ me {{ id name login }} }} # {}", transport.name);
        let own = Asked::named(&sha256(&other).await);
        assert_eq!(
            (transport.ask)(&caller, &own).await.code(),
            "PERSISTED_QUERY_NOT_FOUND",
            "{}",
            transport.name
        );
        for asked in [Asked { document: other, ..own.clone() }, own] {
            let told = (transport.ask)(&caller, &asked).await;
            assert_eq!(told.answer["data"]["me"]["id"], ann.id, "{}: {told:?}", transport.name);
        }
    }
    let sent = Asked { document: ME.to_owned(), ..Asked::named(&hash) };
    (TRANSPORTS[0].ask)(&caller, &sent).await;
    for transport in &TRANSPORTS {
        let told = (transport.ask)(&caller, &Asked::named(&hash)).await;
        assert_eq!(told.answer["data"]["me"]["id"], ann.id, "{}: {told:?}", transport.name);
    }
    println!("names of documents: {} cells tried", 4 * TRANSPORTS.len());
}

#[tokio::test]
async fn a_document_that_is_not_listed_runs_on_no_transport() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("documents.json");
    let register = "mutation($input: RegisterInput!) { register(input: $input) { accessToken refreshToken user { id } } }";
    std::fs::write(&list, json!({"me": ME, "register": register}).to_string()).unwrap();
    let app = App::start_with(&[("TRUSTED_DOCUMENTS", list.to_str().unwrap())]).await;
    let ann = Person::register(&app, "ann").await;
    let caller = Caller::of(&ann);
    let others = [
        Asked::bare("{ me { id } }"),
        Asked::bare("mutation { logout }"),
        Asked::bare("subscription { unread { total } }"),
        Asked::bare("{ me {"),
        Asked::named("other"),
    ];
    let mut cells = 0;
    for transport in &TRANSPORTS {
        let told = (transport.ask)(&caller, &Asked::named("me")).await;
        assert_eq!(told.answer["data"]["me"]["id"], ann.id, "{}: {told:?}", transport.name);
        for other in others.iter().filter(|other| transport.carries(other)) {
            let told = (transport.ask)(&caller, other).await;
            assert_eq!(told.code(), "PERSISTED_QUERY_REQUIRED", "{other:?} by {}: {told:?}", transport.name);
            assert_eq!(told.status, status(transport.kind, 400, 400), "{other:?} by {}", transport.name);
            cells += 1;
        }
        cells += 1;
    }
    println!("listed documents: {cells} cells tried");
}

/// It is told when to come again, in the error and in the head of an answer that has one.
fn is_limited(told: &Told, of: &str) {
    assert_eq!((told.code(), told.closed), ("RATE_LIMITED", None), "{of}: {told:?}");
    let wait_ms = told.answer["errors"][0]["extensions"]["retryAfterMs"].as_u64();
    assert!(wait_ms.is_some_and(|wait_ms| (1..=3_600_000).contains(&wait_ms)), "{of}: {told:?}");
    if told.status == Some(429) {
        assert_eq!(told.retry_after_s, wait_ms.map(|wait_ms| wait_ms.div_ceil(1000)), "{of}: {told:?}");
    }
}

#[tokio::test]
async fn who_comes_too_often_is_told_so_on_every_transport() {
    let app = App::start_with(&[("RATE_LIMIT_REQUESTS", "1/h:12")]).await;
    let asked = ["{ me { login } }", "{", "mutation { logout }", "subscription { unread { total } }"]
        .map(Asked::bare);
    let mut cells = 0;
    for (number, transport) in TRANSPORTS.iter().enumerate() {
        let person = Person::register(&app, &format!("person{number}")).await;
        let caller = Caller::of(&person);
        for _ in 0..12 {
            person.data("{ __typename }", json!({})).await;
        }
        for asked in asked.iter().filter(|asked| transport.carries(asked)) {
            let calls = app.metric("grpc_client_calls_total").await;
            let told = (transport.ask)(&caller, asked).await;
            is_limited(&told, transport.name);
            // A batch is refused whole: the client sends it again.
            assert_eq!(
                told.status,
                (transport.kind != Kind::Socket).then_some(429),
                "{}: {told:?}",
                transport.name
            );
            assert_eq!(app.metric("grpc_client_calls_total").await, calls, "{}", transport.name);
            cells += 1;
        }
    }
    println!("rates of operations: {cells} cells tried");
}

#[tokio::test]
async fn who_guesses_passwords_is_stopped_on_every_transport() {
    let app = App::start_with(&[("RATE_LIMIT_SIGN_IN", "0,2/h")]).await;
    let nobody = Caller { url: app.url.clone(), http: reqwest::Client::new(), token: None };
    let mut cells = 0;
    for (number, transport) in TRANSPORTS.iter().enumerate() {
        let input: Value = json!({"input": {"login": format!("nobody{number}"), "password": PASSWORD}});
        let asked = Asked::new(LOGIN, input);
        if !transport.carries(&asked) {
            continue;
        }
        for _ in 0..2 {
            let told = (transport.ask)(&nobody, &asked).await;
            assert_eq!(told.code(), "UNAUTHENTICATED", "{}: {told:?}", transport.name);
        }
        let calls = app.metric("grpc_client_calls_total").await;
        let told = (transport.ask)(&nobody, &asked).await;
        is_limited(&told, transport.name);
        assert_eq!(told.status, status(transport.kind, 429, 429), "{}: {told:?}", transport.name);
        assert_eq!(
            app.metric("grpc_client_calls_total").await,
            calls,
            "{}: nothing was hashed",
            transport.name
        );
        cells += 1;
    }
    println!("rates of signing in: {cells} cells tried");
}
