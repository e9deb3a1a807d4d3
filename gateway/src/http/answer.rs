//! Answers: the body, the status and the headers, by what the client accepts. Without data there is no `data`.

use std::fmt;

use async_graphql::{ServerError, Value};
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;

use crate::error::{Code, Rejection};

use super::{common, media::Media};

/// What became of one operation.
pub enum Executed {
    /// It has been executed.
    Answered(async_graphql::Response),
    /// It has been refused before that.
    Refused(Rejection),
}

/// An answer, whole. Debug does not show its body.
pub struct Answer {
    media: Media,
    status: StatusCode,
    extra: Option<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Whole(&'a async_graphql::Response),
    Errors { errors: &'a [ServerError] },
}

impl<'a> From<&'a Executed> for Shown<'a> {
    fn from(executed: &'a Executed) -> Self {
        match executed {
            Executed::Refused(rejected) => Self::Errors { errors: rejected.errors() },
            Executed::Answered(response) if is_failure(response) => Self::Errors { errors: &response.errors },
            Executed::Answered(response) => Self::Whole(response),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// The answer of an operation that has been executed.
    pub fn executed(media: Media, response: async_graphql::Response) -> Self {
        if let Some(rejected) = Rejection::limited(&response) {
            return Self::refused(media, rejected);
        }
        let status = if is_failure(&response) { Code::Internal.status() } else { StatusCode::OK };
        Self::new(media, status, &Shown::from(&Executed::Answered(response)))
    }

    /// The answer of an operation that has not been admitted. A client that takes JSON reads the errors of what was a
    /// GraphQL request at all.
    pub fn rejected(media: Media, rejected: Rejection) -> Self {
        let of_document = matches!(
            rejected.code(),
            Code::GraphqlParseFailed | Code::GraphqlValidationFailed | Code::LimitExceeded
        );
        let fine = media == Media::Json && of_document;
        let answer = Self::refused(media, rejected);
        if fine { Self { status: StatusCode::OK, ..answer } } else { answer }
    }

    /// The answer of a request that has been refused as a whole.
    pub fn refused(media: Media, rejected: Rejection) -> Self {
        let status = match rejected.code() {
            // Nothing is answered, not even in part.
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            code => code.status(),
        };
        let sign_in = (status == StatusCode::UNAUTHORIZED).then(|| HeaderValue::from_static("Bearer"));
        let extra = sign_in.map(|value| (header::WWW_AUTHENTICATE, value));
        let later = rejected.retry_after_s().map(|wait_s| (header::RETRY_AFTER, HeaderValue::from(wait_s)));
        let extra = extra.or(later);
        Self { extra, ..Self::new(media, status, &Shown::from(&Executed::Refused(rejected))) }
    }

    /// The answers of a batch, in its order.
    pub fn batch(media: Media, executed: Vec<Executed>) -> Self {
        let shown: Vec<_> = executed.iter().map(Shown::from).collect();
        Self::new(media, StatusCode::OK, &shown)
    }

    fn new(media: Media, status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("an answer has string keys alone");
        Self { media, status, extra: None, body }
    }
}

impl Executed {
    /// As JSON, for a stream.
    pub fn json(&self) -> String {
        serde_json::to_string(&Shown::from(self)).expect("an answer has string keys alone")
    }
}

/// Whether nothing was executed to an end, by our own fault: there is no `data` then.
fn is_failure(response: &async_graphql::Response) -> bool {
    let internal = |error: &ServerError| {
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code"));
        error.path.is_empty() && code == Some(&Value::from(Code::Internal.name()))
    };
    response.data == Value::Null && response.errors.iter().any(internal)
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let mut response = Response::new(Body::from(answer.body));
        *response.status_mut() = answer.status;
        if let Some((name, value)) = answer.extra {
            response.headers_mut().insert(name, value);
        }
        response.headers_mut().insert(header::CONTENT_TYPE, answer.media.header());
        common(response.headers_mut());
        response
    }
}

/// Refusals of requests that are not GraphQL over HTTP.
pub mod refusal {
    use axum::http::{HeaderName, HeaderValue, StatusCode, header};

    use super::{Answer, Media};
    use crate::error::{Code, Error};

    const SINGLE_CONNECTION: &str = "single connection mode is not offered: open a stream for each operation by POST or \
        GET with `Accept: text/event-stream`";

    /// 406: nothing that the client takes.
    pub fn not_acceptable() -> Answer {
        let message = "answers are application/graphql-response+json or application/json, of subscriptions \
            text/event-stream or multipart/mixed;subscriptionSpec=1.0";
        of(Media::Json, StatusCode::NOT_ACCEPTABLE, Code::BadRequest, message)
    }

    /// 415: a body that is not JSON, above all what a foreign page could send.
    pub fn unsupported_type() -> Answer {
        let message = "requests are application/json in UTF-8";
        let answer = of(Media::Json, StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, message);
        with(answer, HeaderName::from_static("accept-post"), "application/json")
    }

    /// 405: what changes something does not go by GET.
    pub fn mutation_by_get(media: Media) -> Answer {
        let answer = of(media, StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, "mutations go by POST");
        with(answer, header::ALLOW, "POST")
    }

    /// 405: the methods of the one connection that several operations share in graphql-sse.
    pub fn single_connection_method() -> Answer {
        let answer = of(Media::Json, StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, SINGLE_CONNECTION);
        with(answer, header::ALLOW, "GET, POST")
    }

    /// 400: a token of that connection.
    pub fn single_connection_token() -> Answer {
        of(Media::Json, StatusCode::BAD_REQUEST, Code::BadRequest, SINGLE_CONNECTION)
    }

    /// 429: all that a person may have open is open. As on a socket, which closes with 4429, trying again does not help.
    pub fn too_many_streams(media: Media) -> Answer {
        let message = "too many sockets and streams of this user";
        of(media, StatusCode::TOO_MANY_REQUESTS, Code::LimitExceeded, message)
    }

    /// 413: a body over its bound; the connection closes, the rest is not read.
    pub fn too_large() -> Answer {
        let answer = of(
            Media::Json,
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::LimitExceeded,
            "the body is larger than 1 MB",
        );
        with(answer, header::CONNECTION, "close")
    }

    /// 400: the body broke off.
    pub fn broken_body() -> Answer {
        of(Media::Json, StatusCode::BAD_REQUEST, Code::BadRequest, "the body broke off")
    }

    /// 408: the body did not come in time; the connection closes.
    pub fn late_body() -> Answer {
        let answer = of(
            Media::Json,
            StatusCode::REQUEST_TIMEOUT,
            Code::BadRequest,
            "the body did not come within 30 seconds",
        );
        with(answer, header::CONNECTION, "close")
    }

    fn of(media: Media, status: StatusCode, code: Code, message: &str) -> Answer {
        Answer { status, ..Answer::refused(media, Error::new(code, message).into()) }
    }

    fn with(answer: Answer, name: HeaderName, value: &'static str) -> Answer {
        Answer { extra: Some((name, HeaderValue::from_static(value))), ..answer }
    }
}
