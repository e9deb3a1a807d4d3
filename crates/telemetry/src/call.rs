//! Context of a gRPC call: request id, trace, deadline and the caller's authorization. As an interceptor
//! of a client it writes them into the request's metadata; the server layer parses them into the
//! request's extensions.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;
use tonic::{Request, Status, metadata::MetadataValue, service::Interceptor};

use crate::{
    RequestId, Traceparent,
    trace::{Kind, Span},
};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Value of an authorization header. Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// Returns the value in clear text, to be sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Context of a call. Cheap to clone. A client created by `with_interceptor(peer, call)` sends it with
/// each request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Request id, the same from the HTTP request to the last event that it causes.
    pub request_id: RequestId,
    /// Trace, and the span that makes the call.
    pub traceparent: Traceparent,
    /// The span is one of another process or has started. Otherwise the next span begins the trace.
    has_parent: bool,
    /// Time after which the caller no longer waits for the answer.
    pub deadline: Option<Instant>,
    /// Whole value of the authorization header, `Bearer …`.
    pub authorization: Option<Secret>,
}

impl Call {
    /// Creates the context of a new request, without caller and deadline.
    pub fn new() -> Self {
        Self {
            request_id: RequestId::random(),
            traceparent: Traceparent::random(),
            has_parent: false,
            deadline: None,
            authorization: None,
        }
    }

    /// Starts a span of what the call does. What the call causes from now on is a part of it.
    pub fn start_span<N: Into<Cow<'static, str>>>(&mut self, kind: Kind, name: impl FnOnce() -> N) -> Span {
        let parent = self.has_parent.then_some(self.traceparent);
        let span = Span::start(kind, name, parent);
        self.traceparent = span.traceparent();
        self.has_parent = true;
        span
    }

    /// Like [`Call::start_span`], for work that another trace has caused.
    pub fn start_span_of<N: Into<Cow<'static, str>>>(
        &mut self,
        kind: Kind,
        name: impl FnOnce() -> N,
        cause: Traceparent,
    ) -> Span {
        self.traceparent = cause;
        self.has_parent = true;
        self.start_span(kind, name)
    }

    /// Returns the span of the log: its lines carry the ids of the request, the trace and the span.
    pub fn log_span(&self) -> tracing::Span {
        let trace = self.traceparent;
        tracing::info_span!(
            "call",
            request_id = %self.request_id,
            trace_id = %format_args!("{:032x}", trace.trace_id()),
            span_id = %format_args!("{:016x}", trace.span_id()),
        )
    }

    /// Sets the deadline, unless an earlier one is already set.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Sets the authorization header, `Bearer …`.
    #[must_use]
    pub fn with_authorization(mut self, header: &str) -> Self {
        self.authorization = Some(Secret::new(header));
        self
    }

    /// Sets the authorization to a header that another call had.
    #[must_use]
    pub fn with_secret(mut self, authorization: Secret) -> Self {
        self.authorization = Some(authorization);
        self
    }

    /// Returns the context of a received request: the one that the server layer attached, else the one
    /// parsed from the metadata.
    pub fn of<T>(request: &Request<T>) -> Self {
        let extension = request.extensions().get::<Self>();
        extension.cloned().unwrap_or_else(|| Self::parse(request.metadata().as_ref()))
    }

    /// Parses the context from headers. A missing or malformed request id or trace is replaced by a random
    /// one.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let parent = text(&TRACEPARENT).and_then(Traceparent::parse);
        Self {
            request_id: text(&REQUEST_ID).and_then(RequestId::parse).unwrap_or_else(RequestId::random),
            traceparent: parent.unwrap_or_else(Traceparent::random),
            has_parent: parent.is_some(),
            deadline: time_left(headers).and_then(|left| Instant::now().checked_add(left)),
            authorization: text(&header::AUTHORIZATION).map(Secret::new),
        }
    }
}

impl Default for Call {
    fn default() -> Self {
        Self::new()
    }
}

impl Interceptor for Call {
    /// Writes the context into the metadata.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED if the deadline has passed, UNAUTHENTICATED if the authorization is not a valid
    /// header value.
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Status::deadline_exceeded("the deadline of the call has passed"));
            }
            request.set_timeout(left);
        }
        let malformed = |_| Status::internal("an id is not a valid header value");
        let metadata = request.metadata_mut();
        metadata.insert("x-request-id", self.request_id.as_str().parse().map_err(malformed)?);
        metadata.insert("traceparent", self.traceparent.to_string().parse().map_err(malformed)?);
        if let Some(secret) = &self.authorization {
            let mut value = MetadataValue::try_from(secret.expose())
                .map_err(|_| Status::unauthenticated("the access token is not valid"))?;
            // Sensitive values are omitted from `Debug` output and never indexed by HPACK.
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
        Ok(request)
    }
}

/// Returns the time that `grpc-timeout` leaves for a call; `None` if the header is missing or malformed.
pub fn time_left(headers: &HeaderMap) -> Option<Duration> {
    parse_timeout(headers.get(&TIMEOUT)?.to_str().ok()?)
}

/// Sets `grpc-timeout`. The value is rounded down to the unit that fits its eight digits, and limited to
/// three years.
pub fn set_time_left(headers: &mut HeaderMap, left: Duration) {
    const DIGITS_MAX: u128 = 99_999_999;
    let (number, unit) = match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= DIGITS_MAX => (micros, 'u'),
        (_, millis) if millis <= DIGITS_MAX => (millis, 'm'),
        _ => (u128::from(left.as_secs()).min(DIGITS_MAX), 'S'),
    };
    let value = HeaderValue::try_from(format!("{number}{unit}"));
    headers.insert(TIMEOUT, value.expect("digits and a letter are a valid header value"));
}

/// Parses a `grpc-timeout`: 1 to 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(mut call: Call) -> Request<()> {
        call.call(Request::new(())).expect("the call is sent")
    }

    #[test]
    fn a_call_round_trips() {
        let call = Call::new()
            .with_deadline(Instant::now() + Duration::from_secs(5))
            .with_authorization("Bearer abc");
        let mut arrived = Call::of(&sent(call.clone()));
        assert_eq!(arrived.request_id, call.request_id);
        assert_eq!(arrived.authorization, call.authorization);
        let trace = |call: &Call| call.traceparent.to_string()[..35].to_owned();
        assert_eq!(trace(&arrived), trace(&call));
        assert_eq!(arrived.traceparent, call.traceparent);
        arrived.start_span(Kind::Server, || "served");
        assert_eq!(trace(&arrived), trace(&call));
        assert_ne!(arrived.traceparent, call.traceparent, "the server starts a child span");
        let left = arrived.deadline.expect("a deadline") - Instant::now();
        assert!(left > Duration::from_secs(4) && left <= Duration::from_secs(5), "{left:?}");
    }

    #[test]
    fn a_call_without_deadline_and_authorization_sends_neither() {
        let request = sent(Call::new());
        assert!(request.metadata().get("grpc-timeout").is_none());
        assert!(request.metadata().get("authorization").is_none());
    }

    #[test]
    fn a_call_with_an_expired_deadline_is_not_sent() {
        let status = Call::new().with_deadline(Instant::now()).call(Request::new(())).expect_err("not sent");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn a_deadline_is_only_shortened() {
        let soon = Instant::now() + Duration::from_secs(1);
        let late = soon + Duration::from_secs(1);
        assert_eq!(Call::new().with_deadline(soon).with_deadline(late).deadline, Some(soon));
        assert_eq!(Call::new().with_deadline(late).with_deadline(soon).deadline, Some(soon));
    }

    #[test]
    fn an_invalid_authorization_is_rejected_and_never_printed() {
        let mut call = Call::new().with_authorization("Bearer hid\nden");
        let status = call.call(Request::new(())).expect_err("not sent");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        assert!(!format!("{call:?} {status:?}").contains("den"));
        let request = sent(Call::new().with_authorization("Bearer hidden"));
        assert!(!format!("{request:?}").contains("hidden"));
    }

    #[test]
    fn malformed_metadata_is_replaced() {
        let mut request = Request::new(());
        request.metadata_mut().insert("x-request-id", "two words".parse().expect("ascii"));
        request.metadata_mut().insert("traceparent", "00-nonsense".parse().expect("ascii"));
        request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("ascii"));
        let call = Call::of(&request);
        assert_ne!(call.request_id.as_str(), "two words");
        assert_eq!(call.deadline, None);
    }

    #[test]
    fn the_remaining_time_round_trips() {
        let mut headers = HeaderMap::new();
        assert_eq!(time_left(&headers), None);
        let micro = Duration::from_micros(1);
        let second = Duration::from_secs(1);
        for (left, expected) in [
            (Duration::ZERO, Duration::ZERO),
            (micro + Duration::from_nanos(999), micro),
            (4_750 * second / 1_000, 4_750 * second / 1_000),
            (100 * second - micro, 100 * second - micro),
            (100 * second + micro, 100 * second),
            (100_000 * second + micro, 100_000 * second),
            (Duration::MAX, 99_999_999 * second),
        ] {
            set_time_left(&mut headers, left);
            assert_eq!((time_left(&headers), headers.len()), (Some(expected), 1), "{left:?}");
        }
    }

    #[test]
    fn a_timeout_is_a_number_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("5m", Some(Duration::from_millis(5))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("+5S", None),
            ("123456789S", None),
            ("5ü", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }
}
