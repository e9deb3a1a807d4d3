//! What somebody might send to hurt: a row for every attack and way, with what it must come to.

use std::{fmt, iter::repeat_n};

use serde_json::{Value, json};

/// An attack.
pub struct Attack {
    pub name: String,
    /// The way that it comes.
    pub by: &'static str,
    pub sent: Sent,
    pub refusal: Refusal,
    /// Whether it takes a parsed document to see it.
    pub parsed: bool,
}

/// What is sent.
pub enum Sent {
    /// A request over HTTP.
    Request(Request),
    /// A text on a socket.
    Message(String),
    /// The head of a frame of so many bytes, on a socket.
    Announced(u64),
}

/// A request by hand.
pub struct Request {
    /// The method and what it is asked of.
    pub line: String,
    pub content_type: &'static str,
    /// How long the body is said to be.
    pub length: Option<usize>,
    pub body: String,
    /// How often the body is sent.
    pub times: usize,
}

/// What it must come to.
#[derive(Clone, Copy)]
pub enum Refusal {
    /// A status with this code, for all that was asked.
    Whole(u16, &'static str),
    /// 200, with this code for each operation.
    Each(&'static str),
    /// An error of the operation; its socket lives.
    Error(&'static str),
    /// The socket is closed.
    Close(u16),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(status, code) => write!(f, "{status} {code}"),
            Self::Each(code) => write!(f, "each {code}"),
            Self::Error(code) => write!(f, "error {code}"),
            Self::Close(code) => write!(f, "close {code}"),
        }
    }
}

use Refusal::{Close, Each, Error, Whole};

const LIMIT: &str = "LIMIT_EXCEEDED";
const BAD: &str = "BAD_REQUEST";
const INVALID: &str = "GRAPHQL_VALIDATION_FAILED";
const JSON: &str = "application/json";
/// The bounds of a body and of a batch.
const BODY_MAX: usize = 1_000_000;
const BATCH_MAX: usize = 10;
const LARGE: usize = 60 << 20;

fn attack(name: &str, by: &'static str, sent: Sent, refusal: Refusal) -> Attack {
    Attack { name: name.to_owned(), by, sent, refusal, parsed: false }
}

fn post(content_type: &'static str, body: String) -> Sent {
    Sent::Request(Request {
        line: "POST /graphql".to_owned(),
        content_type,
        length: Some(body.len()),
        body,
        times: 1,
    })
}

/// As often as one batch takes it.
fn batch(body: &str) -> String {
    let times = (BODY_MAX / (body.len() + 1)).clamp(1, BATCH_MAX);
    format!("[{}]", repeat_n(body, times).collect::<Vec<_>>().join(","))
}

/// Begins an operation.
fn subscribe(payload: &str) -> Sent {
    Sent::Message(format!(r#"{{"type":"subscribe","id":"1","payload":{payload}}}"#))
}

/// A document that is refused with this code, by POST, in a batch and over a socket.
fn document(name: &str, text: &str, code: &'static str) -> [Attack; 3] {
    let body = json!({"query": text}).to_string();
    [
        attack(name, "POST", post(JSON, body.clone()), Whole(400, code)),
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
    [
        document("101 aliases", &aliases, LIMIT),
        document("introspection 42 deep", &introspection, LIMIT),
        document("introspection, 10 lists in each other", &lists, LIMIT),
        document("100 directives on a field", &directives, LIMIT),
        document("one field 500 times", &repeated, LIMIT),
        document("a fragment cycle", cycle, INVALID),
        document("a fragment bomb of 10^10", &bomb, LIMIT),
        document("a fragment bomb of 2^40", &doubling, LIMIT),
        document("depth 50", &depth, LIMIT),
        document("a list of lists of 100", &lists_of_lists, LIMIT),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is too large to be looked at.
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
        attack(name, "POST", Sent::Request(request), Whole(413, LIMIT))
    };
    let chunk = "x".repeat(1 << 16);
    let chunked = format!("{:x}\r\n{chunk}\r\n", chunk.len());
    let many = |count: usize| Value::from(vec![json!({"query": "{ me { id } }"}); count]).to_string();
    let (bodies, frame) = (LARGE / chunk.len(), 1 << 20);
    vec![
        attack("900,000 brackets", "POST", post(JSON, brackets(900_000)), Whole(400, LIMIT)),
        attack("900,000 brackets", "batch", post(JSON, batch(&brackets(900_000))), Each(LIMIT)),
        attack("99,000 brackets ten times", "batch", post(JSON, batch(&brackets(99_000))), Each(LIMIT)),
        attack("60,000 brackets", "socket", subscribe(&brackets(60_000)), Error(LIMIT)),
        attack("1,000,000 brackets", "POST", post(JSON, brackets(1_000_000)), Whole(413, LIMIT)),
        attack("1,000,000 brackets", "batch", post(JSON, batch(&brackets(1_000_000))), Whole(413, LIMIT)),
        attack("1,000,000 brackets, announced", "socket", Sent::Announced(1_000_000), Close(1009)),
        attack("variables of 1 MB", "POST", post(JSON, variables(1_000_000)), Whole(413, LIMIT)),
        attack("variables of 900 kB", "POST", post(JSON, variables(900_000)), Whole(400, LIMIT)),
        attack("variables of 900 kB", "batch", post(JSON, batch(&variables(900_000))), Whole(400, LIMIT)),
        attack("variables of 1 MB, announced", "socket", Sent::Announced(frame), Close(1009)),
        attack("a frame of 64 kB and more", "socket", subscribe(&variables(64 * 1024)), Close(1009)),
        attack("a batch of 100", "batch", post(JSON, many(100)), Whole(400, LIMIT)),
        large("a body of 60 MB, announced", "", 0, Some(LARGE)),
        large("a body of 60 MB, sent", &chunk, bodies, Some(LARGE)),
        large("a body of 60 MB, in chunks", &chunked, bodies, None),
    ]
}

/// What is no request.
fn shapes() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for shape in [
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
        let name = format!("`{shape}`");
        attacks.push(attack(&name, "POST", post(JSON, shape.to_owned()), Whole(400, BAD)));
        attacks.push(attack(&name, "batch", post(JSON, format!("[{shape}]")), Whole(400, BAD)));
        attacks.push(attack(&name, "socket", subscribe(shape), Close(4400)));
    }
    for (shape, closed) in [("{}", true), (r#"{"extensions":{"persistedQuery":1}}"#, false)] {
        let name = format!("`{shape}`");
        attacks.push(attack(&name, "POST", post(JSON, shape.to_owned()), Whole(400, BAD)));
        attacks.push(attack(&name, "batch", post(JSON, batch(shape)), Each(BAD)));
        attacks.push(attack(
            &name,
            "socket",
            subscribe(shape),
            if closed { Close(4400) } else { Error(BAD) },
        ));
    }
    let lists = |count| "[".repeat(count);
    attacks.push(attack("JSON of 900,000 lists", "POST", post(JSON, lists(900_000)), Whole(400, BAD)));
    attacks.push(attack("JSON of 60,000 lists", "socket", subscribe(&lists(60_000)), Close(4400)));
    attacks
}

/// What goes another way than it may.
fn ways() -> Vec<Attack> {
    let link = Request {
        line: "GET /graphql?query=mutation%7Blogout%7D".to_owned(),
        content_type: JSON,
        length: None,
        body: String::new(),
        times: 0,
    };
    let link = attack("a mutation by GET", "GET", Sent::Request(link), Whole(405, BAD));
    let mut attacks = vec![Attack { parsed: true, ..link }];
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"] {
        let body = json!({"query": "mutation { logout }"}).to_string();
        attacks.push(attack(&format!("a post as {kind}"), "POST", post(kind, body), Whole(415, BAD)));
    }
    attacks
}

/// The table.
pub fn attacks() -> Vec<Attack> {
    [documents(), sizes(), shapes(), ways()].into_iter().flatten().collect()
}

/// What must not tell names of the schema, where they are not told.
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
