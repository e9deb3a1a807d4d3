//! A WebSocket with the subprotocol `graphql-transport-ws` and one subscription, to the counts of its user.

use std::time::Duration;

use axum::http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::api::{ANSWER_MAX, Api, Error};

/// Time without a message after which the connection counts as lost: the gateway pings every 20 s.
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// Largest message that is read.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
const UNREAD: &str = "subscription($since: String) { unread(since: $since) {
    kind version previousVersion total changed { dialogId unread } } }";

/// Open socket.
pub struct UnreadSocket<'a> {
    api: &'a Api,
    socket: WebSocketStream<TcpStream>,
}

impl<'a> UnreadSocket<'a> {
    /// Connects, authenticates and subscribes. With `since`, the stream resumes from that version.
    ///
    /// # Errors
    /// [`Error::Silent`] if the gateway does not accept the socket in time.
    pub async fn subscribe(api: &'a Api, token: &str, since: Option<&str>) -> Result<Self, Error> {
        let subscribing = async {
            let url = format!("ws://{}/graphql", api.url.authority());
            let mut request = url.into_client_request().map_err(|error| api.silent(error))?;
            let subprotocol = HeaderValue::from_static("graphql-transport-ws");
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
            let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX_BYTES));
            let opened = client_async_with_config(request, api.tcp().await?, Some(config)).await;
            let (socket, _) = opened.map_err(|error| api.silent(error))?;
            let mut socket = Self { api, socket };
            let authorization = format!("Bearer {token}");
            socket
                .send(json!({"type": "connection_init", "payload": {"authorization": authorization}}))
                .await?;
            let acknowledged = socket.receive().await?;
            if acknowledged["type"] != "connection_ack" {
                return Err(api.silent(acknowledged));
            }
            let payload = json!({"query": UNREAD, "variables": {"since": since}});
            socket.send(json!({"id": "unread", "type": "subscribe", "payload": payload})).await?;
            Ok(socket)
        };
        let subscribed = timeout(ANSWER_MAX, subscribing).await;
        subscribed.unwrap_or_else(|_| Err(api.silent("no WebSocket in 15 s")))
    }

    /// Receives the next frame.
    ///
    /// # Errors
    /// [`Error::Silent`] if the stream has ended.
    pub async fn frame(&mut self) -> Result<Value, Error> {
        let mut message = self.receive().await?;
        match message.pointer_mut("/payload/data/unread").map(Value::take) {
            Some(frame @ Value::Object(_)) => Ok(frame),
            _ => Err(self.api.silent(message)),
        }
    }

    /// Closes the socket with a close frame.
    pub async fn close(mut self) {
        drop(timeout(Duration::from_secs(1), self.socket.close(None)).await);
    }

    /// Receives the next message other than pings, which it answers.
    async fn receive(&mut self) -> Result<Value, Error> {
        loop {
            let next = timeout(SILENCE_MAX, self.socket.next()).await;
            let next = next.map_err(|_| self.api.silent("no ping in 50 s"))?;
            match next.transpose().map_err(|error| self.api.silent(error))? {
                Some(Message::Text(text)) => {
                    let message: Value = serde_json::from_str(&text).unwrap_or_default();
                    if message["type"] != "ping" {
                        return Ok(message);
                    }
                    self.send(json!({"type": "pong"})).await?;
                }
                Some(Message::Close(frame)) => {
                    let reason = frame.map(|frame| format!("{} {}", frame.code, frame.reason));
                    return Err(self.api.silent(format!("close {}", reason.unwrap_or_default())));
                }
                Some(_) => {}
                None => return Err(self.api.silent("the socket was closed")),
            }
        }
    }

    async fn send(&mut self, message: Value) -> Result<(), Error> {
        let sent = self.socket.send(Message::text(message.to_string())).await;
        sent.map_err(|error| self.api.silent(error))
    }
}
