//! A WebSocket client of a running gateway.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::PATIENCE;

/// A client's end of a socket.
pub struct SocketClient {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl SocketClient {
    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("sent");
    }

    pub async fn subscribe(&mut self, id: &str, query: &str, variables: Value) {
        self.say(
            json!({ "id": id, "type": "subscribe", "payload": { "query": query, "variables": variables } }),
        )
        .await;
    }

    /// The next message; pings are answered and passed over.
    pub async fn hear(&mut self) -> Value {
        loop {
            match self.next().await {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    if message != json!({ "type": "ping" }) {
                        return message;
                    }
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The payload of the next message, which is a `next` of this operation.
    pub async fn result(&mut self, id: &str) -> Value {
        let mut message = self.hear().await;
        assert_eq!((&message["id"], &message["type"]), (&json!(id), &json!("next")), "{message}");
        message["payload"].take()
    }

    /// The code and the reason with which the gateway closes.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.next().await {
                let frame = frame.expect("a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// Whether the next thing said is that the client may come.
    pub async fn is_acknowledged(&mut self) -> bool {
        matches!(self.next().await, Message::Text(text) if text.as_str() == r#"{"type":"connection_ack"}"#)
    }

    /// Nothing comes for a moment.
    pub async fn is_quiet(&mut self) {
        let next = timeout(Duration::from_millis(200), self.socket.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    /// The next frame, whatever it is.
    pub async fn next(&mut self) -> Message {
        let next = timeout(PATIENCE, self.socket.next()).await.expect("something comes");
        next.expect("the socket is open").expect("a frame")
    }
}
