//! State machine of one socket: takes what happened ([`Input`]) and returns what to do ([`Action`]). It
//! does no I/O and reads no clock; the driver ([`super::driver`]) carries its actions out.
//!
//! It promises that no input makes it panic, that an id receives nothing after its end, and that every
//! way to end a socket has its close code (docs/protocol.md#websocket).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use limit::Rate;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use super::{
    close::Close,
    message::{Incoming, Outgoing, Request},
    subprotocol::Subprotocol,
    token::Token,
};
use crate::error::Code;

/// Time within which a client must send `connection_init`.
pub const INIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time without a frame from the client.
pub const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Time before the expiry of a token at which the client is notified.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(30);
/// Maximum size of a text frame, in bytes.
pub const FRAME_MAX: usize = 64 * 1024;
/// Maximum number of concurrent operations on one socket.
pub const OPERATIONS_MAX: usize = 50;

/// Longest time without an operation on the socket of an anonymous client.
pub const ANONYMOUS_IDLE_MAX: Duration = Duration::from_secs(60);

/// Rate limit of a client's messages, of its pings and pongs, and of fragments after the first of a message.
/// `connection_init` and the pongs that answer the gateway's pings are not counted.
pub const MESSAGE_RATE: Rate = Rate::new(20, Duration::from_secs(1), 100);

/// Largest number of pings for whose pongs the gateway waits: silence closes a socket after about as many.
const PONGS_DUE_MAX: u32 = 4;

/// Number of an operation on its socket. Unlike the client's ids, numbers are never reused: an event
/// that arrives late cannot be taken for one of a newer operation with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation(u64);

/// Reason to reject a `connection_init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitRejection {
    /// The token is not valid.
    InvalidToken,
    /// The user's quota of sockets is used up.
    TooManySockets,
    /// The token cannot be verified now.
    Unavailable,
}

/// Something that happened on a socket.
#[derive(Debug)]
pub enum Input<'a> {
    /// A text frame.
    Text(&'a str),
    /// A binary frame.
    Binary,
    /// A ping frame.
    Ping,
    /// A pong frame.
    Pong,
    /// This number of fragments after the first of a message.
    Fragments(u64),
    /// A frame over the size limit.
    TooLarge,
    /// A text frame that is not UTF-8.
    InvalidUtf8,
    /// Bytes that violate the WebSocket protocol.
    Malformed,
    /// The answer to [`Action::Authenticate`]: the expiry of the token, `None` for an anonymous client.
    Authenticated(Result<Option<Instant>, InitRejection>),
    /// The socket has a newer token, with this expiry.
    Renewed(Instant),
    /// A result of an operation, as JSON.
    Next(Operation, Arc<str>),
    /// An operation was rejected. Holds the errors as a JSON array.
    Rejected(Operation, Arc<str>),
    /// An operation has sent all its results.
    Completed(Operation),
    /// [`Protocol::deadline`] has been reached.
    Timer,
    /// The session was revoked.
    Revoked,
    /// The client has read nothing for too long.
    Stalled,
    /// The gateway stops.
    Restart,
}

/// Something that the driver must do.
#[derive(Debug)]
pub enum Action {
    /// Send a message.
    Send(Outgoing),
    /// Send a WebSocket ping frame. It is the only frame that a client of `graphql-ws` answers.
    Ping,
    /// Verify the token, then report [`Input::Authenticated`].
    Authenticate(Option<Token>),
    /// Start an operation.
    Start(Operation, Box<Request>),
    /// Drop an operation that the client has completed.
    Stop(Operation),
    /// Drop all operations and close the socket.
    Close(Close),
}

#[derive(Debug)]
enum Phase {
    /// Waits for `connection_init`.
    AwaitingInit { until: Instant },
    /// Between `connection_init` and the answer of the authentication.
    Authenticating,
    /// The connection is acknowledged.
    Acknowledged { ping_at: Instant, expiry: Option<Expiry>, is_anonymous: bool },
    /// Ignores every input.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Instant,
    announced: bool,
}

/// State of one socket.
#[derive(Debug)]
pub struct Protocol {
    subprotocol: Subprotocol,
    phase: Phase,
    opened_at: Instant,
    last_frame_at: Instant,
    /// Start or end of an operation, or the acknowledgement.
    last_operation_at: Instant,
    /// Ping frames that the client has not answered.
    pong_frames_due: u32,
    /// `ping` messages that the client has not answered.
    pong_messages_due: u32,
    /// Theoretical arrival time of the message rate limit ([`Rate::take`]), since `opened_at`.
    message_tat: Duration,
    by_id: HashMap<Arc<str>, Operation>,
    ids: BTreeMap<Operation, Arc<str>>,
    last_operation: u64,
}

impl Protocol {
    /// Creates the state of a socket that was opened now.
    pub fn new(subprotocol: Subprotocol, now: Instant) -> Self {
        Self {
            subprotocol,
            phase: Phase::AwaitingInit { until: now + INIT_TIMEOUT },
            opened_at: now,
            last_frame_at: now,
            last_operation_at: now,
            pong_frames_due: 0,
            pong_messages_due: 0,
            message_tat: Duration::ZERO,
            by_id: HashMap::new(),
            ids: BTreeMap::new(),
            last_operation: 0,
        }
    }

    /// Returns the time at which [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::AwaitingInit { until } => Some(until),
            Phase::Authenticating | Phase::Closed => None,
            Phase::Acknowledged { ping_at, expiry, is_anonymous } => {
                let expiry =
                    expiry.map(|expiry| if expiry.announced { expiry.at } else { notice_at(expiry.at) });
                let idle = self.idle_at().filter(|_| is_anonymous);
                let keep_alive = ping_at.min(self.last_frame_at + SILENCE_MAX);
                expiry.into_iter().chain(idle).chain([keep_alive]).min()
            }
        }
    }

    /// Returns true if the driver may read frames now. A client of `graphql-ws` starts operations
    /// without waiting for the acknowledgement: until its token is verified they stay unread, in the
    /// socket's receive buffer.
    pub fn accepts_frames(&self) -> bool {
        self.subprotocol == Subprotocol::GraphqlTransportWs || !matches!(self.phase, Phase::Authenticating)
    }

    /// Returns the time at which the socket has been idle for too long. `None` while an operation runs.
    fn idle_at(&self) -> Option<Instant> {
        self.ids.is_empty().then_some(self.last_operation_at + ANONYMOUS_IDLE_MAX)
    }

    /// Returns the number of running operations.
    pub fn operation_count(&self) -> usize {
        self.ids.len()
    }

    /// Handles an input and returns the actions for it, in order. Returns none after an [`Action::Close`].
    pub fn handle(&mut self, input: Input<'_>, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Closed) {
            return Vec::new();
        }
        match input {
            Input::Text(text) => {
                self.last_frame_at = now;
                self.on_text(text, now)
            }
            Input::Binary => self.close(Close::bad_message("binary")),
            Input::Ping => self.on_frames(1, now),
            Input::Pong if self.pong_frames_due > 0 => {
                self.pong_frames_due -= 1;
                self.on_frames(0, now)
            }
            Input::Pong => self.on_frames(1, now),
            Input::Fragments(count) => self.on_frames(count, now),
            Input::TooLarge => self.close(Close::TOO_LARGE),
            Input::InvalidUtf8 => self.close(Close::bad_message("not UTF-8")),
            Input::Malformed => self.close(Close::MALFORMED),
            Input::Authenticated(answer) => self.on_authenticated(answer, now),
            Input::Renewed(expires_at) => self.on_renewed(expires_at),
            Input::Next(operation, payload) => {
                self.reply(operation, |id| Outgoing::Next { id, payload }).into_iter().collect()
            }
            Input::Rejected(operation, errors) => {
                let reply = self.reply(operation, |id| Outgoing::Error { id, errors });
                self.forget(operation, now);
                reply.into_iter().collect()
            }
            Input::Completed(operation) => {
                let reply = self.reply(operation, |id| Outgoing::Complete { id });
                self.forget(operation, now);
                reply.into_iter().collect()
            }
            Input::Timer => self.on_timer(now),
            Input::Revoked => self.close(Close::SESSION_ENDED),
            Input::Stalled => self.close(Close::STALLED),
            Input::Restart => self.close(Close::RESTART),
        }
    }

    /// Handles frames without a message, of which this number counts towards the rate limit.
    fn on_frames(&mut self, counted: u64, now: Instant) -> Vec<Action> {
        self.last_frame_at = now;
        if (0..counted).all(|_| self.take_message(now)) {
            return Vec::new();
        }
        self.close(Close::RATE_LIMITED)
    }

    /// Charges one message. Returns false if the rate limit is reached.
    fn take_message(&mut self, now: Instant) -> bool {
        let taken = MESSAGE_RATE.take(self.message_tat, now.duration_since(self.opened_at));
        taken.map(|tat| self.message_tat = tat).is_ok()
    }

    /// Returns true for a message that the rate limit does not count.
    fn is_free(&mut self, message: &Incoming) -> bool {
        match message {
            Incoming::Init { .. } => true,
            Incoming::Pong if self.pong_messages_due > 0 => {
                self.pong_messages_due -= 1;
                true
            }
            _ => false,
        }
    }

    fn on_text(&mut self, text: &str, now: Instant) -> Vec<Action> {
        if text.len() > FRAME_MAX {
            return self.close(Close::TOO_LARGE);
        }
        let message = match Incoming::parse(text, self.subprotocol) {
            Ok(message) => message,
            Err(reason) => return self.close(Close::bad_message(reason)),
        };
        if !self.is_free(&message) && !self.take_message(now) {
            return self.close(Close::RATE_LIMITED);
        }
        match message {
            Incoming::Init { token } => {
                if !matches!(self.phase, Phase::AwaitingInit { .. }) {
                    return self.close(Close::SECOND_INIT);
                }
                self.phase = Phase::Authenticating;
                vec![Action::Authenticate(token)]
            }
            Incoming::Subscribe { id, request } => self.subscribe(id, request, now),
            Incoming::Complete { id } => {
                // An unknown id is not an error: the operation may have ended while the message was in
                // flight.
                let operation = self.by_id.get(&*id).copied();
                operation.map(|operation| self.stop(operation, now)).into_iter().collect()
            }
            Incoming::Ping { payload } => pong(payload),
            Incoming::Pong => Vec::new(),
            Incoming::Terminate => self.close(Close::NORMAL),
        }
    }

    fn subscribe(
        &mut self,
        id: Arc<str>,
        request: Result<Box<Request>, &'static str>,
        now: Instant,
    ) -> Vec<Action> {
        if !matches!(self.phase, Phase::Acknowledged { .. }) {
            return self.close(Close::NOT_ACKNOWLEDGED);
        }
        if self.by_id.contains_key(&id) {
            return self.close(Close::id_in_use(&id));
        }
        if self.ids.len() >= OPERATIONS_MAX {
            let message = format!("a socket has at most {OPERATIONS_MAX} concurrent operations");
            return vec![rejected(id, Code::LimitExceeded, &message)];
        }
        let request = match request {
            Ok(request) => request,
            Err(reason) => return vec![rejected(id, Code::BadRequest, reason)],
        };
        self.last_operation += 1;
        self.last_operation_at = now;
        let operation = Operation(self.last_operation);
        self.by_id.insert(id.clone(), operation);
        self.ids.insert(operation, id);
        vec![Action::Start(operation, request)]
    }

    fn on_authenticated(
        &mut self,
        answer: Result<Option<Instant>, InitRejection>,
        now: Instant,
    ) -> Vec<Action> {
        if !matches!(self.phase, Phase::Authenticating) {
            return Vec::new();
        }
        let expires_at = match answer {
            Ok(expires_at) => expires_at,
            Err(InitRejection::InvalidToken) => return self.reject(Close::FORBIDDEN),
            Err(InitRejection::TooManySockets) => return self.reject(Close::TOO_MANY_SOCKETS),
            Err(InitRejection::Unavailable) => return self.reject(Close::TRY_AGAIN),
        };
        if expires_at.is_some_and(|at| at <= now) {
            return self.reject(Close::EXPIRED);
        }
        let expiry = expires_at.map(|at| Expiry { at, announced: false });
        let ping_at = now + self.subprotocol.keep_alive_interval();
        self.last_operation_at = now;
        self.phase = Phase::Acknowledged { ping_at, expiry, is_anonymous: expires_at.is_none() };
        vec![Action::Send(Outgoing::Ack)]
    }

    /// Moves the expiry. The client is notified before the new expiry too.
    fn on_renewed(&mut self, expires_at: Instant) -> Vec<Action> {
        if let Phase::Acknowledged { expiry: Some(expiry), .. } = &mut self.phase
            && expiry.at < expires_at
        {
            *expiry = Expiry { at: expires_at, announced: false };
        }
        Vec::new()
    }

    fn on_timer(&mut self, now: Instant) -> Vec<Action> {
        let is_idle = self.idle_at().is_some_and(|at| at <= now);
        match &mut self.phase {
            Phase::AwaitingInit { until } if *until <= now => self.close(Close::INIT_TIMEOUT),
            Phase::Acknowledged { expiry: Some(expiry), .. } if expiry.at <= now => {
                self.close(Close::EXPIRED)
            }
            Phase::Acknowledged { .. } if self.last_frame_at + SILENCE_MAX <= now => {
                self.close(Close::SILENT)
            }
            Phase::Acknowledged { is_anonymous: true, .. } if is_idle => self.close(Close::IDLE),
            Phase::Acknowledged { ping_at, expiry, .. } => {
                let mut actions = Vec::new();
                if let Some(expiry) = expiry.as_mut().filter(|it| !it.announced && notice_at(it.at) <= now) {
                    expiry.announced = true;
                    // Rounded, because timers fire late: the client receives 30, not 29.
                    let expires_in_s = Some(expiry.at.duration_since(now).as_secs_f64().round() as u64);
                    actions.push(Action::Send(Outgoing::Ping { expires_in_s }));
                }
                if *ping_at <= now {
                    *ping_at = now + self.subprotocol.keep_alive_interval();
                    actions.push(Action::Send(Outgoing::Ping { expires_in_s: None }));
                    if self.subprotocol == Subprotocol::GraphqlWs {
                        actions.push(Action::Ping);
                    }
                }
                self.expect_pongs(&actions);
                actions
            }
            _ => Vec::new(),
        }
    }

    /// Allows one pong for each ping, but for the last [`PONGS_DUE_MAX`] only: a client that answers none
    /// saves no pongs for later.
    fn expect_pongs(&mut self, actions: &[Action]) {
        for action in actions {
            let due = match action {
                Action::Send(Outgoing::Ping { .. }) => &mut self.pong_messages_due,
                Action::Ping => &mut self.pong_frames_due,
                _ => continue,
            };
            *due = (*due + 1).min(PONGS_DUE_MAX);
        }
    }

    fn reply(&self, operation: Operation, outgoing: impl FnOnce(Arc<str>) -> Outgoing) -> Option<Action> {
        self.ids.get(&operation).map(|id| Action::Send(outgoing(id.clone())))
    }

    fn stop(&mut self, operation: Operation, now: Instant) -> Action {
        self.forget(operation, now);
        Action::Stop(operation)
    }

    fn forget(&mut self, operation: Operation, now: Instant) {
        self.last_operation_at = now;
        if let Some(id) = self.ids.remove(&operation) {
            self.by_id.remove(&id);
        }
    }

    /// Closes the socket instead of acknowledging the connection.
    fn reject(&mut self, close: Close) -> Vec<Action> {
        let error = Action::Send(Outgoing::ConnectionError { reason: close.reason().into() });
        [error].into_iter().chain(self.close(close)).collect()
    }

    fn close(&mut self, close: Close) -> Vec<Action> {
        self.phase = Phase::Closed;
        self.by_id.clear();
        self.ids.clear();
        vec![Action::Close(close)]
    }
}

/// Rejects an operation before it starts.
fn rejected(id: Arc<str>, code: Code, message: &str) -> Action {
    let errors = json!([{ "message": message, "extensions": { "code": code.name() } }]);
    Action::Send(Outgoing::Error { id, errors: errors.to_string().into() })
}

fn pong(payload: Option<Box<RawValue>>) -> Vec<Action> {
    vec![Action::Send(Outgoing::Pong { payload })]
}

fn notice_at(expires_at: Instant) -> Instant {
    expires_at.checked_sub(EXPIRY_NOTICE).unwrap_or(expires_at)
}
