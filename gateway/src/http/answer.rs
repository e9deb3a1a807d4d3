//! HTTP responses of GraphQL operations: body, status and headers for the media type that the client accepts.
//!
//! As `application/graphql-response+json`, status 200 means that the operation was executed. As
//! `application/json`, errors in the document have status 200 too. The response of a request that was not
//! executed has no `data` field, as the GraphQL specification requires.

use std::fmt;

use async_graphql::{ServerError, Value};
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;

use crate::{
    connections::{
        answer_budget::{Reservation, too_large_to_hold},
        held_answers::HeldAnswers,
    },
    error::{Code, Rejection},
    operation::Executed,
};

use super::{
    media::{MediaType, NotAcceptable},
    set_common_headers,
};

/// Outcome of one operation.
pub enum Outcome {
    /// The operation was executed without errors. Holds the whole response as JSON.
    Json(Vec<u8>),
    /// The operation was executed, possibly with errors.
    Executed(async_graphql::Response),
    /// The operation was rejected before execution.
    Rejected(Rejection),
}

/// Complete HTTP response. `Debug` omits the body, which holds user data.
pub struct Answer {
    media: MediaType,
    status: StatusCode,
    extra_header: Option<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

/// Response without data.
#[derive(Serialize)]
struct Errors<'a> {
    errors: &'a [ServerError],
}

impl From<Executed> for Outcome {
    fn from(executed: Executed) -> Self {
        match executed {
            Executed::Json(json) => Self::Json(json),
            Executed::Response(response) => Self::Executed(response),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// Creates the response of an executed operation. 429 if a rate limit inside the operation rejected it.
    pub fn executed(media: MediaType, outcome: Outcome) -> Self {
        if let Some(rejection) = outcome.limited() {
            return Self::request_rejected(media, rejection);
        }
        let is_failure = matches!(&outcome, Outcome::Executed(response) if is_failure(response));
        let status = if is_failure { Code::Internal.status() } else { StatusCode::OK };
        Self::new(media, status, outcome.into_json())
    }

    /// Creates the response of an operation that was not admitted. As `application/json`, errors in the
    /// document have status 200: clients of that type read the errors only then.
    pub fn operation_rejected(media: MediaType, rejection: Rejection) -> Self {
        let document_error = matches!(
            rejection.code(),
            Code::GraphqlParseFailed | Code::GraphqlValidationFailed | Code::LimitExceeded
        );
        let answer = Self::request_rejected(media, rejection);
        if media == MediaType::Json && document_error {
            Self { status: StatusCode::OK, ..answer }
        } else {
            answer
        }
    }

    /// Creates the response of a request that was rejected as a whole, with the status of the error code.
    pub fn request_rejected(media: MediaType, rejection: Rejection) -> Self {
        let status = match rejection.code() {
            // Unlike a field whose service is unavailable, no part of the request was executed.
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            code => code.status(),
        };
        let challenge = (status == StatusCode::UNAUTHORIZED)
            .then(|| (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        let retry_after =
            rejection.retry_after_s().map(|wait_s| (header::RETRY_AFTER, HeaderValue::from(wait_s)));
        let extra_header = challenge.or(retry_after);
        Self { extra_header, ..Self::new(media, status, Outcome::Rejected(rejection).into_json()) }
    }

    /// Creates the response of a batch, a list in the order of its operations.
    pub fn batch(media: MediaType, outcomes: Vec<Outcome>) -> Self {
        let mut body = Vec::new();
        for outcome in outcomes {
            body.push(if body.is_empty() { b'[' } else { b',' });
            body.append(&mut outcome.into_json());
        }
        body.push(b']');
        Self::new(media, StatusCode::OK, body)
    }

    /// Creates the HTTP response of executed operations. Their answer is charged to its client until the
    /// client has taken it. An answer that is larger than its reservation and finds no further room is not
    /// sent, unless a mutation has run.
    pub fn charged(self, answers: &HeldAnswers, reservation: Reservation, is_mutation: bool) -> Response {
        if !reservation.resize(self.body.len()) && !is_mutation {
            return Self::request_rejected(self.media, too_large_to_hold().into()).into();
        }
        self.into_response(|body| answers.body(body.into(), Some(reservation)))
    }

    fn into_response(self, body: impl FnOnce(Vec<u8>) -> Body) -> Response {
        let mut response = Response::new(body(self.body));
        *response.status_mut() = self.status;
        if let Some((name, value)) = self.extra_header {
            response.headers_mut().insert(name, value);
        }
        response.headers_mut().insert(header::CONTENT_TYPE, self.media.header());
        set_common_headers(response.headers_mut());
        response
    }

    fn new(media: MediaType, status: StatusCode, body: Vec<u8>) -> Self {
        Self { media, status, extra_header: None, body }
    }
}

impl Outcome {
    /// Returns the rejection of an operation that exceeded a rate limit during its execution.
    pub fn limited(&self) -> Option<Rejection> {
        match self {
            Self::Executed(response) => Rejection::limited(response),
            Self::Json(_) | Self::Rejected(_) => None,
        }
    }

    /// Serializes the outcome to JSON, the form of a stream's result.
    pub fn into_json(self) -> Vec<u8> {
        let json = match self {
            Self::Json(json) => return json,
            Self::Rejected(rejection) => serde_json::to_vec(&Errors { errors: rejection.errors() }),
            Self::Executed(response) if is_failure(&response) => {
                serde_json::to_vec(&Errors { errors: &response.errors })
            }
            Self::Executed(response) => serde_json::to_vec(&response),
        };
        json.expect("GraphQL responses serialize to JSON")
    }
}

/// Returns true if execution failed as a whole with an internal error. Such a response has no `data`.
fn is_failure(response: &async_graphql::Response) -> bool {
    let internal = |error: &ServerError| {
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code"));
        error.path.is_empty() && code == Some(&Value::from(Code::Internal.name()))
    };
    response.data == Value::Null && response.errors.iter().any(internal)
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        answer.into_response(Body::from)
    }
}

impl From<NotAcceptable> for Response {
    fn from(NotAcceptable: NotAcceptable) -> Self {
        rejections::not_acceptable().into()
    }
}

/// Rejections of requests that violate the protocol, before any GraphQL is parsed.
pub mod rejections {
    use axum::http::{HeaderName, HeaderValue, StatusCode, header};

    use super::{Answer, MediaType};
    use crate::error::{Code, Error};

    const SINGLE_CONNECTION: &str = "single connection mode is not supported: open one stream per operation \
        by POST or GET with `Accept: text/event-stream`";

    /// 406: the gateway offers none of the accepted media types.
    pub fn not_acceptable() -> Answer {
        let message = "responses are application/graphql-response+json or application/json, for \
            subscriptions text/event-stream or multipart/mixed;subscriptionSpec=1.0";
        reject(MediaType::Json, StatusCode::NOT_ACCEPTABLE, Code::BadRequest, message)
    }

    /// 415: the body is neither JSON nor a form that needed a preflight request. Protects against forms that
    /// a page of another origin submits.
    pub fn unsupported_type() -> Answer {
        let message = "the body must be application/json in UTF-8, or multipart/form-data with the header \
            GraphQL-Require-Preflight";
        let answer = reject(MediaType::Json, StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, message);
        with_header(answer, HeaderName::from_static("accept-post"), "application/json, multipart/form-data")
    }

    /// 415: the body is compressed by another method than gzip.
    pub fn unsupported_encoding() -> Answer {
        let message = "the body must be uncompressed or compressed by gzip";
        let answer = reject(MediaType::Json, StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, message);
        with_header(answer, header::ACCEPT_ENCODING, "gzip")
    }

    /// 405: GET is a safe method, so it executes no mutation.
    pub fn mutation_by_get(media: MediaType) -> Answer {
        let answer =
            reject(media, StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, "mutations require POST");
        with_header(answer, header::ALLOW, "POST")
    }

    /// 405: methods of the single connection mode of graphql-sse.
    pub fn single_connection_method() -> Answer {
        let answer =
            reject(MediaType::Json, StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, SINGLE_CONNECTION);
        with_header(answer, header::ALLOW, "GET, POST")
    }

    /// 400: a token of the single connection mode of graphql-sse.
    pub fn single_connection_token() -> Answer {
        reject(MediaType::Json, StatusCode::BAD_REQUEST, Code::BadRequest, SINGLE_CONNECTION)
    }

    /// 429: the user has the maximum number of sockets and streams. Like the close code 4429 of a socket it
    /// has no `Retry-After`: a retry fails until another one is closed.
    pub fn too_many_streams(media: MediaType) -> Answer {
        let message = "too many sockets and streams of this user";
        reject(media, StatusCode::TOO_MANY_REQUESTS, Code::LimitExceeded, message)
    }

    /// 413: the body is too large. Closes the connection, because the rest of the body is not read.
    pub fn too_large() -> Answer {
        let answer = reject(
            MediaType::Json,
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::LimitExceeded,
            "the body is larger than 1 MB",
        );
        with_header(answer, header::CONNECTION, "close")
    }

    /// 400: the client did not send the whole body.
    pub fn broken_body() -> Answer {
        reject(MediaType::Json, StatusCode::BAD_REQUEST, Code::BadRequest, "the body is incomplete")
    }

    /// 408: the body was not received in time. Closes the connection.
    pub fn late_body() -> Answer {
        let answer = reject(
            MediaType::Json,
            StatusCode::REQUEST_TIMEOUT,
            Code::BadRequest,
            "the body was not received within 30 seconds",
        );
        with_header(answer, header::CONNECTION, "close")
    }

    fn reject(media: MediaType, status: StatusCode, code: Code, message: &str) -> Answer {
        Answer { status, ..Answer::request_rejected(media, Error::new(code, message).into()) }
    }

    fn with_header(answer: Answer, name: HeaderName, value: &'static str) -> Answer {
        Answer { extra_header: Some((name, HeaderValue::from_static(value))), ..answer }
    }
}
