//! WebSocket client of a running gateway.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::PATIENCE;

/// Client's end of a socket.
pub struct SocketClient {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl SocketClient {
    pub async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("the message is sent");
    }

    pub async fn subscribe(&mut self, id: &str, query: &str, variables: Value) {
        self.send(
            json!({ "id": id, "type": "subscribe", "payload": { "query": query, "variables": variables } }),
        )
        .await;
    }

    /// Receives the next message. Pings are skipped; the WebSocket library answers those of the protocol.
    pub async fn receive(&mut self) -> Value {
        loop {
            match self.next().await {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("the message is JSON");
                    if message != json!({ "type": "ping" }) {
                        return message;
                    }
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Receives the next message, asserts that it is a `next` of this operation, and returns its payload.
    pub async fn result(&mut self, id: &str) -> Value {
        let mut message = self.receive().await;
        assert_eq!((&message["id"], &message["type"]), (&json!(id), &json!("next")), "{message}");
        message["payload"].take()
    }

    /// Waits until the gateway closes the socket, and returns the close code and the reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.next().await {
                let frame = frame.expect("the close frame has a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// Receives the next frame, and returns true if it is a `connection_ack`.
    pub async fn is_acknowledged(&mut self) -> bool {
        matches!(self.next().await, Message::Text(text) if text.as_str() == r#"{"type":"connection_ack"}"#)
    }

    /// Asserts that nothing arrives for 200 ms.
    pub async fn is_quiet(&mut self) {
        let next = timeout(Duration::from_millis(200), self.socket.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    /// Receives the next frame of any kind.
    pub async fn next(&mut self) -> Message {
        let next = timeout(PATIENCE, self.socket.next()).await.expect("a frame arrives in time");
        next.expect("the socket is open").expect("the frame is valid")
    }
}
