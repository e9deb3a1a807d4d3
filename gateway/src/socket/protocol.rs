//! The WebSocket protocol as a pure machine: what happened goes in, what to do comes out; no I/O, no clock. It promises
//! that no input makes it panic, that an id gets nothing after its end, and that every way out has its close code
//! (the table of PROTOCOL.md). The driver in `driver` does what it says.

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
    message::{Incoming, Outgoing, Request, Token},
    subprotocol::Subprotocol,
};
use crate::error::Code;

/// How long a client may take to send `connection_init`.
pub const INIT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client may be silent.
pub const SILENCE_MAX: Duration = Duration::from_secs(40);
/// How long before a token's end the client is told.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(30);
/// The longest text frame, in bytes.
pub const FRAME_MAX: usize = 64 * 1024;
/// Operations of a socket at once.
pub const OPERATIONS_MAX: usize = 50;

/// How often a client may say something; `connection_init` and `pong` are not counted.
pub const MESSAGES: Rate = Rate::new(20, Duration::from_secs(1), 100);

/// An operation of a socket, never used twice: an id that is free again belongs to another operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation(u64);

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The token does not hold.
    Token,
    /// The user's sockets are all taken.
    TooManySockets,
    /// Nobody can tell now.
    Unavailable,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A text frame.
    Text(&'a str),
    /// A binary frame.
    Binary,
    /// A control frame: a sign of life.
    Control,
    /// A frame that is too long.
    TooLarge,
    /// A text frame that is not UTF-8.
    NotText,
    /// Bytes that are no WebSocket frame.
    Malformed,
    /// The answer to [`Action::Authenticate`]: when the token expires; `None` for nobody.
    Authenticated(Result<Option<Instant>, Refusal>),
    /// The socket has a newer token, which expires then.
    Renewed(Instant),
    /// A result of an operation.
    Next(Operation, Arc<str>),
    /// An operation was refused, with the errors as a JSON array.
    Refused(Operation, Arc<str>),
    /// An operation has given all its results.
    Ended(Operation),
    /// [`Protocol::deadline`] has come.
    Timer,
    /// The session is over.
    Revoked,
    /// The client does not read.
    Stalled,
    /// The gateway stops.
    Restart,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Send a message.
    Send(Outgoing),
    /// Send a WebSocket ping: a client of the old protocol answers nothing else.
    Probe,
    /// Find out who it is, and say so by [`Input::Authenticated`].
    Authenticate(Option<Token>),
    /// Begin an operation.
    Start(Operation, Box<Request>),
    /// Drop an operation: nobody wants its results.
    Stop(Operation),
    /// Drop all operations, close, and forget the machine.
    Close(Close),
}

#[derive(Debug)]
enum Phase {
    /// Before `connection_init`, until then.
    New { until: Instant },
    /// Between `connection_init` and its answer.
    Authenticating,
    /// Acknowledged.
    Open { ping_at: Instant, expiry: Option<Expiry> },
    /// Nothing matters any more.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Instant,
    announced: bool,
}

/// The state of one socket.
#[derive(Debug)]
pub struct Protocol {
    subprotocol: Subprotocol,
    phase: Phase,
    opened_at: Instant,
    heard_at: Instant,
    /// When the messages until now are paid for, since the opening.
    paid: Duration,
    by_id: HashMap<Arc<str>, Operation>,
    ids: BTreeMap<Operation, Arc<str>>,
    started: u64,
}

impl Protocol {
    /// A socket that was opened now.
    pub fn new(subprotocol: Subprotocol, now: Instant) -> Self {
        Self {
            subprotocol,
            phase: Phase::New { until: now + INIT_TIMEOUT },
            opened_at: now,
            heard_at: now,
            paid: Duration::ZERO,
            by_id: HashMap::new(),
            ids: BTreeMap::new(),
            started: 0,
        }
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::New { until } => Some(until),
            Phase::Authenticating | Phase::Closed => None,
            Phase::Open { ping_at, expiry } => {
                let expiry =
                    expiry.map(|expiry| if expiry.announced { expiry.at } else { notice(expiry.at) });
                let alive = ping_at.min(self.heard_at + SILENCE_MAX);
                Some(expiry.map_or(alive, |expiry| expiry.min(alive)))
            }
        }
    }

    /// Whether frames may be handed over now. A client of the old protocol starts operations without waiting for the
    /// acknowledgement: as long as nobody knows who it is, they wait on the wire.
    pub fn listens(&self) -> bool {
        self.subprotocol == Subprotocol::New || !matches!(self.phase, Phase::Authenticating)
    }

    /// How many operations run.
    pub fn operations(&self) -> usize {
        self.ids.len()
    }

    /// Takes what happened at this time and says what to do, in order. After a [`Action::Close`] there is nothing to do
    /// ever again.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Closed) {
            return Vec::new();
        }
        match input {
            Input::Text(text) => {
                self.heard_at = now;
                self.text(text, now)
            }
            Input::Binary => self.close(Close::bad_message("binary")),
            Input::Control => {
                self.heard_at = now;
                Vec::new()
            }
            Input::TooLarge => self.close(Close::TOO_LARGE),
            Input::NotText => self.close(Close::bad_message("not UTF-8")),
            Input::Malformed => self.close(Close::MALFORMED),
            Input::Authenticated(answer) => self.authenticated(answer, now),
            Input::Renewed(expires_at) => self.renewed(expires_at),
            Input::Next(operation, payload) => {
                self.answer(operation, |id| Outgoing::Next { id, payload }).into_iter().collect()
            }
            Input::Refused(operation, errors) => {
                let answer = self.answer(operation, |id| Outgoing::Error { id, errors });
                self.forget(operation);
                answer.into_iter().collect()
            }
            Input::Ended(operation) => {
                let answer = self.answer(operation, |id| Outgoing::Complete { id });
                self.forget(operation);
                answer.into_iter().collect()
            }
            Input::Timer => self.timer(now),
            Input::Revoked => self.close(Close::SESSION_OVER),
            Input::Stalled => self.close(Close::STALLED),
            Input::Restart => self.close(Close::RESTART),
        }
    }

    fn text(&mut self, text: &str, now: Instant) -> Vec<Action> {
        if text.len() > FRAME_MAX {
            return self.close(Close::TOO_LARGE);
        }
        let message = match Incoming::read(text, self.subprotocol) {
            Ok(message) => message,
            Err(reason) => return self.close(Close::bad_message(reason)),
        };
        if !matches!(message, Incoming::Init { .. } | Incoming::Pong) {
            match MESSAGES.take(self.paid, now.duration_since(self.opened_at)) {
                Ok(paid) => self.paid = paid,
                Err(_) => return self.close(Close::TOO_FAST),
            }
        }
        match message {
            Incoming::Init { token } => {
                if !matches!(self.phase, Phase::New { .. }) {
                    return self.close(Close::SECOND_INIT);
                }
                self.phase = Phase::Authenticating;
                vec![Action::Authenticate(token)]
            }
            Incoming::Subscribe { id, request } => self.subscribe(id, request),
            Incoming::Complete { id } => {
                let operation = self.by_id.get(&*id).copied();
                operation.map(|operation| self.stop(operation)).into_iter().collect()
            }
            Incoming::Ping { payload } => pong(payload),
            Incoming::Pong => Vec::new(),
            Incoming::Terminate => self.close(Close::GOODBYE),
        }
    }

    fn subscribe(&mut self, id: Arc<str>, request: Box<Request>) -> Vec<Action> {
        if !matches!(self.phase, Phase::Open { .. }) {
            return self.close(Close::NOT_ACKNOWLEDGED);
        }
        if self.by_id.contains_key(&id) {
            return self.close(Close::id_in_use(&id));
        }
        if self.ids.len() >= OPERATIONS_MAX {
            let message = format!("a socket has at most {OPERATIONS_MAX} operations at once");
            let errors =
                json!([{ "message": message, "extensions": { "code": Code::LimitExceeded.name() } }]);
            return vec![Action::Send(Outgoing::Error { id, errors: errors.to_string().into() })];
        }
        self.started += 1;
        let operation = Operation(self.started);
        self.by_id.insert(id.clone(), operation);
        self.ids.insert(operation, id);
        vec![Action::Start(operation, request)]
    }

    fn authenticated(&mut self, answer: Result<Option<Instant>, Refusal>, now: Instant) -> Vec<Action> {
        if !matches!(self.phase, Phase::Authenticating) {
            return Vec::new();
        }
        let expires_at = match answer {
            Ok(expires_at) => expires_at,
            Err(Refusal::Token) => return self.reject(Close::FORBIDDEN),
            Err(Refusal::TooManySockets) => return self.reject(Close::TOO_MANY_SOCKETS),
            Err(Refusal::Unavailable) => return self.reject(Close::TRY_AGAIN),
        };
        if expires_at.is_some_and(|at| at <= now) {
            return self.reject(Close::EXPIRED);
        }
        let expiry = expires_at.map(|at| Expiry { at, announced: false });
        self.phase = Phase::Open { ping_at: now + self.subprotocol.alive_every(), expiry };
        vec![Action::Send(Outgoing::Ack)]
    }

    /// The client is told of the new end as it was of the old one.
    fn renewed(&mut self, expires_at: Instant) -> Vec<Action> {
        if let Phase::Open { expiry: Some(expiry), .. } = &mut self.phase
            && expiry.at < expires_at
        {
            *expiry = Expiry { at: expires_at, announced: false };
        }
        Vec::new()
    }

    fn timer(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.phase {
            Phase::New { until } if *until <= now => self.close(Close::INIT_TIMEOUT),
            Phase::Open { expiry: Some(expiry), .. } if expiry.at <= now => self.close(Close::EXPIRED),
            Phase::Open { .. } if self.heard_at + SILENCE_MAX <= now => self.close(Close::SILENT),
            Phase::Open { ping_at, expiry } => {
                let mut actions = Vec::new();
                if let Some(expiry) = expiry.as_mut().filter(|it| !it.announced && notice(it.at) <= now) {
                    expiry.announced = true;
                    let expires_in_s = Some(expiry.at.duration_since(now).as_secs_f64().round() as u64);
                    actions.push(Action::Send(Outgoing::Ping { expires_in_s }));
                }
                if *ping_at <= now {
                    *ping_at = now + self.subprotocol.alive_every();
                    actions.push(Action::Send(Outgoing::Ping { expires_in_s: None }));
                    if self.subprotocol == Subprotocol::Old {
                        actions.push(Action::Probe);
                    }
                }
                actions
            }
            _ => Vec::new(),
        }
    }

    fn answer(&self, operation: Operation, outgoing: impl FnOnce(Arc<str>) -> Outgoing) -> Option<Action> {
        self.ids.get(&operation).map(|id| Action::Send(outgoing(id.clone())))
    }

    fn stop(&mut self, operation: Operation) -> Action {
        self.forget(operation);
        Action::Stop(operation)
    }

    fn forget(&mut self, operation: Operation) {
        if let Some(id) = self.ids.remove(&operation) {
            self.by_id.remove(&id);
        }
    }

    /// Closes instead of an acknowledgement.
    fn reject(&mut self, close: Close) -> Vec<Action> {
        let told = Action::Send(Outgoing::Rejection { reason: close.reason().into() });
        [told].into_iter().chain(self.close(close)).collect()
    }

    fn close(&mut self, close: Close) -> Vec<Action> {
        self.phase = Phase::Closed;
        self.by_id.clear();
        self.ids.clear();
        vec![Action::Close(close)]
    }
}

fn pong(payload: Option<Box<RawValue>>) -> Vec<Action> {
    vec![Action::Send(Outgoing::Pong { payload })]
}

fn notice(expires_at: Instant) -> Instant {
    expires_at.checked_sub(EXPIRY_NOTICE).unwrap_or(expires_at)
}
