//! The task of one socket: it does what the machine of [`super::protocol`] says. It owns the connection, the operations
//! and whatever else of this client may end, so that all of it goes when the task does.

use std::{future::pending, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_graphql::{Response, ServerError, Variables};
use async_graphql_parser::types::OperationType;
use axum::extract::ws::WebSocket;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use telemetry::{Call, panic};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::Instrument;

use super::{
    Sockets,
    close::Close,
    message::{Request, Token},
    operations::{Operations, Running, Said},
    protocol::{Action, Input, Operation, Protocol, Refusal},
    subprotocol::Subprotocol,
    wire::{Event, Wire},
};
use crate::{
    client::{Client, caller::Caller, revoked_sessions::SessionWatch},
    connections::{STUCK_MAX, Written, gauge::GaugeGuard, instant, quota::QuotaPermit, revoked, until},
    error::{Code, Error, Rejection},
    operation::request::OperationRequest,
};

/// How long it may take to find out who a client is.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of a client when its socket is opened.
pub struct Handshake {
    /// What it speaks.
    pub subprotocol: Subprotocol,
    /// Where it is.
    pub address: IpAddr,
    /// The token of the request that opened the socket.
    pub header_token: Option<Token>,
    /// What its connection has taken.
    pub written: Written,
}

/// A client that was let in.
struct Admission {
    caller: Option<Caller>,
    /// Until when.
    expires_at: Option<Instant>,
    session: Option<SessionWatch>,
    _permit: Option<QuotaPermit>,
}

/// One socket.
pub struct Driver {
    sockets: Sockets,
    handshake: Handshake,
    wire: Wire,
    protocol: Protocol,
    operations: Operations,
    authentication: Option<BoxFuture<'static, Result<Admission, Refusal>>>,
    admission: Option<Admission>,
    /// Held until it is known who it is.
    anonymous: Option<OwnedSemaphorePermit>,
    restart_at: Option<Instant>,
    _counted: GaugeGuard,
}

impl Driver {
    /// For a socket that was just opened.
    pub fn new(
        sockets: Sockets,
        socket: WebSocket,
        anonymous: OwnedSemaphorePermit,
        handshake: Handshake,
    ) -> Self {
        Self {
            sockets,
            wire: Wire::new(socket, handshake.written.clone()),
            protocol: Protocol::new(handshake.subprotocol, Instant::now()),
            handshake,
            operations: Operations::default(),
            authentication: None,
            admission: None,
            anonymous: Some(anonymous),
            restart_at: None,
            _counted: GaugeGuard::new("gateway_sockets"),
        }
    }

    /// Runs until the socket is closed. Boxed, because a future holds what it is called on twice.
    pub async fn run(mut self: Box<Self>) {
        let close = loop {
            match self.step().await {
                Step::On => {}
                Step::Close(close) => break Some(close),
                Step::Gone => break None,
            }
        };
        let wire = self.into_wire();
        match close {
            Some(close) => {
                metrics::counter!("gateway_socket_closes_total", "code" => close.code.to_string())
                    .increment(1);
                Box::pin(wire.close(close)).await;
            }
            None => Box::pin(wire.end()).await,
        }
    }

    /// Nothing runs and no permit is taken while the connection ends.
    fn into_wire(self: Box<Self>) -> Wire {
        self.wire
    }

    /// Waits for whatever comes first, and does what the machine says to it.
    async fn step(&mut self) -> Step {
        let idle = !self.wire.is_busy();
        let stuck_at = self.wire.stuck_since().map(|since| since + STUCK_MAX);
        let timer_at = self.protocol.deadline();
        let restarting = self.restart_at.is_some();
        let session = self.admission.as_ref().and_then(|admission| admission.session.as_ref());
        tokio::select! {
            event = self.wire.next(), if self.protocol.listens() => self.heard(event),
            (operation, said) = self.operations.next(), if idle && !self.operations.is_empty() => {
                self.handle(match said {
                    Said::Next(json) => Input::Next(operation, json),
                    Said::Refused(errors) => Input::Refused(operation, errors),
                    Said::Ended => Input::Ended(operation),
                })
            }
            answer = optional(self.authentication.as_mut()) => self.authenticated(answer),
            () = revoked(session) => self.handle(Input::Revoked),
            () = until(timer_at) => self.timer(),
            () = until(stuck_at) => self.stalled(),
            () = until(self.restart_at) => self.handle(Input::Restart),
            () = self.sockets.connections().stopping(), if !restarting => {
                self.restart_at = Some(self.sockets.connections().close_at());
                Step::On
            }
        }
    }

    fn heard(&mut self, event: Event) -> Step {
        match event {
            Event::Text(text) => self.handle(Input::Text(&text)),
            Event::Binary => self.handle(Input::Binary),
            Event::Control => self.handle(Input::Control),
            Event::TooLarge => self.handle(Input::TooLarge),
            Event::NotText => self.handle(Input::NotText),
            Event::Malformed => self.handle(Input::Malformed),
            Event::Written => Step::On,
            Event::Gone => Step::Gone,
        }
    }

    fn authenticated(&mut self, answer: Result<Admission, Refusal>) -> Step {
        self.authentication = None;
        if answer.as_ref().is_ok_and(|admission| admission.caller.is_some()) {
            self.anonymous = None;
        }
        let expires_at = answer.map(|admission| self.admission.insert(admission).expires_at);
        self.handle(Input::Authenticated(expires_at))
    }

    /// An operation may have come with a newer token since the machine was told when the socket's expires.
    fn timer(&mut self) -> Step {
        if let Some(caller) = self.admission.as_mut().and_then(|admission| admission.caller.as_mut()) {
            let newest_s = caller.authorization.expires_at_s();
            if newest_s > caller.expires_at_s {
                caller.expires_at_s = newest_s;
                self.handle(Input::Renewed(instant(newest_s)));
            }
        }
        self.handle(Input::Timer)
    }

    /// A part of a message may have been taken since it was looked at last.
    fn stalled(&mut self) -> Step {
        match self.wire.stuck_since() {
            Some(since) if since.elapsed() >= STUCK_MAX => self.handle(Input::Stalled),
            _ => Step::On,
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
                Action::Probe => self.wire.probe(),
                Action::Authenticate(token) => {
                    let token = token.or_else(|| self.handshake.header_token.take());
                    self.authentication = Some(admit(self.sockets.clone(), token).boxed());
                }
                Action::Start(operation, request) => self.start(operation, *request),
                Action::Stop(operation) => self.operations.stop(operation),
                Action::Close(close) => return Step::Close(close),
            }
        }
        Step::On
    }

    fn start(&mut self, operation: Operation, request: Request) {
        let caller = self.admission.as_ref().and_then(|admission| admission.caller.clone());
        let call = Call::new();
        let request_id = call.request_id.clone();
        let client = Client { caller, address: self.handshake.address };
        // Boxed, so that what beginning takes is given back before the results come.
        let running = stream::once(begin(self.sockets.clone(), request, client, call).boxed()).flatten();
        // What the pipeline does not catch ends the operation and not the socket.
        let running = AssertUnwindSafe(running).catch_unwind().map(move |said| {
            said.unwrap_or_else(|payload| {
                panic::report("operation", payload.as_ref());
                said_refused(&[Error::internal("an operation panicked").into_server_error(&request_id)])
            })
        });
        self.operations.start(operation, running.boxed());
    }
}

enum Step {
    On,
    Close(Close),
    Gone,
}

/// Finds out who shows this token, and whether there is a permit.
async fn admit(sockets: Sockets, token: Option<Token>) -> Result<Admission, Refusal> {
    let Some(token) = token else {
        return Ok(Admission { caller: None, expires_at: None, session: None, _permit: None });
    };
    let caller = tokio::time::timeout(PATIENCE, sockets.authenticator().token(token.expose())).await;
    let caller = caller.map_err(|_| Refusal::Unavailable)?.map_err(|error| match error.code() {
        Code::Unauthenticated => Refusal::Token,
        _ => Refusal::Unavailable,
    })?;
    let permit = sockets.connections().quota().take(caller.user).ok_or(Refusal::TooManySockets)?;
    let session = sockets.connections().revoked().watch(caller.session);
    let expires_at = Some(instant(caller.expires_at_s));
    Ok(Admission { caller: Some(caller), expires_at, session: Some(session), _permit: Some(permit) })
}

/// Runs an operation: its results as a stream, or why there are none. A line in the access log says how it went, for a
/// subscription how its beginning did.
async fn begin(sockets: Sockets, mut request: Request, client: Client, call: Call) -> Running {
    let begun = Instant::now();
    let span = tracing::info_span!("gateway.socket.operation", request_id = %call.request_id);
    let work = async {
        let renewed = match request.take_token() {
            Some(token) => sockets.authenticator().renew(token.expose(), client.caller.as_ref()).await,
            None => Ok(()),
        };
        let (kind, answer) = match renewed {
            Ok(()) => execute(&sockets, request, client, call).await,
            Err(error) => (None, refused(&[error.into_server_error(&call.request_id)])),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let (operation, duration_ms) = (kind.map_or("refused", name), seconds * 1000.0);
        tracing::info!(target: "access", transport = "websocket", operation, duration_ms, "operation");
        metrics::histogram!("gateway_socket_operation_seconds", "operation" => operation).record(seconds);
        answer
    };
    work.instrument(span).await
}

/// Of what kind an operation that was let in is, and what it has to say.
async fn execute(
    sockets: &Sockets,
    request: Request,
    client: Client,
    call: Call,
) -> (Option<OperationType>, Running) {
    let variables = request.variables.map(|variables| Variables::from_json(variables.into()));
    let incoming = OperationRequest {
        query: request.query,
        document_id: request.document_id,
        operation_name: request.operation_name,
        variables: variables.unwrap_or_default(),
        extensions: request.extensions.unwrap_or_default(),
    };
    let admitted = match sockets.pipeline().admit(incoming, &client, &call).await {
        Ok(admitted) => admitted,
        Err(rejected) => return (None, refused(rejected.errors())),
    };
    let kind = Some(admitted.kind());
    if kind != Some(OperationType::Subscription) {
        let response = sockets.pipeline().execute(&admitted, client.caller, call).await;
        if let Some(rejected) = Rejection::limited(&response) {
            return (None, refused(rejected.errors()));
        }
        return (kind, stream::iter([Said::Next(json(&response))]).boxed());
    }
    match sockets.subscriptions().open(admitted, client.caller, call).await {
        Ok(opened) => (kind, opened.into_stream().map(|payload| Said::Next(payload.json)).boxed()),
        Err(errors) => (None, refused(&errors)),
    }
}

fn name(kind: OperationType) -> &'static str {
    match kind {
        OperationType::Query => "query",
        OperationType::Mutation => "mutation",
        OperationType::Subscription => "subscription",
    }
}

fn refused(errors: &[ServerError]) -> Running {
    stream::iter([said_refused(errors)]).boxed()
}

fn said_refused(errors: &[ServerError]) -> Said {
    Said::Refused(serde_json::to_string(errors).expect("errors have string keys alone").into())
}

fn json(response: &Response) -> Arc<str> {
    serde_json::to_string(response).expect("a response has string keys alone").into()
}

async fn optional<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
