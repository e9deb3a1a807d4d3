//! WebSockets with the subprotocol `graphql-transport-ws`, each with a subscription to the caller's counts.
//! Every frame is parsed, stamped with its arrival and handed to the scenario.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::mpsc::UnboundedSender,
    task::{AbortHandle, JoinSet},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::graphql::UNREAD;

/// Open socket.
pub struct Socket(WebSocketStream<TcpStream>);

/// Frame of `unread` that has arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Number that the scenario has given to the socket.
    pub socket: usize,
    /// Time at which the frame was received.
    pub at: Instant,
    /// The frame.
    pub frame: Frame,
}

/// Checked parts of a frame.
#[derive(Debug, Clone, Deserialize)]
pub struct Frame {
    /// Number of unread messages.
    pub total: u64,
    /// Changed rows.
    pub changed: Vec<Row>,
}

/// Changed row of a frame.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Id of the dialog.
    pub dialog_id: String,
    /// Number of unread messages.
    pub unread: u64,
    /// Newest message that is counted.
    pub last_seq: u64,
}

#[derive(Deserialize)]
struct Next {
    r#type: String,
    payload: Option<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    data: Option<Update>,
    errors: Option<Value>,
}

#[derive(Deserialize)]
struct Update {
    unread: Frame,
}

impl Socket {
    /// Connects, authenticates, subscribes and receives the first frame.
    pub async fn subscribe(address: SocketAddr, token: &str) -> anyhow::Result<(Self, Frame)> {
        let mut request = format!("ws://{address}/graphql").into_client_request()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, "graphql-transport-ws".parse()?);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut socket = Self(client_async(request, stream).await?.0);
        let authorization = format!("Bearer {token}");
        socket.send(&json!({"type": "connection_init", "payload": {"authorization": authorization}})).await?;
        let acknowledged = socket.receive().await?;
        ensure!(acknowledged.contains("connection_ack"), "{acknowledged}");
        socket.send(&json!({"id": "u", "type": "subscribe", "payload": {"query": UNREAD}})).await?;
        let first = socket.frame().await?;
        Ok((socket, first))
    }

    async fn send(&mut self, message: &Value) -> anyhow::Result<()> {
        Ok(self.0.send(Message::text(message.to_string())).await?)
    }

    /// Receives the next message other than pings, which it answers.
    async fn receive(&mut self) -> anyhow::Result<String> {
        loop {
            match self.0.next().await.context("the socket was closed")?? {
                Message::Text(text) if text.as_str() == r#"{"type":"ping"}"# => {
                    self.send(&json!({"type": "pong"})).await?;
                }
                Message::Text(text) => return Ok(text.to_string()),
                Message::Close(frame) => bail!("the socket was closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Receives the next frame of the subscription.
    pub async fn frame(&mut self) -> anyhow::Result<Frame> {
        parse(&self.receive().await?)
    }

    /// Hands over every frame until the socket or the receiver is closed.
    async fn forward(mut self, socket: usize, arrivals: UnboundedSender<Arrival>) -> anyhow::Result<()> {
        loop {
            let text = self.receive().await?;
            let at = Instant::now();
            let frame = parse(&text)?;
            if arrivals.send(Arrival { socket, at, frame }).is_err() {
                return Ok(());
            }
        }
    }
}

fn parse(text: &str) -> anyhow::Result<Frame> {
    let next: Next = serde_json::from_str(text).with_context(|| text.to_owned())?;
    let payload = next.payload.filter(|_| next.r#type == "next").with_context(|| text.to_owned())?;
    ensure!(payload.errors.is_none(), "{text}");
    Ok(payload.data.with_context(|| text.to_owned())?.unread)
}

/// Open sockets whose frames go to one receiver. They are closed when dropped.
#[derive(Default)]
pub struct Subscribers(JoinSet<anyhow::Result<()>>);

impl Subscribers {
    /// Adds a socket under a number.
    pub fn add(&mut self, number: usize, socket: Socket, arrivals: UnboundedSender<Arrival>) -> AbortHandle {
        self.0.spawn(socket.forward(number, arrivals))
    }

    /// Fails if a socket was closed or has received a malformed frame.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.0.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and_then(|()| bail!("a socket ended early")),
        }
    }
}

#[test]
fn a_frame_is_parsed_and_an_error_is_refused() {
    let row = json!({"dialogId": "d", "unread": 2, "lastSeq": 3});
    let frame = |payload: Value| json!({"id": "u", "type": "next", "payload": payload}).to_string();
    let good = parse(&frame(json!({"data": {"unread": {"total": 2, "changed": [row]}}}))).unwrap();
    assert_eq!((good.total, good.changed[0].unread, good.changed[0].last_seq), (2, 2, 3));
    assert!(parse(&frame(json!({"data": null, "errors": []}))).is_err());
    assert!(parse(r#"{"id":"u","type":"complete"}"#).is_err());
}
