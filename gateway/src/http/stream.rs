//! Subscriptions over HTTP: server-sent events after graphql-sse (distinct connections mode), and multipart
//! responses after Apollo's protocol.
//!
//! A stream counts against the quota of its user like a socket. It ends when its token expires, its session
//! is revoked, the gateway stops, or the client reads nothing for [`STUCK_MAX`]. Its task requests the next
//! result only after the connection has taken the previous one, so a slow client holds one result in memory.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Endpoint, RequestContext,
    answer::{Answer, Outcome, rejections},
    media::{Accepted, StreamFormat},
    set_common_headers,
};
use crate::{
    client::revoked_sessions::SessionWatch,
    connections::{
        Connections, STUCK_MAX, Written,
        answer_budget::{Reservation, too_large_to_hold},
        gauge::GaugeGuard,
        held_answers::{HeldAnswer, HeldAnswers, dropped},
        instant,
        quota::QuotaPermit,
        revoked, until,
    },
    error::{Code, Error, Rejection},
    operation::Admitted,
    subscription::Payload,
};

/// Time without a result after which a heartbeat is sent. Shorter than the idle timeouts of common proxies.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(12);
/// Time in which the connection must take the last chunk.
const LAST_CHUNK_TIMEOUT: Duration = Duration::from_secs(1);

/// Reason for which the gateway ends a stream.
#[derive(Debug, Clone, Copy)]
enum StreamEnd {
    /// The access token has expired.
    Expired,
    /// The session was logged out or revoked.
    SessionEnded,
    /// This gateway stops.
    Restart,
}

impl StreamEnd {
    fn error(self) -> Error {
        match self {
            Self::Expired => Error::new(Code::Unauthenticated, "the access token has expired"),
            Self::SessionEnded => Error::new(Code::Unauthenticated, "the session has ended, sign in again"),
            Self::Restart => Error::new(Code::Unavailable, "the service is restarting, subscribe again"),
        }
    }
}

/// Creates the response of an operation that was not admitted.
///
/// A client that accepts only streams receives errors of the document as the only result of a stream with
/// status 200. Its library reports them then; on an error status it would reconnect and fail again.
pub fn rejected(accepted: Accepted, rejection: Rejection) -> Response {
    let as_result =
        rejection.code().status() == StatusCode::OK || rejection.code() == Code::GraphqlValidationFailed;
    match accepted {
        Accepted::Single(media, _) => Answer::operation_rejected(media, rejection).into(),
        Accepted::Stream(format) if as_result => {
            response(format, Body::from(single_result(format, Outcome::Rejected(rejection))))
        }
        Accepted::Stream(_) => Answer::operation_rejected(accepted.media(), rejection).into(),
    }
}

/// Returns a complete stream of one result.
pub fn single_result(format: StreamFormat, outcome: Outcome) -> String {
    let json = String::from_utf8(outcome.into_json()).expect("JSON is UTF-8");
    let payload = Payload { json: json.into(), cursor: None };
    [format.opening(), &format.next(&payload), format.complete()].concat()
}

/// Creates the response of a whole stream, like [`Answer::charged`].
pub fn charged(
    format: StreamFormat,
    stream: String,
    answers: &HeldAnswers,
    reservation: Reservation,
    is_mutation: bool,
) -> Response {
    if !reservation.resize(stream.len()) && !is_mutation {
        let rejected = Outcome::Rejected(too_large_to_hold().into());
        return response(format, Body::from(single_result(format, rejected)));
    }
    response(format, answers.body(stream.into(), Some(reservation)))
}

impl Endpoint {
    /// Opens the stream of an admitted subscription. 429 if the user has the maximum number of sockets and
    /// streams, 503 while the gateway stops.
    pub(super) fn stream(
        &self,
        context: RequestContext,
        format: StreamFormat,
        admitted: Admitted,
    ) -> Response {
        let media = context.accepted.media();
        let connections = self.connections.clone();
        let caller = context.client.caller;
        if connections.is_stopping() {
            return Answer::request_rejected(media, StreamEnd::Restart.error().into()).into();
        }
        let permit = match caller.as_ref().map(|caller| connections.quota().take(caller.user)) {
            Some(None) => return rejections::too_many_streams(media).into(),
            Some(permit) => permit,
            None => None,
        };
        let session = caller.as_ref().map(|caller| connections.revoked().watch(caller.session));
        let expires_at = caller.as_ref().map(|caller| instant(caller.expires_at_s));
        let subscriptions = self.subscriptions.clone();
        let opened = async move {
            match subscriptions.open_after(context.cursor.as_deref(), admitted, caller, context.call).await {
                Ok(opened) => opened.into_stream().boxed(),
                Err(errors) => {
                    let json = json!({ "data": null, "errors": errors }).to_string();
                    stream::iter([Payload { json: json.into(), cursor: None }]).boxed()
                }
            }
        };
        let (sender, receiver) = mpsc::channel(1);
        let writer = StreamWriter {
            format,
            results: stream::once(opened.boxed()).flatten().boxed(),
            end: stream_end(connections.clone(), session, expires_at).boxed(),
            sender,
            answers: connections.answers().clone(),
            taken: Written::default(),
            _permit: permit,
            _gauge: GaugeGuard::new("gateway_streams"),
        };
        connections.spawn(writer.run());
        response(format, HeldAnswers::stream_body(receiver))
    }
}

/// Waits until the stream must end. Returns the reason.
async fn stream_end(
    connections: Connections,
    session: Option<SessionWatch>,
    expires_at: Option<Instant>,
) -> StreamEnd {
    let restart = async {
        connections.stopping().await;
        until(Some(connections.close_at())).await;
    };
    tokio::select! {
        () = revoked(session.as_ref()) => StreamEnd::SessionEnded,
        () = until(expires_at) => StreamEnd::Expired,
        () = restart => StreamEnd::Restart,
    }
}

/// Task that writes one stream.
struct StreamWriter {
    format: StreamFormat,
    results: BoxStream<'static, Payload>,
    end: BoxFuture<'static, StreamEnd>,
    /// Channel of capacity 1 to the connection.
    sender: mpsc::Sender<Arc<HeldAnswer>>,
    answers: HeldAnswers,
    /// Bytes of the stream that the client has taken.
    taken: Written,
    _permit: Option<QuotaPermit>,
    _gauge: GaugeGuard,
}

impl StreamWriter {
    /// Runs until the client disconnects or the stream ends.
    async fn run(mut self) {
        if let Some(last) = self.write().await {
            // A client that does not read must not delay the drain: its last chunk is dropped.
            let last = self.answers.hold(last.bytes, last.reservation, self.taken.clone());
            drop(timeout(LAST_CHUNK_TIMEOUT, self.sender.send(last)).await);
        }
    }

    /// Writes results until the stream ends. Returns the last chunk, or `None` if the client has disconnected
    /// or stopped reading.
    async fn write(&mut self) -> Option<Chunk> {
        let format = self.format;
        let mut chunk = Chunk::fixed(format.opening());
        let mut previous: Option<Arc<HeldAnswer>> = None;
        loop {
            let permit = tokio::select! {
                // An error means that the client has disconnected or has not read for STUCK_MAX.
                permit = timeout(STUCK_MAX, self.sender.reserve()) => permit.ok()?.ok()?,
                () = dropped(previous.as_deref()) => return None,
                end = &mut self.end => return Some(Chunk::end(format, end)),
            };
            let held = self.answers.hold(chunk.bytes, chunk.reservation, self.taken.clone());
            permit.send(held.clone());
            chunk = tokio::select! {
                result = self.results.next() => match result {
                    Some(payload) => Chunk::next(format, &payload),
                    None => return Some(Chunk::fixed(format.complete())),
                },
                () = sleep(HEARTBEAT_INTERVAL) => Chunk::fixed(format.heartbeat()),
                () = self.sender.closed() => return None,
                () = held.dropped() => return None,
                end = &mut self.end => return Some(Chunk::end(format, end)),
            };
            previous = Some(held);
        }
    }
}

/// Part of a stream that is written at once.
struct Chunk {
    bytes: Bytes,
    reservation: Option<Arc<Reservation>>,
}

impl Chunk {
    fn fixed(text: &'static str) -> Self {
        Self { bytes: Bytes::from_static(text.as_bytes()), reservation: None }
    }

    fn next(format: StreamFormat, payload: &Payload) -> Self {
        Self { bytes: format.next(payload).into(), reservation: payload.json.reservation() }
    }

    fn end(format: StreamFormat, end: StreamEnd) -> Self {
        Self { bytes: format.end(&end.error()).into(), reservation: None }
    }
}

impl StreamFormat {
    fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream; charset=utf-8",
            Self::Multipart => "multipart/mixed; boundary=\"graphql\"; subscriptionSpec=1.0",
        }
    }

    /// Returns the first chunk, sent immediately because some clients wait for the first byte. In a multipart
    /// stream each chunk ends with the boundary of the next part: without it the client cannot tell that the
    /// part is complete.
    const fn opening(self) -> &'static str {
        match self {
            Self::Events => ":\n\n",
            Self::Multipart => "--graphql\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql",
        }
    }

    fn next(self, payload: &Payload) -> String {
        let json: &str = &payload.json;
        match (self, payload.cursor) {
            (Self::Events, Some(cursor)) => format!("event: next\nid: {cursor}\ndata: {json}\n\n"),
            (Self::Events, None) => format!("event: next\ndata: {json}\n\n"),
            (Self::Multipart, _) => part(&format!("{{\"payload\":{json}}}")),
        }
    }

    const fn heartbeat(self) -> &'static str {
        match self {
            Self::Events => ":\n\n",
            Self::Multipart => "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql",
        }
    }

    const fn complete(self) -> &'static str {
        match self {
            Self::Events => "event: complete\ndata:\n\n",
            Self::Multipart => "--\r\n",
        }
    }

    /// Returns the chunk with which the gateway ends a stream early. An event stream ends without `complete`,
    /// which makes its client reconnect. A multipart client does not reconnect, so it receives a transport
    /// error.
    fn end(self, error: &Error) -> String {
        let code = error.code().name();
        let message = error.message();
        match self {
            Self::Events => format!(": {message}\n\n"),
            Self::Multipart => {
                let errors = json!([{ "message": message, "extensions": { "code": code } }]);
                part(&format!("{{\"payload\":null,\"errors\":{errors}}}")) + self.complete()
            }
        }
    }
}

fn part(json: &str) -> String {
    format!("\r\ncontent-type: application/json\r\n\r\n{json}\r\n--graphql")
}

fn response(format: StreamFormat, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // nginx would buffer the stream without this header.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    set_common_headers(headers);
    response
}
