//! Every transport that carries an operation to the gateway. Table tests run their rows on each of
//! [`TRANSPORTS`]; a new transport needs one entry there.

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};

use crate::{
    caller::Caller,
    socket_client::SocketClient,
    streams::{EVENTS, Stream},
};

/// `Accept` header for a single response.
const SINGLE: &str = "application/graphql-response+json";
/// `Accept` header for multipart responses only.
const PARTS: &str = "multipart/mixed;subscriptionSpec=1.0";

/// Every transport.
pub const TRANSPORTS: [Transport; 7] = [
    transport("POST", Kind::Single, |client, operation| post(client, operation, SINGLE).boxed()),
    transport("GET", Kind::Get, |client, operation| get(client, operation).boxed()),
    transport("batch", Kind::Batch, |client, operation| batch(client, operation).boxed()),
    transport("server-sent events", Kind::Stream, |client, operation| {
        post(client, operation, EVENTS).boxed()
    }),
    transport("multipart", Kind::Stream, |client, operation| post(client, operation, PARTS).boxed()),
    transport("graphql-transport-ws", Kind::Socket, |client, operation| {
        socket(client, operation, MODERN).boxed()
    }),
    transport("graphql-ws", Kind::Socket, |client, operation| socket(client, operation, OLD).boxed()),
];

/// Class of transports with the same statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One response to a POST.
    Single,
    /// One response to a GET, which executes no mutation.
    Get,
    /// Several responses with one HTTP status.
    Batch,
    /// Results in a stream over HTTP.
    Stream,
    /// Messages of a WebSocket, without a status.
    Socket,
}

type Execute = for<'a> fn(&'a Client, &'a Operation) -> BoxFuture<'a, Response>;

/// A transport with the function that executes an operation over it.
pub struct Transport {
    pub name: &'static str,
    pub kind: Kind,
    /// Executes an operation as this client.
    pub execute: Execute,
}

const fn transport(name: &'static str, kind: Kind, execute: Execute) -> Transport {
    Transport { name, kind, execute }
}

/// A GraphQL operation to send.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Text of the document; empty where the operation is sent by hash only.
    pub document: String,
    /// Name of the operation to run, `None` if the document has only one.
    pub name: Option<&'static str>,
    pub variables: Value,
    pub extensions: Value,
}

/// A client with the gateway's address and, unless anonymous, an access token.
#[derive(Clone)]
pub struct Client {
    pub url: String,
    pub http: reqwest::Client,
    pub token: Option<String>,
}

/// The gateway's response, over any transport.
#[derive(Debug)]
pub struct Response {
    /// HTTP status; `None` over a socket.
    pub status: Option<u16>,
    /// Value of the `Retry-After` header.
    pub retry_after_s: Option<u64>,
    /// Close code, if the gateway closed the socket.
    pub close_code: Option<u16>,
    /// First result of the operation.
    pub answer: Value,
}

impl Client {
    /// Returns a client that sends the caller's access token.
    pub fn of(caller: &Caller) -> Self {
        Self { url: caller.url.clone(), http: caller.http.clone(), token: Some(caller.token.clone()) }
    }
}

impl Operation {
    /// Creates an operation without variables.
    pub fn document(document: impl Into<String>) -> Self {
        Self::new(document, json!({}))
    }

    /// Creates an operation with variables.
    pub fn new(document: impl Into<String>, variables: Value) -> Self {
        Self { document: document.into(), name: None, variables, extensions: json!({}) }
    }

    /// Creates an operation that has only the hash of a persisted query.
    pub fn persisted(hash: &str) -> Self {
        let persisted = json!({"persistedQuery": {"version": 1, "sha256Hash": hash}});
        Self { extensions: persisted, ..Self::document("") }
    }

    fn body(&self) -> Value {
        let mut body = json!({"variables": self.variables, "extensions": self.extensions});
        if let Some(name) = self.name {
            body["operationName"] = json!(name);
        }
        if !self.document.is_empty() {
            body["query"] = json!(self.document);
        }
        body
    }
}

impl Transport {
    /// Returns true when the transport can carry the operation: no mutation by GET, subscriptions only
    /// in streams.
    pub fn carries(&self, operation: &Operation) -> bool {
        match operation.document.trim_start() {
            document if document.starts_with("mutation") => self.kind != Kind::Get,
            document if document.starts_with("subscription") => {
                matches!(self.kind, Kind::Stream | Kind::Socket)
            }
            _ => true,
        }
    }
}

impl Response {
    /// Returns the code of the first error, or `none`.
    pub fn code(&self) -> &str {
        self.answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }

    /// Creates the response of a socket.
    pub fn without_status(answer: Value) -> Self {
        Self { status: None, retry_after_s: None, close_code: None, answer }
    }

    /// Creates the response of a socket that was closed.
    pub fn closed(code: u16) -> Self {
        Self { close_code: Some(code), ..Self::without_status(Value::Null) }
    }
}

async fn sent(client: &Client, request: reqwest::RequestBuilder, accept: &str) -> Response {
    let request = request.header("accept", accept);
    let request = if let Some(token) = &client.token { request.bearer_auth(token) } else { request };
    let answer = request.send().await.unwrap();
    let status = Some(answer.status().as_u16());
    let wait_s = answer.headers().get("retry-after").map(|wait_s| wait_s.to_str().unwrap().parse().unwrap());
    Response { status, retry_after_s: wait_s, ..Response::without_status(Stream::first(answer).await) }
}

async fn post(client: &Client, operation: &Operation, accept: &str) -> Response {
    sent(client, client.http.post(format!("{}/graphql", client.url)).json(&operation.body()), accept).await
}

async fn get(client: &Client, operation: &Operation) -> Response {
    let [variables, extensions] = [&operation.variables, &operation.extensions].map(Value::to_string);
    let mut parameters = vec![
        ("query", operation.document.as_str()),
        ("variables", variables.as_str()),
        ("extensions", extensions.as_str()),
    ];
    parameters.extend(operation.name.map(|name| ("operationName", name)));
    let url = reqwest::Url::parse_with_params(&format!("{}/graphql", client.url), &parameters).unwrap();
    sent(client, client.http.get(url), SINGLE).await
}

/// Sends a batch of two operations. Returns the result of the second.
async fn batch(client: &Client, operation: &Operation) -> Response {
    let body = json!([{"query": "{ __typename }"}, operation.body()]);
    let mut response =
        sent(client, client.http.post(format!("{}/graphql", client.url)).json(&body), SINGLE).await;
    if let Some(answer) = response.answer.get_mut(1) {
        response.answer = answer.take();
    }
    response
}

/// Message types of a WebSocket subprotocol.
#[derive(Clone, Copy)]
struct Subprotocol {
    name: &'static str,
    subscribe: &'static str,
    result: &'static str,
}

const MODERN: Subprotocol =
    Subprotocol { name: "graphql-transport-ws", subscribe: "subscribe", result: "next" };
const OLD: Subprotocol = Subprotocol { name: "graphql-ws", subscribe: "start", result: "data" };

/// Opens a socket for one operation and returns its first result.
async fn socket(client: &Client, operation: &Operation, subprotocol: Subprotocol) -> Response {
    let mut socket = SocketClient::open_as(&client.url, subprotocol.name).await;
    let payload = client.token.as_ref().map(|token| json!({"authorization": format!("Bearer {token}")}));
    socket.send(json!({"type": "connection_init", "payload": payload})).await;
    match socket.receive_or_close().await {
        Ok(message) if message["type"] == "connection_ack" => {}
        // The old protocol sends an error before it closes the socket.
        Ok(message) if message["type"] == "connection_error" => {
            return Response::closed(socket.wait_for_close().await.0);
        }
        Ok(message) => panic!("{message}"),
        Err(code) => return Response::closed(code),
    }
    socket.send(json!({"id": "1", "type": subprotocol.subscribe, "payload": operation.body()})).await;
    match socket.receive_or_close().await {
        Ok(mut message) => {
            let payload = message["payload"].take();
            let answer = match message["type"].as_str() {
                // An array; in the old protocol an object that contains it.
                Some("error") => json!({"errors": payload.get("errors").unwrap_or(&payload)}),
                Some(kind) if kind == subprotocol.result => payload,
                _ => panic!("{message}"),
            };
            Response::without_status(answer)
        }
        Err(code) => Response::closed(code),
    }
}
