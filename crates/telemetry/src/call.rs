//! What travels with every gRPC call: request id, trace, deadline and the authorization of who asked. As an interceptor
//! of a client it writes them into the request's metadata; the server's layer reads them back into the extensions.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{fmt, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;
use tonic::{Request, Status, metadata::MetadataValue, service::Interceptor};

use crate::{RequestId, Traceparent};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The value of an authorization header. It never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps a value from being shown.
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The value, for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What travels with a call. Cheap to clone; a client made `with_interceptor(peer, call)` sends it along.
#[derive(Clone, Debug)]
pub struct Call {
    /// The same from the edge to the last event.
    pub request_id: RequestId,
    /// The trace, and the span that calls.
    pub traceparent: Traceparent,
    /// When nobody waits for the answer any more.
    pub deadline: Option<Instant>,
    /// The whole header value, `Bearer …`.
    pub authorization: Option<Secret>,
}

impl Call {
    /// The start of a new request: nobody's, without a deadline.
    pub fn new() -> Self {
        Self {
            request_id: RequestId::random(),
            traceparent: Traceparent::random(),
            deadline: None,
            authorization: None,
        }
    }

    /// The same call that must be answered by then. An earlier deadline stays.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// The same call with this authorization header, `Bearer …`, in place of the one before.
    #[must_use]
    pub fn with_authorization(mut self, header: &str) -> Self {
        self.authorization = Some(Secret::new(header));
        self
    }

    /// The call that a request of a server belongs to: what the server's layer has put there, else what its metadata
    /// say.
    pub fn of<T>(request: &Request<T>) -> Self {
        let extension = request.extensions().get::<Self>();
        extension.cloned().unwrap_or_else(|| Self::read(request.metadata().as_ref()))
    }

    /// Takes over what came in, with a span of our own; makes what is missing or malformed.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            request_id: text(&REQUEST_ID).and_then(RequestId::parse).unwrap_or_else(RequestId::random),
            traceparent: text(&TRACEPARENT)
                .and_then(Traceparent::parse)
                .map_or_else(Traceparent::random, |incoming| incoming.child()),
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
    /// # Errors
    /// DEADLINE_EXCEEDED where the deadline has passed, UNAUTHENTICATED where the authorization is not a header's text.
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Status::deadline_exceeded("the time for this request is over"));
            }
            request.set_timeout(left);
        }
        let malformed = |_| Status::internal("an id that no header can carry");
        let metadata = request.metadata_mut();
        metadata.insert("x-request-id", self.request_id.as_str().parse().map_err(malformed)?);
        metadata.insert("traceparent", self.traceparent.to_string().parse().map_err(malformed)?);
        if let Some(secret) = &self.authorization {
            let mut value = MetadataValue::try_from(secret.expose())
                .map_err(|_| Status::unauthenticated("the access token is not valid"))?;
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
        Ok(request)
    }
}

/// How much time a call is given by its headers, if they say.
pub fn time_left(headers: &HeaderMap) -> Option<Duration> {
    timeout(headers.get(&TIMEOUT)?.to_str().ok()?)
}

/// Gives a call this much time, in place of what its headers said. Rounded down, and at most three years.
pub fn set_time_left(headers: &mut HeaderMap, left: Duration) {
    const DIGITS_MAX: u128 = 99_999_999;
    let (number, unit) = match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= DIGITS_MAX => (micros, 'u'),
        (_, millis) if millis <= DIGITS_MAX => (millis, 'm'),
        _ => (u128::from(left.as_secs()).min(DIGITS_MAX), 'S'),
    };
    let value = HeaderValue::try_from(format!("{number}{unit}"));
    headers.insert(TIMEOUT, value.expect("digits and a letter are a header's text"));
}

/// Reads a `grpc-timeout`: 1 to 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
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
        call.call(Request::new(())).expect("sent")
    }

    #[test]
    fn a_call_arrives_as_it_was_sent() {
        let call = Call::new()
            .with_deadline(Instant::now() + Duration::from_secs(5))
            .with_authorization("Bearer abc");
        let arrived = Call::of(&sent(call.clone()));
        assert_eq!(arrived.request_id, call.request_id);
        assert_eq!(arrived.authorization, call.authorization);
        let trace = |it: &Call| it.traceparent.to_string()[..35].to_owned();
        assert_eq!(trace(&arrived), trace(&call));
        assert_ne!(arrived.traceparent, call.traceparent, "the server's span is its own");
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
    fn an_expired_deadline_is_no_call() {
        let status = Call::new().with_deadline(Instant::now()).call(Request::new(())).expect_err("refused");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn a_deadline_is_only_ever_shortened() {
        let soon = Instant::now() + Duration::from_secs(1);
        let late = soon + Duration::from_secs(1);
        assert_eq!(Call::new().with_deadline(soon).with_deadline(late).deadline, Some(soon));
        assert_eq!(Call::new().with_deadline(late).with_deadline(soon).deadline, Some(soon));
    }

    #[test]
    fn an_authorization_that_is_no_header_is_refused_and_nothing_shows_it() {
        let mut call = Call::new().with_authorization("Bearer hid\nden");
        let status = call.call(Request::new(())).expect_err("refused");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        assert!(!format!("{call:?} {status:?}").contains("den"));
        let request = sent(Call::new().with_authorization("Bearer hidden"));
        assert!(!format!("{request:?}").contains("hidden"));
    }

    #[test]
    fn malformed_metadata_are_made_anew() {
        let mut request = Request::new(());
        request.metadata_mut().insert("x-request-id", "two words".parse().expect("ascii"));
        request.metadata_mut().insert("traceparent", "00-nonsense".parse().expect("ascii"));
        request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("ascii"));
        let call = Call::of(&request);
        assert_ne!(call.request_id.as_str(), "two words");
        assert_eq!(call.deadline, None);
    }

    #[test]
    fn the_time_that_is_left_is_read_as_it_was_written() {
        let mut headers = HeaderMap::new();
        assert_eq!(time_left(&headers), None);
        let (micro, second) = (Duration::from_micros(1), Duration::from_secs(1));
        for (left, read) in [
            (Duration::ZERO, Duration::ZERO),
            (micro + Duration::from_nanos(999), micro),
            (4_750 * second / 1_000, 4_750 * second / 1_000),
            (100 * second - micro, 100 * second - micro),
            (100 * second + micro, 100 * second),
            (100_000 * second + micro, 100_000 * second),
            (Duration::MAX, 99_999_999 * second),
        ] {
            set_time_left(&mut headers, left);
            assert_eq!((time_left(&headers), headers.len()), (Some(read), 1), "{left:?}");
        }
    }

    #[test]
    fn timeouts_have_a_number_and_a_unit() {
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
            assert_eq!(timeout(text), expected, "{text}");
        }
    }
}
