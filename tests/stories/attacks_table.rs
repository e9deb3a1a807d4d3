//! Table of attacks: a row for every attack and transport, with the expected rejection.

use std::{fmt, iter::repeat_n};

use serde_json::{Value, json};

/// An attack over one transport.
pub struct Attack {
    pub name: String,
    pub transport: &'static str,
    pub payload: Payload,
    pub rejection: Rejection,
    /// The document must be parsed to recognise the attack.
    pub parsed: bool,
}

/// Bytes to send.
pub enum Payload {
    /// An HTTP request.
    Request(Request),
    /// A text message on a socket.
    Message(String),
    /// The header of a frame with this length, on a socket.
    FrameHeader(u64),
}

/// A raw HTTP request.
pub struct Request {
    /// Method and path.
    pub line: String,
    pub content_type: &'static str,
    /// `Content-Length`; chunked without it.
    pub length: Option<usize>,
    pub body: String,
    /// Number of times that the body is sent.
    pub times: usize,
}

/// Expected rejection.
#[derive(Clone, Copy)]
pub enum Rejection {
    /// This status and code for the whole request.
    All(u16, &'static str),
    /// Status 200, with this code for each operation of the batch.
    Each(&'static str),
    /// An error of the operation; the socket stays open.
    Error(&'static str),
    /// The socket is closed with this code.
    Close(u16),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(status, code) => write!(f, "{status} {code}"),
            Self::Each(code) => write!(f, "each {code}"),
            Self::Error(code) => write!(f, "error {code}"),
            Self::Close(code) => write!(f, "close {code}"),
        }
    }
}

use Rejection::{All, Close, Each, Error};

const LIMIT: &str = "LIMIT_EXCEEDED";
const BAD: &str = "BAD_REQUEST";
const INVALID: &str = "GRAPHQL_VALIDATION_FAILED";
const JSON: &str = "application/json";
/// Limits of a body and of a batch.
const BODY_MAX: usize = 1_000_000;
const BATCH_MAX: usize = 10;
/// Size of an oversized body.
const LARGE: usize = 60 << 20;

fn attack(name: &str, transport: &'static str, payload: Payload, rejection: Rejection) -> Attack {
    Attack { name: name.to_owned(), transport, payload, rejection, parsed: false }
}

fn post(content_type: &'static str, body: String) -> Payload {
    Payload::Request(Request {
        line: "POST /graphql".to_owned(),
        content_type,
        length: Some(body.len()),
        body,
        times: 1,
    })
}

/// Returns a batch with as many copies as its limits allow.
fn batch(body: &str) -> String {
    let times = (BODY_MAX / (body.len() + 1)).clamp(1, BATCH_MAX);
    format!("[{}]", repeat_n(body, times).collect::<Vec<_>>().join(","))
}

/// Returns the message that starts an operation.
fn subscribe(payload: &str) -> Payload {
    Payload::Message(format!(r#"{{"type":"subscribe","id":"1","payload":{payload}}}"#))
}

/// Returns a document that is rejected with this code by POST, in a batch and over a socket.
fn document(name: &str, text: &str, code: &'static str) -> [Attack; 3] {
    let body = json!({"query": text}).to_string();
    [
        attack(name, "POST", post(JSON, body.clone()), All(400, code)),
        attack(name, "batch", post(JSON, batch(&body)), Each(code)),
        attack(name, "socket", subscribe(&body), Error(code)),
    ]
    .map(|attack| Attack { parsed: true, ..attack })
}

fn times(count: usize, field: impl Fn(usize) -> String) -> String {
    (0..count).map(field).collect::<Vec<_>>().join(" ")
}

fn documents() -> Vec<Attack> {
    let aliases = format!("{{ me {{ {} }} }}", times(101, |n| format!("a{n}: id")));
    let nested =
        |field: &str, count| format!("{}name{}", format!("{field} {{ ").repeat(count), " }".repeat(count));
    let introspection = format!("{{ __type(name: \"User\") {{ {} }} }}", nested("ofType", 40));
    let lists = format!("{{ __schema {{ {} }} }}", nested("types { fields { type { name } } } fields", 10));
    let directives = format!("{{ me {{ id {} }} }}", "@include(if: true) ".repeat(100));
    let repeated = format!("{{ me {{ {} }} }}", "id ".repeat(500));
    let cycle = "{ me { ...A } } fragment A on User { ...B } fragment B on User { ...A }";
    let spreads = |next: usize| times(10, |n| format!("x{n} {{ ...F{next} }}"));
    let bomb = times(10, |n| format!("fragment F{n} on User {{ {} }}", spreads(n + 1)));
    let bomb = format!("{{ me {{ ...F0 }} }} {bomb} fragment F10 on User {{ id }}");
    let doubling = times(40, |n| format!("fragment F{n} on User {{ ...F{0} ...F{0} }}", n + 1));
    let doubling = format!("{{ me {{ ...F0 }} }} {doubling} fragment F40 on User {{ id }}");
    let depth = format!("{{ {} }}", nested("me", 49));
    let page = "(first: 100) { nodes {";
    let lists_of_lists = format!(
        "{{ dialogs{page} messages{page} sender {{ id name }} }} }} participants{page} id }} }} }} }} }}"
    );
    let sessions = format!("{{ dialogs{page} participants{page} sessions {{ userAgent }} }} }} }} }} }}");
    [
        document("101 aliases", &aliases, LIMIT),
        document("introspection 42 deep", &introspection, LIMIT),
        document("introspection, 10 nested lists", &lists, LIMIT),
        document("100 directives on a field", &directives, LIMIT),
        document("one field 500 times", &repeated, LIMIT),
        document("a fragment cycle", cycle, INVALID),
        document("a fragment bomb of 10^10", &bomb, LIMIT),
        document("a fragment bomb of 2^40", &doubling, LIMIT),
        document("depth 50", &depth, LIMIT),
        document("a list of lists of 100", &lists_of_lists, LIMIT),
        document("the sessions of each participant", &sessions, LIMIT),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Requests that are too large.
fn sizes() -> Vec<Attack> {
    let brackets = |count: usize| json!({"query": "{".repeat(count)}).to_string();
    let variables =
        |bytes: usize| json!({"query": "{ me { id } }", "variables": {"x": "y".repeat(bytes)}}).to_string();
    let large = |name: &str, body: &str, times, length| {
        let request = Request {
            line: "POST /graphql".to_owned(),
            content_type: JSON,
            length,
            body: body.to_owned(),
            times,
        };
        attack(name, "POST", Payload::Request(request), All(413, LIMIT))
    };
    let chunk = "x".repeat(1 << 16);
    let chunked = format!("{:x}\r\n{chunk}\r\n", chunk.len());
    let many = |count: usize| Value::from(vec![json!({"query": "{ me { id } }"}); count]).to_string();
    let bodies = LARGE / chunk.len();
    let frame = 1 << 20;
    vec![
        attack("900,000 brackets", "POST", post(JSON, brackets(900_000)), All(400, LIMIT)),
        attack("900,000 brackets", "batch", post(JSON, batch(&brackets(900_000))), Each(LIMIT)),
        attack("99,000 brackets ten times", "batch", post(JSON, batch(&brackets(99_000))), Each(LIMIT)),
        attack("60,000 brackets", "socket", subscribe(&brackets(60_000)), Error(LIMIT)),
        attack("1,000,000 brackets", "POST", post(JSON, brackets(1_000_000)), All(413, LIMIT)),
        attack("1,000,000 brackets", "batch", post(JSON, batch(&brackets(1_000_000))), All(413, LIMIT)),
        attack("1,000,000 brackets, announced", "socket", Payload::FrameHeader(1_000_000), Close(1009)),
        attack("variables of 1 MB", "POST", post(JSON, variables(1_000_000)), All(413, LIMIT)),
        attack("variables of 900 kB", "POST", post(JSON, variables(900_000)), All(400, LIMIT)),
        attack("variables of 900 kB", "batch", post(JSON, batch(&variables(900_000))), All(400, LIMIT)),
        attack("variables of 1 MB, announced", "socket", Payload::FrameHeader(frame), Close(1009)),
        attack("a frame of 64 kB and more", "socket", subscribe(&variables(64 * 1024)), Close(1009)),
        attack("a batch of 100", "batch", post(JSON, many(100)), All(400, LIMIT)),
        large("a body of 60 MB, announced", "", 0, Some(LARGE)),
        large("a body of 60 MB, sent", &chunk, bodies, Some(LARGE)),
        large("a body of 60 MB, in chunks", &chunked, bodies, None),
    ]
}

/// Requests that are malformed.
fn malformed() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for body in [
        r#"{"query":1}"#,
        r#"{"query":["{ me { id } }"]}"#,
        r#"{"query":{"a":1}}"#,
        r#"{"query":"{ me { id } }","variables":[1]}"#,
        r#"{"query":"{ me { id } }","variables":"{}"}"#,
        r#"{"query":"{ me { id } }","operationName":{}}"#,
        r#"{"query":"{ me { id } }","extensions":7}"#,
        "1",
        r#""{ me { id } }""#,
        "null",
        "[]",
        "{\"query\"",
    ] {
        let name = format!("`{body}`");
        attacks.push(attack(&name, "POST", post(JSON, body.to_owned()), All(400, BAD)));
        attacks.push(attack(&name, "batch", post(JSON, format!("[{body}]")), All(400, BAD)));
        attacks.push(attack(&name, "socket", subscribe(body), Close(4400)));
    }
    for (body, closed) in [("{}", true), (r#"{"extensions":{"persistedQuery":1}}"#, false)] {
        let name = format!("`{body}`");
        attacks.push(attack(&name, "POST", post(JSON, body.to_owned()), All(400, BAD)));
        attacks.push(attack(&name, "batch", post(JSON, batch(body)), Each(BAD)));
        attacks.push(attack(&name, "socket", subscribe(body), if closed { Close(4400) } else { Error(BAD) }));
    }
    let lists = |count| "[".repeat(count);
    attacks.push(attack("JSON of 900,000 lists", "POST", post(JSON, lists(900_000)), All(400, BAD)));
    attacks.push(attack("JSON of 60,000 lists", "socket", subscribe(&lists(60_000)), Close(4400)));
    attacks
}

/// Requests with a method or content type that is not allowed.
fn wrong_methods() -> Vec<Attack> {
    let link = Request {
        line: "GET /graphql?query=mutation%7Blogout%7D".to_owned(),
        content_type: JSON,
        length: None,
        body: String::new(),
        times: 0,
    };
    let link = attack("a mutation by GET", "GET", Payload::Request(link), All(405, BAD));
    let mut attacks = vec![Attack { parsed: true, ..link }];
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"] {
        let body = json!({"query": "mutation { logout }"}).to_string();
        attacks.push(attack(&format!("a post as {kind}"), "POST", post(kind, body), All(415, BAD)));
    }
    attacks
}

/// Returns the table.
pub fn attacks() -> Vec<Attack> {
    [documents(), sizes(), malformed(), wrong_methods()].into_iter().flatten().collect()
}

/// Returns documents whose errors must not reveal the schema while introspection is off.
pub fn guesses() -> Vec<Attack> {
    [
        document("a misspelt field", "{ me { logn } }", INVALID),
        document("a misspelt root field", "{ mee { id } }", INVALID),
        document("a misspelt argument", "{ user(idd: 1) { id } }", INVALID),
        document(
            "a misspelt input",
            "mutation { login(input: {logn: \"a\", password: \"b\"}) { expiresAt } }",
            INVALID,
        ),
        document("a misspelt type", "query($id: IDD!) { user(id: $id) { id } }", INVALID),
        document("introspection", "{ __schema { types { name } } }", INVALID),
    ]
    .into_iter()
    .flatten()
    .collect()
}
