//! A device: one WebSocket of a person, speaking `graphql-transport-ws` where the story does not say otherwise.

use std::{collections::HashMap, collections::VecDeque, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::person::Person;

pub const UNREAD: &str = "subscription($since: String) { unread(since: $since) { kind version previousVersion total truncated changed { dialogId unread readSeq lastSeq } } }";
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Device {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    waiting: HashMap<String, VecDeque<Value>>,
}

impl Device {
    /// Opens a socket without saying anything on it.
    pub async fn open(url: &str) -> Self {
        Self::open_as(url, "graphql-transport-ws").await
    }

    /// Opens a socket of another subprotocol.
    pub async fn open_as(url: &str, subprotocol: &str) -> Self {
        Self::try_open(url, subprotocol).await.unwrap()
    }

    /// Opens a socket, where there is room for one.
    pub async fn try_open(url: &str, subprotocol: &str) -> Result<Self, Error> {
        let url = format!("{}/graphql", url.replace("http://", "ws://"));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
        let (socket, _) = connect_async(request).await?;
        Ok(Self { socket, waiting: HashMap::new() })
    }

    /// Opens a socket and signs in.
    pub async fn connect(person: &Person) -> Self {
        let mut device = Self::open(&person.url).await;
        let payload = json!({"authorization": format!("Bearer {}", person.token)});
        device.say(json!({"type": "connection_init", "payload": payload})).await;
        assert_eq!(device.hear().await["type"], "connection_ack");
        device
    }

    /// Connects and subscribes to the person's counters under the id `u`.
    pub async fn watching(person: &Person, since: Option<&str>) -> Self {
        let mut device = Self::connect(person).await;
        device.subscribe("u", UNREAD, json!({"since": since})).await;
        device
    }

    pub async fn subscribe(&mut self, id: &str, document: &str, variables: Value) {
        self.say(
            json!({"id": id, "type": "subscribe", "payload": {"query": document, "variables": variables}}),
        )
        .await;
    }

    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The head of a text frame of so many bytes, and none of them.
    pub async fn announce(&mut self, bytes: u64) {
        let head = [&[0x81, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
        self.socket.get_mut().write_all(&head).await.unwrap();
    }

    pub async fn say_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next message that is not a sign of life.
    pub async fn hear(&mut self) -> Value {
        self.heard().await.unwrap_or_else(|code| panic!("the socket was closed with {code}"))
    }

    /// The next message that is not a sign of life, or the code with which the gateway closes.
    pub async fn heard(&mut self) -> Result<Value, u16> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let message: Value = serde_json::from_str(&text).unwrap();
                        match message["type"].as_str() {
                            Some("ping") => self.pong().await,
                            Some("ka") => {}
                            _ => return Ok(message),
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                    // RFC 6455: the code of a socket that ended without one.
                    _ => return Err(1006),
                }
            }
        })
        .await
        .expect("a message within ten seconds")
    }

    /// The next message for an operation; others are kept for later.
    pub async fn hear_of(&mut self, id: &str) -> Value {
        loop {
            if let Some(message) = self.waiting.get_mut(id).and_then(VecDeque::pop_front) {
                return message;
            }
            let message = self.hear().await;
            let of = message["id"].as_str().expect("a message of an operation").to_owned();
            self.waiting.entry(of).or_default().push_back(message);
        }
    }

    /// The next message for an operation, or the code with which the gateway closes; 1006 where it says none.
    pub async fn next_or_close(&mut self, id: &str) -> Result<Value, u16> {
        if let Some(message) = self.waiting.get_mut(id).and_then(VecDeque::pop_front) {
            return Ok(message);
        }
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["id"] == id {
                        return Ok(message);
                    }
                    if message["type"] == "ping" {
                        self.pong().await;
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return Err(1006),
            }
        }
    }

    /// Stays connected, as an idle client's library does, until dropped or closed.
    pub async fn stay(mut self) {
        while let Some(Ok(message)) = self.socket.next().await {
            if matches!(&message, Message::Text(text) if text.as_str() == r#"{"type":"ping"}"#) {
                self.pong().await;
            }
        }
    }

    /// A sign of life, where somebody is there to hear it.
    async fn pong(&mut self) {
        drop(self.socket.send(Message::text(r#"{"type":"pong"}"#)).await);
    }

    /// Closes in good order.
    pub async fn leave(&mut self) {
        self.socket.close(None).await.unwrap();
    }

    /// The next frame of a subscription field.
    pub async fn frame(&mut self, id: &str, field: &str) -> Value {
        let mut message = self.hear_of(id).await;
        assert_eq!(message["type"], "next", "{message}");
        assert!(message["payload"].get("errors").is_none(), "{message}");
        message["payload"]["data"][field].take()
    }

    /// Frames of the counters until the total is this one; totals on the way, this one included.
    pub async fn until_total(&mut self, total: i64) -> Vec<i64> {
        let mut totals = Vec::new();
        while totals.last() != Some(&total) {
            totals.push(self.frame("u", "unread").await["total"].as_i64().unwrap());
        }
        totals
    }

    /// Nothing comes for this operation for a while.
    pub async fn is_silent(&mut self, id: &str, for_: Duration) {
        assert!(self.waiting.get(id).is_none_or(VecDeque::is_empty), "{:?}", self.waiting);
        if let Ok(message) = tokio::time::timeout(for_, self.hear_of(id)).await {
            panic!("expected silence, heard {message}");
        }
    }

    /// The code and reason with which the gateway closes.
    pub async fn closed(&mut self) -> (u16, String) {
        tokio::time::timeout(PATIENCE, async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                        return (code.into(), reason.to_string());
                    }
                    Some(Ok(Message::Close(None))) | None | Some(Err(_)) => panic!("closed without a code"),
                    Some(Ok(_)) => {}
                }
            }
        })
        .await
        .expect("a close within ten seconds")
    }
}
