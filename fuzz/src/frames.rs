//! WebSocket frames: bytes go through the parser and the protocol state machine that a gateway has for
//! every socket. The protocol's invariants are checked after each frame.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};

use gateway::fuzzing::{
    Action, Event, FRAME_MAX, InitRejection, Input, OPERATIONS_MAX, Operation, Protocol, READ_BUFFER,
    Subprotocol,
};
use rand::{Rng, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::time::Instant;
use tungstenite::{
    Error as SocketError, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use crate::{Target, mutate};

/// Maximum number of frames on one socket.
const FRAMES_MAX: usize = 60;

/// Opens one socket after the other.
pub struct Frames {
    started: Instant,
}

/// The client's end of a connection: bytes sent, and none received.
#[derive(Default)]
struct Pipe(VecDeque<u8>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket under test.
struct Socket {
    wire: WebSocket<Pipe>,
    subprotocol: Subprotocol,
    protocol: Protocol,
    running: Vec<Operation>,
    authenticating: bool,
    now: Instant,
    closed: bool,
}

impl Socket {
    fn new(subprotocol: Subprotocol, now: Instant) -> Self {
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
        let config = config.max_frame_size(Some(FRAME_MAX)).max_message_size(Some(FRAME_MAX));
        let wire = WebSocket::from_raw_socket(Pipe::default(), Role::Server, Some(config));
        let protocol = Protocol::new(subprotocol, now);
        let running = Vec::new();
        Self { wire, subprotocol, protocol, running, authenticating: false, now, closed: false }
    }

    /// Receives bytes and handles the complete frames.
    fn receive(&mut self, bytes: &[u8]) {
        self.wire.get_mut().0.extend(bytes);
        self.read();
    }

    /// Handles frames while the protocol accepts input. Later frames stay in the buffer.
    fn read(&mut self) {
        while !self.closed && self.protocol.accepts_frames() {
            let event = match self.wire.read() {
                Ok(Message::Text(text)) => {
                    self.handle(Input::Text(&text));
                    continue;
                }
                Ok(Message::Binary(_)) => Event::Binary,
                Ok(Message::Ping(_)) => Event::Ping,
                Ok(Message::Pong(_)) => Event::Pong,
                Ok(Message::Close(_) | Message::Frame(_)) => Event::Disconnected,
                Err(SocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => Event::from_read_error(&error),
            };
            match event {
                Event::Binary => self.handle(Input::Binary),
                Event::Ping => self.handle(Input::Ping),
                Event::Pong => self.handle(Input::Pong),
                Event::Fragments(count) => self.handle(Input::Fragments(count)),
                Event::TooLarge => self.handle(Input::TooLarge),
                Event::InvalidUtf8 => self.handle(Input::InvalidUtf8),
                Event::Malformed => self.handle(Input::Malformed),
                Event::Disconnected => self.closed = true,
                Event::Text(_) | Event::Written => {
                    unreachable!("texts are handled above, and nothing is written")
                }
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        let actions = self.protocol.handle(input, self.now);
        assert!(!self.closed || actions.is_empty(), "no action follows a close");
        for action in actions {
            match action {
                Action::Send(message) => {
                    let text = message.text(self.subprotocol).unwrap_or_else(|| "null".to_owned());
                    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "not JSON: {text}");
                }
                Action::Authenticate(_) => {
                    assert!(!self.authenticating, "one authentication at a time");
                    self.authenticating = true;
                }
                Action::Ping => {
                    assert_eq!(
                        self.subprotocol,
                        Subprotocol::GraphqlWs,
                        "graphql-transport-ws has its own ping message"
                    )
                }
                Action::Start(operation, _) => self.running.push(operation),
                Action::Stop(operation) => self.running.retain(|running| *running != operation),
                Action::Close(close) => {
                    assert!(close.reason().len() < 100, "{close:?}");
                    self.closed = true;
                    self.running.clear();
                }
            }
        }
        assert!(self.running.len() <= OPERATIONS_MAX);
        assert_eq!(
            self.protocol.operation_count(),
            self.running.len(),
            "the protocol knows the running operations"
        );
    }

    /// Generates an event on the gateway's side.
    fn gateway_event(&mut self, random: &mut SmallRng) {
        if self.authenticating && random.random_bool(0.7) {
            let until = self.now + Duration::from_secs(random.random_range(0..100));
            let answer = match random.random_range(0..40) {
                0 => Err(InitRejection::InvalidToken),
                1 => Err(InitRejection::TooManySockets),
                2 => Err(InitRejection::Unavailable),
                number => Ok((number % 2 == 0).then_some(until)),
            };
            self.authenticating = false;
            self.handle(Input::Authenticated(answer));
            return self.read();
        }
        match random.random_range(0..30) {
            0..6 if !self.running.is_empty() => {
                let at = random.random_range(0..self.running.len());
                let payload: Arc<str> = r#"{"data":null}"#.into();
                match random.random_range(0..3) {
                    0 => self.handle(Input::Next(self.running[at], payload)),
                    1 => self.end(at, Input::Completed),
                    _ => self.end(at, |operation| Input::Rejected(operation, "[]".into())),
                }
            }
            6..9 => {
                self.now += Duration::from_millis(random.random_range(0..30_000));
                if self.protocol.deadline().is_some_and(|deadline| deadline <= self.now) {
                    self.handle(Input::Timer);
                }
            }
            9 => self.handle(Input::Stalled),
            _ => {}
        }
    }

    fn end(&mut self, at: usize, input: impl Fn(Operation) -> Input<'static>) {
        let operation = self.running.remove(at);
        self.handle(input(operation));
    }
}

impl Frames {
    /// Creates the target. All sockets open at the same instant, so runs are reproducible.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Target for Frames {
    fn name(&self) -> &'static str {
        "socket frames"
    }

    fn mutated(&mut self, random: &mut SmallRng) -> u64 {
        let subprotocol =
            if random.random() { Subprotocol::GraphqlTransportWs } else { Subprotocol::GraphqlWs };
        let mut socket = Socket::new(subprotocol, self.started);
        let mut sent = 0;
        while sent < FRAMES_MAX && !socket.closed {
            let text = message(random, subprotocol, sent);
            let mut bytes = encode(random, text.as_bytes());
            if random.random_bool(0.02) {
                mutate::bytes(random, &mut bytes);
            }
            socket.receive(&bytes);
            sent += 1;
            if !socket.closed {
                socket.gateway_event(random);
            }
        }
        sent as u64
    }

    fn raw(&mut self, bytes: &[u8]) {
        for subprotocol in Subprotocol::ALL {
            Socket::new(subprotocol, self.started).receive(bytes);
            let mut socket = Socket::new(subprotocol, self.started);
            for line in String::from_utf8_lossy(bytes).lines() {
                if !socket.closed && socket.protocol.accepts_frames() {
                    socket.handle(Input::Text(line));
                }
            }
        }
    }
}

/// Generates a client's message: mostly a valid next one, sometimes mutated.
fn message(random: &mut SmallRng, subprotocol: Subprotocol, sent: usize) -> String {
    let kinds = match subprotocol {
        Subprotocol::GraphqlTransportWs => {
            ["subscribe", "subscribe", "subscribe", "complete", "ping", "pong"]
        }
        Subprotocol::GraphqlWs => ["start", "start", "start", "stop", "start", "stop"],
    };
    let kind =
        if sent == 0 || random.random_bool(0.002) { "connection_init" } else { mutate::one(random, &kinds) };
    let mut message = json!({ "type": kind });
    match kind {
        "connection_init" => {
            message["payload"] = json!({ "authorization": format!("Bearer {}", mutate::string(random)) })
        }
        "subscribe" | "start" => {
            message["id"] = id(random, sent);
            message["payload"] = json!({ "query": "{ me { id } }", "variables": mutate::object(random, 2) });
        }
        "complete" | "stop" => {
            let number = random.random_range(0..=sent);
            message["id"] = id(random, number);
        }
        _ if random.random() => message["payload"] = mutate::object(random, 2).into(),
        _ => {}
    }
    match random.random_range(0..2_000) {
        0..30 => mutate::text(random, &message.to_string()),
        30..50 => {
            let name = mutate::one(random, &["type", "id", "payload"]);
            message[name] = mutate::value(random, 3);
            message.to_string()
        }
        50 => message.to_string().replace("{}", &mutate::deep(random)),
        51 => format!("{message}{}", " ".repeat(random.random_range(FRAME_MAX - 300..FRAME_MAX + 300))),
        _ => message.to_string(),
    }
}

/// Generates an operation id, sometimes an arbitrary string.
fn id(random: &mut SmallRng, number: usize) -> Value {
    if random.random_bool(0.99) { json!(format!("{number}")) } else { json!(mutate::string(random)) }
}

/// Encodes a client's frame (RFC 6455, section 5.2), sometimes of another kind or in two fragments.
fn encode(random: &mut SmallRng, payload: &[u8]) -> Vec<u8> {
    match random.random_range(0..1_000) {
        0..20 => {
            let cut = random.random_range(0..=payload.len());
            let mut bytes = frame(random, 0x01, &payload[..cut]);
            if random.random() {
                bytes.extend(frame(random, 0x89, b"ping"));
            }
            bytes.extend(frame(random, 0x80, &payload[cut..]));
            bytes
        }
        20..40 => frame(random, 0x89, &payload[..payload.len().min(120)]),
        40..42 => {
            let kind = random.random();
            frame(random, kind, payload)
        }
        _ => frame(random, 0x81, payload),
    }
}

fn frame(random: &mut SmallRng, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = random.random();
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
