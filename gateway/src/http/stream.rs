//! Subscriptions over HTTP: server-sent events as `graphql-sse` has them (distinct connections), and parts as Apollo's
//! clients have them. A stream counts as one of its person's sockets and ends like them: with the token, with the session,
//! when the gateway stops, and when nothing is read for a while. Each has a task that asks for a result only when the
//! one before is on its way, so a slow reader costs no memory.

use std::{convert::Infallible, time::Duration};

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
    Endpoint, Head,
    answer::{Answer, Executed, refusal},
    common,
    media::{Accepted, Format},
};
use crate::{
    client::revoked_sessions::SessionWatch,
    connections::{Connections, STUCK_MAX, gauge::GaugeGuard, instant, quota::QuotaPermit, revoked, until},
    error::{Code, Error, Rejection},
    operation::Admitted,
    subscription::Payload,
};

/// How often a stream without results says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(12);
/// How long the last words may take to reach the client.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a stream ends before its results do.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// The token's time is over.
    Expired,
    /// The session was logged out or revoked.
    SessionOver,
    /// This gateway stops.
    Restart,
}

impl Cut {
    fn error(self) -> Error {
        match self {
            Self::Expired => Error::new(Code::Unauthenticated, "the access token has expired"),
            Self::SessionOver => Error::new(Code::Unauthenticated, "the session is over, sign in again"),
            Self::Restart => Error::new(Code::Unavailable, "the service restarts, subscribe again"),
        }
    }
}

/// What an operation that was not admitted is answered. Where a client takes streams alone, what is no fault of the HTTP
/// request is a result like others, so that its library shows it at once instead of trying again.
pub fn rejected(accepted: Accepted, rejected: Rejection) -> Response {
    let shown =
        rejected.code().status() == StatusCode::OK || rejected.code() == Code::GraphqlValidationFailed;
    match accepted {
        Accepted::Single(media, _) => Answer::rejected(media, rejected).into(),
        Accepted::Stream(format) if shown => whole(format, &Executed::Refused(rejected)),
        Accepted::Stream(_) => Answer::rejected(accepted.media(), rejected).into(),
    }
}

/// A stream of one result that is there already.
pub fn whole(format: Format, executed: &Executed) -> Response {
    let payload = Payload { json: executed.json().into(), cursor: None };
    let body = [format.opening(), &format.next(&payload), format.complete()].concat();
    response(format, Body::from(body))
}

impl Endpoint {
    /// The stream of a subscription that was admitted.
    pub(super) fn stream(&self, head: Head, format: Format, admitted: Admitted) -> Response {
        let media = head.accepted.media();
        let connections = self.connections.clone();
        let caller = head.client.caller;
        if connections.is_stopping() {
            return Answer::refused(media, Cut::Restart.error().into()).into();
        }
        let permit = match caller.as_ref().map(|caller| connections.quota().take(caller.user)) {
            Some(None) => return refusal::too_many_streams(media).into(),
            Some(permit) => permit,
            None => None,
        };
        let session = caller.as_ref().map(|caller| connections.revoked().watch(caller.session));
        let expires_at = caller.as_ref().map(|caller| instant(caller.expires_at_s));
        let subscriptions = self.subscriptions.clone();
        let opened = async move {
            match subscriptions.open_after(head.cursor.as_deref(), admitted, caller, head.call).await {
                Ok(opened) => opened.into_stream().boxed(),
                Err(errors) => {
                    let json = json!({ "data": null, "errors": errors }).to_string();
                    stream::iter([Payload { json: json.into(), cursor: None }]).boxed()
                }
            }
        };
        let (sender, receiver) = mpsc::channel(1);
        let writer = Writer {
            format,
            results: stream::once(opened.boxed()).flatten().boxed(),
            cut: cut(connections.clone(), session, expires_at).boxed(),
            sender,
            _permit: permit,
            _counted: GaugeGuard::new("gateway_streams"),
        };
        connections.spawn(writer.run());
        let chunks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (Ok::<_, Infallible>(chunk), receiver))
        });
        response(format, Body::from_stream(chunks))
    }
}

/// Comes back with the reason why a stream must end.
async fn cut(connections: Connections, session: Option<SessionWatch>, expires_at: Option<Instant>) -> Cut {
    let restart = async {
        connections.stopping().await;
        until(Some(connections.close_at())).await;
    };
    tokio::select! {
        () = revoked(session.as_ref()) => Cut::SessionOver,
        () = until(expires_at) => Cut::Expired,
        () = restart => Cut::Restart,
    }
}

/// The task of one stream.
struct Writer {
    format: Format,
    results: BoxStream<'static, Payload>,
    cut: BoxFuture<'static, Cut>,
    /// Holds one chunk until the connection takes it.
    sender: mpsc::Sender<Bytes>,
    _permit: Option<QuotaPermit>,
    _counted: GaugeGuard,
}

impl Writer {
    /// Runs until the client leaves or the stream ends.
    async fn run(mut self) {
        if let Some(last) = self.write().await {
            // A client that takes nothing hears nothing.
            drop(timeout(FAREWELL, self.sender.send(last)).await);
        }
    }

    /// Writes results until there are no more; gives what is to be said at the end, if anybody listens.
    async fn write(&mut self) -> Option<Bytes> {
        let format = self.format;
        let mut chunk = Bytes::from_static(format.opening().as_bytes());
        loop {
            let permit = tokio::select! {
                // Gone, or not reading for too long.
                permit = timeout(STUCK_MAX, self.sender.reserve()) => permit.ok()?.ok()?,
                cut = &mut self.cut => return Some(format.cut(&cut.error()).into()),
            };
            permit.send(chunk);
            chunk = tokio::select! {
                result = self.results.next() => match result {
                    Some(payload) => format.next(&payload).into(),
                    None => return Some(Bytes::from_static(format.complete().as_bytes())),
                },
                () = sleep(HEARTBEAT) => Bytes::from_static(format.heartbeat().as_bytes()),
                () = self.sender.closed() => return None,
                cut = &mut self.cut => return Some(format.cut(&cut.error()).into()),
            };
        }
    }
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream; charset=utf-8",
            Self::Parts => "multipart/mixed; boundary=\"graphql\"; subscriptionSpec=1.0",
        }
    }

    /// Sent at once, since some clients wait for the first byte. A part's boundary comes right behind it: a reader knows
    /// only by it that the part is whole.
    const fn opening(self) -> &'static str {
        match self {
            Self::Events => ":\n\n",
            Self::Parts => "--graphql\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql",
        }
    }

    fn next(self, payload: &Payload) -> String {
        let json = &payload.json;
        match (self, payload.cursor) {
            (Self::Events, Some(cursor)) => format!("event: next\nid: {cursor}\ndata: {json}\n\n"),
            (Self::Events, None) => format!("event: next\ndata: {json}\n\n"),
            (Self::Parts, _) => part(&format!("{{\"payload\":{json}}}")),
        }
    }

    const fn heartbeat(self) -> &'static str {
        match self {
            Self::Events => ":\n\n",
            Self::Parts => "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql",
        }
    }

    const fn complete(self) -> &'static str {
        match self {
            Self::Events => "event: complete\ndata:\n\n",
            Self::Parts => "--\r\n",
        }
    }

    /// Events break off without `complete`, so that clients come back; parts say a transport error, since theirs do not.
    fn cut(self, error: &Error) -> String {
        let (code, message) = (error.code().name(), error.message());
        match self {
            Self::Events => format!(": {message}\n\n"),
            Self::Parts => {
                let errors = json!([{ "message": message, "extensions": { "code": code } }]);
                part(&format!("{{\"payload\":null,\"errors\":{errors}}}")) + self.complete()
            }
        }
    }
}

fn part(json: &str) -> String {
    format!("\r\ncontent-type: application/json\r\n\r\n{json}\r\n--graphql")
}

fn response(format: Format, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // Proxies that buffer answers are asked not to.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    common(headers);
    response
}
