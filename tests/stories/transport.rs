//! The ways in which an operation reaches the gateway, as a list: a table that walks it tries its rows on each. Another
//! transport joins by a line of [`TRANSPORTS`].

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};

use crate::device::Device;

/// Every transport.
pub const TRANSPORTS: [Transport; 4] = [
    Transport { name: "POST", mutations: true, streams: false, ask: |caller, asked| post(caller, asked).boxed() },
    Transport { name: "GET", mutations: false, streams: false, ask: |caller, asked| get(caller, asked).boxed() },
    Transport { name: "batch", mutations: true, streams: false, ask: |caller, asked| batch(caller, asked).boxed() },
    Transport {
        name: "graphql-transport-ws",
        mutations: true,
        streams: true,
        ask: |caller, asked| socket(caller, asked, MODERN).boxed(),
    },
];

/// One way for an operation.
pub struct Transport {
    pub name: &'static str,
    mutations: bool,
    streams: bool,
    /// Asks as this caller, and says what came back.
    pub ask: for<'a> fn(&'a Caller, &'a Asked) -> BoxFuture<'a, Told>,
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Asked {
    pub document: String,
    pub variables: Value,
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
    /// The code with which a socket was closed.
    pub closed: Option<u16>,
    /// The response of the operation, or its first one.
    pub answer: Value,
}

impl Asked {
    /// A document without variables.
    pub fn bare(document: impl Into<String>) -> Self {
        Self::new(document, json!({}))
    }

    /// A document with its variables.
    pub fn new(document: impl Into<String>, variables: Value) -> Self {
        Self { document: document.into(), variables }
    }

    fn body(&self) -> Value {
        json!({"query": self.document, "variables": self.variables})
    }
}

impl Transport {
    /// Whether operations of this kind go this way.
    pub fn carries(&self, asked: &Asked) -> bool {
        match asked.document.trim_start() {
            document if document.starts_with("mutation") => self.mutations,
            document if document.starts_with("subscription") => self.streams,
            _ => true,
        }
    }
}

impl Told {
    /// The code of the first error, or `none`.
    pub fn code(&self) -> &str {
        self.answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }

    fn closed(code: u16) -> Self {
        Self { status: None, closed: Some(code), answer: Value::Null }
    }
}

async fn sent(caller: &Caller, request: reqwest::RequestBuilder) -> Told {
    let request = request.header("accept", "application/graphql-response+json");
    let request = if let Some(token) = &caller.token { request.bearer_auth(token) } else { request };
    let answer = request.send().await.unwrap();
    let status = Some(answer.status().as_u16());
    Told { status, closed: None, answer: answer.json().await.unwrap_or_default() }
}

async fn post(caller: &Caller, asked: &Asked) -> Told {
    sent(caller, caller.http.post(format!("{}/graphql", caller.url)).json(&asked.body())).await
}

async fn get(caller: &Caller, asked: &Asked) -> Told {
    let parameters = [("query", asked.document.clone()), ("variables", asked.variables.to_string())];
    let url = reqwest::Url::parse_with_params(&format!("{}/graphql", caller.url), &parameters).unwrap();
    sent(caller, caller.http.get(url)).await
}

/// The second of two operations.
async fn batch(caller: &Caller, asked: &Asked) -> Told {
    let body = json!([{"query": "{ __typename }"}, asked.body()]);
    let mut told = sent(caller, caller.http.post(format!("{}/graphql", caller.url)).json(&body)).await;
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

/// A socket of its own, closed after the first result.
async fn socket(caller: &Caller, asked: &Asked, words: Words) -> Told {
    let mut device = Device::open_as(&caller.url, words.name).await;
    let payload = caller.token.as_ref().map(|token| json!({"authorization": format!("Bearer {token}")}));
    device.say(json!({"type": "connection_init", "payload": payload})).await;
    match device.heard().await {
        Ok(message) => assert_eq!(message["type"], "connection_ack", "{message}"),
        Err(code) => return Told::closed(code),
    }
    device.say(json!({"id": "1", "type": words.begin, "payload": asked.body()})).await;
    match device.heard().await {
        Ok(mut message) => {
            let payload = message["payload"].take();
            let answer = match message["type"].as_str() {
                Some("error") => json!({"errors": payload}),
                Some(kind) if kind == words.result => payload,
                _ => panic!("{message}"),
            };
            Told { status: None, closed: None, answer }
        }
        Err(code) => Told::closed(code),
    }
}
