//! Task of one socket: carries out the actions that the state machine ([`super::protocol`]) returns.
//!
//! The task owns the connection, the running operations and the permits of its client. All of them are
//! released when it ends.

use std::{future::pending, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_graphql::{Response, ServerError, Variables};
use async_graphql_parser::types::OperationType;
use axum::body::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use telemetry::{Call, panic, trace};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::{
    Sockets,
    close::Close,
    message::Request,
    operations::{EventStream, OperationEvent, Operations},
    protocol::{Action, InitRejection, Input, Operation, Protocol},
    subprotocol::Subprotocol,
    token::Token,
    wire::{Event, Socket, Wire},
};
use crate::{
    client::{Client, caller::Caller, revoked_sessions::SessionWatch, user_agent::UserAgent},
    connections::{
        STUCK_MAX, Written,
        answer_budget::{Account, AnswerJson, too_large_to_hold},
        gauge::GaugeGuard,
        held_answers::dropped,
        instant,
        quota::{AnonymousPermit, QuotaPermit},
        revoked, until,
    },
    error::{Code, Error, Rejection},
    operation::{Admitted, Executed, kind_name, request::OperationRequest},
};

/// Longest time for the verification of a token.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for which a socket whose session has ended stays open to send the answers of its mutations:
/// one of them is normally the log-out itself.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

/// Properties of a socket that its handshake determines.
pub struct Handshake {
    /// Subprotocol of the socket.
    pub subprotocol: Subprotocol,
    /// Address of the client.
    pub address: IpAddr,
    /// User agent of the client.
    pub user_agent: UserAgent,
    /// Token of the handshake's authorization header.
    pub header_token: Option<Token>,
    /// Counter of the bytes that the client has accepted.
    pub written: Written,
}

/// Result of a successful authentication. Without a caller, the client is anonymous.
struct Authenticated {
    caller: Option<Caller>,
    expires_at: Option<Instant>,
    session: Option<SessionWatch>,
    _permit: Option<QuotaPermit>,
}

/// Task of one socket.
pub struct Driver {
    sockets: Sockets,
    handshake: Handshake,
    wire: Wire,
    protocol: Protocol,
    operations: Operations,
    authentication: Option<BoxFuture<'static, Result<Authenticated, InitRejection>>>,
    authenticated: Option<Authenticated>,
    /// Permit for an anonymous socket, released when a caller has authenticated.
    anonymous: Option<AnonymousPermit>,
    restart_at: Option<Instant>,
    /// Cloned by each mutation until its answer is sent.
    mutations: Arc<()>,
    /// Set when the session has ended while mutations are running.
    ends_at: Option<Instant>,
    _gauge: GaugeGuard,
}

impl Driver {
    /// Creates the task of a socket that was just opened.
    pub fn new(sockets: Sockets, socket: Socket, anonymous: AnonymousPermit, handshake: Handshake) -> Self {
        let subprotocol = handshake.subprotocol.name();
        let gauge = metrics::gauge!("gateway_sockets", "subprotocol" => subprotocol);
        Self {
            sockets,
            wire: Wire::new(socket, handshake.written.clone()),
            protocol: Protocol::new(handshake.subprotocol, Instant::now()),
            handshake,
            operations: Operations::default(),
            authentication: None,
            authenticated: None,
            anonymous: Some(anonymous),
            restart_at: None,
            mutations: Arc::new(()),
            ends_at: None,
            _gauge: GaugeGuard::of(gauge),
        }
    }

    /// Runs until the socket is closed. `self` is boxed: a future stores an unboxed receiver twice.
    pub async fn run(mut self: Box<Self>) {
        let close = loop {
            match self.step().await {
                Step::Continue => {}
                Step::Close(close) => break Some(close),
                Step::Disconnected => break None,
            }
        };
        let wire = self.into_wire();
        match close {
            Some(close) => {
                metrics::counter!("gateway_socket_closes_total", "code" => close.code.to_string())
                    .increment(1);
                Box::pin(wire.close(close)).await;
            }
            None => Box::pin(wire.finish()).await,
        }
    }

    /// Drops all but the connection: during the close handshake no operation runs and no permit is held.
    fn into_wire(self: Box<Self>) -> Wire {
        self.wire
    }

    /// Waits for the first of the possible inputs and handles it.
    async fn step(&mut self) -> Step {
        // Backpressure: operations are polled only while the socket can take a result.
        let idle = !self.wire.has_pending_output();
        let stuck_at = self.wire.stuck_since().map(|since| since + STUCK_MAX);
        let held = self.wire.held();
        let timer_at = self.protocol.deadline();
        let restarting = self.restart_at.is_some();
        let ending = self.ends_at.is_some();
        let session = self.authenticated.as_ref().and_then(|authenticated| authenticated.session.as_ref());
        tokio::select! {
            event = self.wire.next(), if self.protocol.accepts_frames() => self.on_event(event),
            (operation, event) = self.operations.next(), if idle && !self.operations.is_empty() => {
                let step = self.on_operation(operation, event);
                if ending && !self.has_mutations() { self.handle(Input::Revoked) } else { step }
            }
            answer = optional(self.authentication.as_mut()) => self.on_authenticated(answer),
            () = revoked(session), if !ending => self.on_revoked(),
            () = until(self.ends_at) => self.handle(Input::Revoked),
            () = until(timer_at) => self.on_timer(),
            () = until(stuck_at) => self.on_stuck(),
            () = dropped(held.as_deref()) => self.handle(Input::Stalled),
            () = until(self.restart_at) => self.handle(Input::Restart),
            () = self.sockets.connections().stopping(), if !restarting => {
                self.restart_at = Some(self.sockets.connections().close_at());
                Step::Continue
            }
        }
    }

    /// Closes the socket, after the answers of its running mutations.
    fn on_revoked(&mut self) -> Step {
        if !self.has_mutations() {
            return self.handle(Input::Revoked);
        }
        self.ends_at = Some(Instant::now() + LAST_ANSWER_TIMEOUT);
        Step::Continue
    }

    fn has_mutations(&self) -> bool {
        Arc::strong_count(&self.mutations) > 1
    }

    fn on_event(&mut self, event: Event) -> Step {
        if self.ends_at.is_some() && matches!(event, Event::Text(_)) {
            // The session has ended: no further operation starts.
            return Step::Continue;
        }
        match event {
            Event::Text(text) => self.handle(Input::Text(&text)),
            Event::Binary => self.handle(Input::Binary),
            Event::Ping => self.handle(Input::Ping),
            Event::Pong => self.handle(Input::Pong),
            Event::Fragments(count) => self.handle(Input::Fragments(count)),
            Event::TooLarge => self.handle(Input::TooLarge),
            Event::InvalidUtf8 => self.handle(Input::InvalidUtf8),
            Event::Malformed => self.handle(Input::Malformed),
            Event::Written => Step::Continue,
            Event::Disconnected => Step::Disconnected,
        }
    }

    fn on_operation(&mut self, operation: Operation, event: OperationEvent) -> Step {
        match event {
            OperationEvent::Next(json) => {
                let step = self.handle(Input::Next(operation, json.text()));
                if json.reservation().is_some() {
                    let answers = self.sockets.connections().answers();
                    let written = self.handshake.written.clone();
                    self.wire.hold(answers.hold(Bytes::new(), json.reservation(), written));
                }
                step
            }
            OperationEvent::Rejected(errors) => self.handle(Input::Rejected(operation, errors)),
            OperationEvent::Completed => self.handle(Input::Completed(operation)),
        }
    }

    fn on_authenticated(&mut self, answer: Result<Authenticated, InitRejection>) -> Step {
        self.authentication = None;
        if answer.as_ref().is_ok_and(|authenticated| authenticated.caller.is_some()) {
            self.anonymous = None;
        }
        let expires_at = answer.map(|authenticated| self.authenticated.insert(authenticated).expires_at);
        self.handle(Input::Authenticated(expires_at))
    }

    /// Reports a newer expiry before the timer: an operation may have renewed the token, and the state
    /// machine does not see it.
    fn on_timer(&mut self) -> Step {
        let authenticated = self.authenticated.as_mut();
        if let Some(caller) = authenticated.and_then(|authenticated| authenticated.caller.as_mut()) {
            let newest_s = caller.authorization.expires_at_s();
            if newest_s > caller.expires_at_s {
                caller.expires_at_s = newest_s;
                self.handle(Input::Renewed(instant(newest_s)));
            }
        }
        self.handle(Input::Timer)
    }

    /// Checks again before reporting: the client may have accepted bytes since the timer was set.
    fn on_stuck(&mut self) -> Step {
        match self.wire.stuck_since() {
            Some(since) if since.elapsed() >= STUCK_MAX => self.handle(Input::Stalled),
            _ => Step::Continue,
        }
    }

    fn handle(&mut self, input: Input<'_>) -> Step {
        for action in self.protocol.handle(input, Instant::now()) {
            match action {
                Action::Send(message) => {
                    if let Some(text) = message.text(self.handshake.subprotocol) {
                        self.wire.send(text);
                    }
                }
                Action::Ping => self.wire.ping(),
                Action::Authenticate(token) => {
                    let token = token.or_else(|| self.handshake.header_token.take());
                    self.authentication = Some(authenticate(self.sockets.clone(), token).boxed());
                }
                Action::Start(operation, request) => self.start(operation, *request),
                Action::Stop(operation) => self.operations.stop(operation),
                Action::Close(close) => return Step::Close(close),
            }
        }
        Step::Continue
    }

    fn start(&mut self, operation: Operation, request: Request) {
        let caller = self.authenticated.as_ref().and_then(|authenticated| authenticated.caller.clone());
        let call = Call::new();
        let request_id = call.request_id.clone();
        let Handshake { address, user_agent, .. } = &self.handshake;
        let client = Client { caller, address: *address, user_agent: user_agent.clone() };
        // Boxed: the memory that the start needs is released before the first result, and a subscription
        // may run for hours.
        let mutations = self.mutations.clone();
        let events = stream::once(start(self.sockets.clone(), request, client, call, mutations).boxed());
        let events = events.flatten();
        // A panic that the pipeline does not catch ends its operation, not the socket.
        let events = AssertUnwindSafe(events).catch_unwind().map(move |event| {
            event.unwrap_or_else(|payload| {
                panic::report("operation", payload.as_ref());
                rejected_event(&[Error::internal("an operation panicked").into_server_error(&request_id)])
            })
        });
        self.operations.start(operation, events.boxed());
    }
}

enum Step {
    Continue,
    Close(Close),
    Disconnected,
}

/// Verifies the token and takes a permit of its user's quota. A client without a token is anonymous.
async fn authenticate(sockets: Sockets, token: Option<Token>) -> Result<Authenticated, InitRejection> {
    let Some(token) = token else {
        return Ok(Authenticated { caller: None, expires_at: None, session: None, _permit: None });
    };
    let caller = timeout(AUTHENTICATION_TIMEOUT, sockets.authenticator().token(token.expose())).await;
    let caller = caller.map_err(|_| InitRejection::Unavailable)?.map_err(|error| match error.code() {
        Code::Unauthenticated => InitRejection::InvalidToken,
        _ => InitRejection::Unavailable,
    })?;
    let permit = sockets.connections().quota().take(caller.user).ok_or(InitRejection::TooManySockets)?;
    let session = sockets.connections().revoked().watch(caller.session);
    let expires_at = Some(instant(caller.expires_at_s));
    Ok(Authenticated { caller: Some(caller), expires_at, session: Some(session), _permit: Some(permit) })
}

/// Starts an operation and returns its events. Writes a line to the access log with the duration: of the
/// execution for a query or a mutation, of the opening for a subscription.
async fn start(
    sockets: Sockets,
    mut request: Request,
    client: Client,
    mut call: Call,
    mutations: Arc<()>,
) -> EventStream {
    let started = Instant::now();
    let _trace = trace::is_exported().then(|| call.start_span(trace::Kind::Server, || "websocket operation"));
    let span = call.log_span();
    let work = async {
        let renewed = match request.take_token() {
            Some(token) => sockets.authenticator().renew(token.expose(), client.caller.as_ref()).await,
            None => Ok(()),
        };
        let outcome = match renewed {
            // Boxed: its state is larger than the 16 kB that a future may have in place.
            Ok(()) => Box::pin(execute(&sockets, request, client, call, mutations)).await,
            Err(error) => Outcome::rejected(&[error.into_server_error(&call.request_id)]),
        };
        let seconds = started.elapsed().as_secs_f64();
        let operation = outcome.kind.map_or("refused", kind_name);
        let duration_ms = seconds * 1000.0;
        tracing::info!(target: "access", transport = "websocket", operation, duration_ms, "operation");
        metrics::histogram!("gateway_socket_operation_seconds", "operation" => operation).record(seconds);
        outcome.events
    };
    Box::pin(work.instrument(span)).await
}

/// Outcome of the start of an operation.
struct Outcome {
    /// Kind of the operation. `None` if it was rejected.
    kind: Option<OperationType>,
    events: EventStream,
}

impl Outcome {
    fn rejected(errors: &[ServerError]) -> Self {
        Self { kind: None, events: stream::iter([rejected_event(errors)]).boxed() }
    }
}

/// Executes an operation. A mutation keeps its clone of `mutations` until the end of its events.
async fn execute(
    sockets: &Sockets,
    request: Request,
    client: Client,
    call: Call,
    mutations: Arc<()>,
) -> Outcome {
    let variables = request.variables.map(|variables| Variables::from_json(variables.into()));
    let request = OperationRequest {
        query: request.query,
        document_id: request.document_id,
        operation_name: request.operation_name,
        variables: variables.unwrap_or_default(),
        extensions: request.extensions.unwrap_or_default(),
    };
    let admitted = match sockets.pipeline().admit(request, &client, &call).await {
        Ok(admitted) => admitted,
        Err(rejection) => return Outcome::rejected(rejection.errors()),
    };
    let kind = admitted.kind();
    let mutation = (kind == OperationType::Mutation).then_some(mutations);
    if kind != OperationType::Subscription {
        return match run(sockets, &admitted, client, call).await {
            Ok(json) => {
                let events = stream::iter([OperationEvent::Next(json)]).inspect(move |_| _ = &mutation);
                Outcome { kind: Some(kind), events: events.boxed() }
            }
            Err(rejection) => Outcome::rejected(rejection.errors()),
        };
    }
    match sockets.subscriptions().open(admitted, client.caller, call).await {
        Ok(opened) => {
            let events = opened.into_stream().map(|payload| OperationEvent::Next(payload.json));
            Outcome { kind: Some(kind), events: events.boxed() }
        }
        Err(errors) => Outcome::rejected(&errors),
    }
}

/// Runs a query or a mutation once there is room for its answer.
async fn run(
    sockets: &Sockets,
    admitted: &Admitted,
    client: Client,
    call: Call,
) -> Result<AnswerJson, Rejection> {
    let budget = sockets.connections().answers().budget();
    let reservation = budget.reserve(Account::of(&client), admitted.answer_max_bytes()).await?;
    let json: Arc<str> = match sockets.pipeline().answer(admitted, client.caller, call).await {
        Executed::Json(json) => String::from_utf8(json).expect("JSON is UTF-8").into(),
        Executed::Response(response) => {
            // A mutation that exceeds a rate limit is rejected like an operation that is not admitted.
            if let Some(rejection) = Rejection::limited(&response) {
                return Err(rejection);
            }
            json(&response)
        }
    };
    if !reservation.resize(json.len()) && admitted.kind() != OperationType::Mutation {
        return Err(too_large_to_hold().into());
    }
    Ok(AnswerJson::new(json, reservation))
}

fn rejected_event(errors: &[ServerError]) -> OperationEvent {
    OperationEvent::Rejected(serde_json::to_string(errors).expect("errors have only string keys").into())
}

fn json(response: &Response) -> Arc<str> {
    serde_json::to_string(response).expect("a response has only string keys").into()
}

/// Waits for a future. Never completes without one.
async fn optional<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
