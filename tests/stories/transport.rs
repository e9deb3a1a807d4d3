//! The ways in which an operation reaches the gateway, as a list: a table that walks it tries its rows on each. Another
//! transport joins by a line of [`TRANSPORTS`].

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};

use crate::{
    device::Device,
    person::Person,
    streams::{EVENTS, Stream},
};

const ANSWER: &str = "application/graphql-response+json";
/// Parts, and nothing else.
const PARTS: &str = "multipart/mixed;subscriptionSpec=1.0";

/// Every transport.
pub const TRANSPORTS: [Transport; 7] = [
    transport("POST", Kind::Answer, |caller, asked| post(caller, asked, ANSWER).boxed()),
    transport("GET", Kind::Link, |caller, asked| get(caller, asked).boxed()),
    transport("batch", Kind::Batch, |caller, asked| batch(caller, asked).boxed()),
    transport("server-sent events", Kind::Stream, |caller, asked| post(caller, asked, EVENTS).boxed()),
    transport("multipart", Kind::Stream, |caller, asked| post(caller, asked, PARTS).boxed()),
    transport("graphql-transport-ws", Kind::Socket, |caller, asked| socket(caller, asked, MODERN).boxed()),
    transport("graphql-ws", Kind::Socket, |caller, asked| socket(caller, asked, OLD).boxed()),
];

/// What ways have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One answer over HTTP.
    Answer,
    /// The same, without a body: nothing is changed by following it.
    Link,
    /// Several answers over HTTP, with one status.
    Batch,
    /// Results over HTTP as they come.
    Stream,
    /// Messages, and no status.
    Socket,
}

type Ask = for<'a> fn(&'a Caller, &'a Asked) -> BoxFuture<'a, Told>;

/// One way for an operation.
pub struct Transport {
    pub name: &'static str,
    pub kind: Kind,
    /// Asks as this caller, and says what came back.
    pub ask: Ask,
}

const fn transport(name: &'static str, kind: Kind, ask: Ask) -> Transport {
    Transport { name, kind, ask }
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Empty where it is only named.
    pub document: String,
    pub variables: Value,
    pub extensions: Value,
}

/// Who asks, and where.
#[derive(Clone)]
pub struct Caller {
    pub url: String,
    pub http: reqwest::Client,
    pub token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Told {
    /// The status over HTTP.
    pub status: Option<u16>,
    /// After how many seconds one may come again, as the head of the answer says it.
    pub retry_after_s: Option<u64>,
    /// The code with which a socket was closed.
    pub closed: Option<u16>,
    /// The response of the operation, or its first one.
    pub answer: Value,
}

impl Caller {
    /// This person.
    pub fn of(person: &Person) -> Self {
        Self { url: person.url.clone(), http: person.http.clone(), token: Some(person.token.clone()) }
    }
}

impl Asked {
    /// A document without variables.
    pub fn bare(document: impl Into<String>) -> Self {
        Self::new(document, json!({}))
    }

    /// A document with its variables.
    pub fn new(document: impl Into<String>, variables: Value) -> Self {
        Self { document: document.into(), variables, extensions: json!({}) }
    }

    /// By the hash of a document alone.
    pub fn named(hash: &str) -> Self {
        let persisted = json!({"persistedQuery": {"version": 1, "sha256Hash": hash}});
        Self { extensions: persisted, ..Self::bare("") }
    }

    fn body(&self) -> Value {
        let mut body = json!({"variables": self.variables, "extensions": self.extensions});
        if !self.document.is_empty() {
            body["query"] = json!(self.document);
        }
        body
    }
}

impl Transport {
    /// Whether operations of this kind go this way.
    pub fn carries(&self, asked: &Asked) -> bool {
        match asked.document.trim_start() {
            document if document.starts_with("mutation") => self.kind != Kind::Link,
            document if document.starts_with("subscription") => {
                matches!(self.kind, Kind::Stream | Kind::Socket)
            }
            _ => true,
        }
    }
}

impl Told {
    /// The code of the first error, or `none`.
    pub fn code(&self) -> &str {
        self.answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }

    /// Of a socket.
    pub fn answered(answer: Value) -> Self {
        Self { status: None, retry_after_s: None, closed: None, answer }
    }

    /// Of a socket that was closed with this code.
    pub fn closed(code: u16) -> Self {
        Self { closed: Some(code), ..Self::answered(Value::Null) }
    }
}

async fn sent(caller: &Caller, request: reqwest::RequestBuilder, accept: &str) -> Told {
    let request = request.header("accept", accept);
    let request = if let Some(token) = &caller.token { request.bearer_auth(token) } else { request };
    let answer = request.send().await.unwrap();
    let status = Some(answer.status().as_u16());
    let wait_s = answer.headers().get("retry-after").map(|wait_s| wait_s.to_str().unwrap().parse().unwrap());
    Told { status, retry_after_s: wait_s, ..Told::answered(Stream::first(answer).await) }
}

async fn post(caller: &Caller, asked: &Asked, accept: &str) -> Told {
    sent(caller, caller.http.post(format!("{}/graphql", caller.url)).json(&asked.body()), accept).await
}

async fn get(caller: &Caller, asked: &Asked) -> Told {
    let [variables, extensions] = [&asked.variables, &asked.extensions].map(Value::to_string);
    let parameters = [("query", &asked.document), ("variables", &variables), ("extensions", &extensions)];
    let url = reqwest::Url::parse_with_params(&format!("{}/graphql", caller.url), &parameters).unwrap();
    sent(caller, caller.http.get(url), ANSWER).await
}

/// The second of two operations.
async fn batch(caller: &Caller, asked: &Asked) -> Told {
    let body = json!([{"query": "{ __typename }"}, asked.body()]);
    let mut told =
        sent(caller, caller.http.post(format!("{}/graphql", caller.url)).json(&body), ANSWER).await;
    if let Some(answer) = told.answer.get_mut(1) {
        told.answer = answer.take();
    }
    told
}

/// The words of a subprotocol.
#[derive(Clone, Copy)]
struct Words {
    name: &'static str,
    begin: &'static str,
    result: &'static str,
}

const MODERN: Words = Words { name: "graphql-transport-ws", begin: "subscribe", result: "next" };
const OLD: Words = Words { name: "graphql-ws", begin: "start", result: "data" };

/// A socket of its own, closed after the first result.
async fn socket(caller: &Caller, asked: &Asked, words: Words) -> Told {
    let mut device = Device::open_as(&caller.url, words.name).await;
    let payload = caller.token.as_ref().map(|token| json!({"authorization": format!("Bearer {token}")}));
    device.say(json!({"type": "connection_init", "payload": payload})).await;
    match device.heard().await {
        Ok(message) if message["type"] == "connection_ack" => {}
        // The old protocol says why before it closes.
        Ok(message) if message["type"] == "connection_error" => return Told::closed(device.closed().await.0),
        Ok(message) => panic!("{message}"),
        Err(code) => return Told::closed(code),
    }
    device.say(json!({"id": "1", "type": words.begin, "payload": asked.body()})).await;
    match device.heard().await {
        Ok(mut message) => {
            let payload = message["payload"].take();
            let answer = match message["type"].as_str() {
                // An array, or in the old protocol an object that has it.
                Some("error") => json!({"errors": payload.get("errors").unwrap_or(&payload)}),
                Some(kind) if kind == words.result => payload,
                _ => panic!("{message}"),
            };
            Told::answered(answer)
        }
        Err(code) => Told::closed(code),
    }
}
