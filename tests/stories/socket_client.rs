//! WebSocket client: one socket, with the subprotocol `graphql-transport-ws` unless the test chooses another.

use std::{collections::HashMap, collections::VecDeque, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::caller::Caller;

/// Subscription to the caller's counters, with every field.
pub const UNREAD: &str = "subscription($since: String) { unread(since: $since) {
    kind version previousVersion total stale truncated
    changed { dialogId unread readSeq lastSeq stale } } }";
const TIMEOUT: Duration = Duration::from_secs(10);

/// An open socket. Messages of other operations are buffered while the test waits for one.
pub struct SocketClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    buffered: HashMap<String, VecDeque<Value>>,
}

impl SocketClient {
    /// Opens a socket and sends nothing.
    pub async fn open(url: &str) -> Self {
        Self::open_as(url, "graphql-transport-ws").await
    }

    /// Opens a socket with another subprotocol and sends nothing.
    pub async fn open_as(url: &str, subprotocol: &str) -> Self {
        Self::try_open(url, subprotocol).await.unwrap()
    }

    /// Opens a socket. Fails when the gateway rejects it.
    pub async fn try_open(url: &str, subprotocol: &str) -> Result<Self, Error> {
        let (socket, _) = connect_async(handshake(url, subprotocol)).await?;
        Ok(Self { socket, buffered: HashMap::new() })
    }

    /// Opens a socket from another address of this machine. Fails when the gateway rejects it.
    pub async fn try_open_from(source: &str, url: &str, subprotocol: &str) -> Result<Self, Error> {
        let connection = TcpSocket::new_v4().unwrap();
        connection.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        let stream = connection.connect(url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
        let (socket, _) = client_async(handshake(url, subprotocol), MaybeTlsStream::Plain(stream)).await?;
        Ok(Self { socket, buffered: HashMap::new() })
    }

    /// Opens a socket and authenticates with `connection_init`.
    pub async fn connect(caller: &Caller) -> Self {
        let mut socket = Self::open(&caller.url).await;
        let payload = json!({"authorization": format!("Bearer {}", caller.token)});
        socket.send(json!({"type": "connection_init", "payload": payload})).await;
        assert_eq!(socket.receive().await["type"], "connection_ack");
        socket
    }

    /// Connects and subscribes to the caller's counters with the operation id `u`.
    pub async fn watch_unread(caller: &Caller, since: Option<&str>) -> Self {
        let mut socket = Self::connect(caller).await;
        socket.subscribe("u", UNREAD, json!({"since": since})).await;
        socket
    }

    /// Like [`watch_unread`](Self::watch_unread), but returns `None` when the gateway does not accept the
    /// socket within ten seconds.
    pub async fn try_watch_unread(caller: &Caller, since: Option<&str>) -> Option<Self> {
        let connect = async {
            let mut socket = Self::try_open(&caller.url, "graphql-transport-ws").await.ok()?;
            let payload = json!({"authorization": format!("Bearer {}", caller.token)});
            socket.try_send(&json!({"type": "connection_init", "payload": payload})).await?;
            let acknowledged = socket.next_message().await.ok()?["type"] == "connection_ack";
            let payload = json!({"query": UNREAD, "variables": {"since": since}});
            socket.try_send(&json!({"id": "u", "type": "subscribe", "payload": payload})).await?;
            acknowledged.then_some(socket)
        };
        tokio::time::timeout(TIMEOUT, connect).await.ok().flatten()
    }

    async fn try_send(&mut self, message: &Value) -> Option<()> {
        self.socket.send(Message::text(message.to_string())).await.ok()
    }

    pub async fn subscribe(&mut self, id: &str, document: &str, variables: Value) {
        self.send(
            json!({"id": id, "type": "subscribe", "payload": {"query": document, "variables": variables}}),
        )
        .await;
    }

    pub async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Sends the header of a text frame with this length, and no payload.
    pub async fn send_frame_header(&mut self, bytes: u64) {
        let head = [&[0x81, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
        self.socket.get_mut().write_all(&head).await.unwrap();
    }

    /// Sends bytes until all are written or the gateway closes the connection.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        drop(self.socket.get_mut().write_all(bytes).await);
    }

    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// Returns the next message other than heartbeats. Panics when the socket is closed.
    pub async fn receive(&mut self) -> Value {
        self.receive_or_close().await.unwrap_or_else(|code| panic!("the socket was closed with {code}"))
    }

    /// Returns the next message other than heartbeats, or the close code. Panics after ten seconds without.
    pub async fn receive_or_close(&mut self) -> Result<Value, u16> {
        tokio::time::timeout(TIMEOUT, self.next_message()).await.expect("a message within ten seconds")
    }

    /// Returns the next message other than heartbeats, or the close code. Has no timeout.
    async fn next_message(&mut self) -> Result<Value, u16> {
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
                // RFC 6455, section 7.1.5: the code of a connection closed without a close frame.
                _ => return Err(1006),
            }
        }
    }

    /// Returns the next message of an operation and buffers those of others.
    pub async fn receive_for(&mut self, id: &str) -> Value {
        loop {
            if let Some(message) = self.buffered.get_mut(id).and_then(VecDeque::pop_front) {
                return message;
            }
            let message = self.receive().await;
            let of = message["id"].as_str().expect("a message of an operation").to_owned();
            self.buffered.entry(of).or_default().push_back(message);
        }
    }

    /// Returns the next message of an operation, or the close code; 1006 without a close frame. Has no
    /// timeout.
    pub async fn next_or_close(&mut self, id: &str) -> Result<Value, u16> {
        if let Some(message) = self.buffered.get_mut(id).and_then(VecDeque::pop_front) {
            return Ok(message);
        }
        loop {
            let message = self.next_message().await?;
            if message["id"] == id {
                return Ok(message);
            }
        }
    }

    /// Answers pings, like an idle client library, until the socket is dropped or closed.
    pub async fn keep_alive(mut self) {
        while let Some(Ok(message)) = self.socket.next().await {
            if matches!(&message, Message::Text(text) if text.as_str() == r#"{"type":"ping"}"#) {
                self.pong().await;
            }
        }
    }

    /// Sends a pong. An error is ignored: the next receive returns the close.
    async fn pong(&mut self) {
        drop(self.socket.send(Message::text(r#"{"type":"pong"}"#)).await);
    }

    /// Closes the socket with a close frame.
    pub async fn close(&mut self) {
        self.socket.close(None).await.unwrap();
    }

    /// Returns the next value of a subscription's field. Panics at an error.
    pub async fn frame(&mut self, id: &str, field: &str) -> Value {
        let mut message = self.receive_for(id).await;
        assert_eq!(message["type"], "next", "{message}");
        assert!(message["payload"].get("errors").is_none(), "{message}");
        message["payload"]["data"][field].take()
    }

    /// Receives frames of `unread` until the total has this value. Returns all totals on the way, the
    /// last included.
    pub async fn until_total(&mut self, total: i64) -> Vec<i64> {
        let mut totals = Vec::new();
        while totals.last() != Some(&total) {
            totals.push(self.frame("u", "unread").await["total"].as_i64().unwrap());
        }
        totals
    }

    /// Asserts that no message of this operation arrives for this long.
    pub async fn expect_silence(&mut self, id: &str, duration: Duration) {
        assert!(self.buffered.get(id).is_none_or(VecDeque::is_empty), "{:?}", self.buffered);
        if let Ok(message) = tokio::time::timeout(duration, self.receive_for(id)).await {
            panic!("expected no message, received {message}");
        }
    }

    /// Waits until the gateway closes the socket. Returns the close code and reason.
    pub async fn wait_for_close(&mut self) -> (u16, String) {
        tokio::time::timeout(TIMEOUT, async {
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

fn handshake(url: &str, subprotocol: &str) -> http::Request<()> {
    let url = format!("{}/graphql", url.replace("http://", "ws://"));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
    request
}
