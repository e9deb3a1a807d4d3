//! The codes of the public API: one table, and one match from what the services answer. Whatever fails carries its code
//! in `extensions.code`; what is our own fault is logged once, here, and shown as an id that leads to the log.

use std::time::Duration;

use async_graphql::{ErrorExtensionValues, Response, ServerError, Value};
use http::StatusCode;
use telemetry::RequestId;

/// The extension that says when to try again, in milliseconds.
const RETRY_AFTER_MS: &str = "retryAfterMs";

/// What went wrong, as a client can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The document does not parse.
    GraphqlParseFailed,
    /// The document does not fit the schema.
    GraphqlValidationFailed,
    /// The request has the wrong shape.
    BadRequest,
    /// No document of this hash is known: send it in full.
    PersistedQueryNotFound,
    /// Only listed documents run here.
    PersistedQueryRequired,
    /// No token, or a bad, expired or revoked one.
    Unauthenticated,
    /// A value out of its bounds, a strange cursor or version.
    BadUserInput,
    /// Absent, or not the caller's.
    NotFound,
    /// Something else has taken the place.
    Conflict,
    /// A bound of size, depth, cost or number.
    LimitExceeded,
    /// Too many requests; later they are welcome.
    RateLimited,
    /// A service or engine is away.
    Unavailable,
    /// A service or engine is slow.
    DeadlineExceeded,
    /// Our own fault.
    Internal,
}

impl Code {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::GraphqlParseFailed,
        Self::GraphqlValidationFailed,
        Self::BadRequest,
        Self::PersistedQueryNotFound,
        Self::PersistedQueryRequired,
        Self::Unauthenticated,
        Self::BadUserInput,
        Self::NotFound,
        Self::Conflict,
        Self::LimitExceeded,
        Self::RateLimited,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// `extensions.code`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The status of an answer that has no `data` because of this.
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// The table.
    const fn row(self) -> (&'static str, StatusCode) {
        match self {
            Self::GraphqlParseFailed => ("GRAPHQL_PARSE_FAILED", StatusCode::BAD_REQUEST),
            Self::GraphqlValidationFailed => ("GRAPHQL_VALIDATION_FAILED", StatusCode::BAD_REQUEST),
            Self::BadRequest => ("BAD_REQUEST", StatusCode::BAD_REQUEST),
            Self::PersistedQueryNotFound => ("PERSISTED_QUERY_NOT_FOUND", StatusCode::OK),
            Self::PersistedQueryRequired => ("PERSISTED_QUERY_REQUIRED", StatusCode::BAD_REQUEST),
            Self::Unauthenticated => ("UNAUTHENTICATED", StatusCode::UNAUTHORIZED),
            Self::BadUserInput => ("BAD_USER_INPUT", StatusCode::OK),
            Self::NotFound => ("NOT_FOUND", StatusCode::OK),
            Self::Conflict => ("CONFLICT", StatusCode::OK),
            Self::LimitExceeded => ("LIMIT_EXCEEDED", StatusCode::BAD_REQUEST),
            Self::RateLimited => ("RATE_LIMITED", StatusCode::TOO_MANY_REQUESTS),
            Self::Unavailable => ("UNAVAILABLE", StatusCode::OK),
            Self::DeadlineExceeded => ("DEADLINE_EXCEEDED", StatusCode::OK),
            Self::Internal => ("INTERNAL", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// A failure with its code. The message is written for the person who reads it, but that of [`Code::Internal`] is for
/// the log alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    /// When it may be tried again.
    retry_after: Option<Duration>,
}

impl Error {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// Too many requests; after this time there may be one more.
    pub fn rate_limited(retry_after: Duration) -> Self {
        let error = Self::new(Code::RateLimited, "too many requests, try again later");
        Self { retry_after: Some(retry_after), ..error }
    }

    /// A value out of its bounds.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Code::BadUserInput, message)
    }

    /// Something that our own code promised cannot happen; shown masked.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Nobody is signed in.
    pub fn sign_in() -> Self {
        Self::new(Code::Unauthenticated, "sign in first")
    }

    /// What kind of failure it is.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The message, not masked.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error as a client sees it. A failure of ours is logged here and masked.
    pub fn into_server_error(self, request_id: &RequestId) -> ServerError {
        let mut error = ServerError::new(String::new(), None);
        self.show(&mut error, request_id);
        error
    }

    fn show(self, error: &mut ServerError, request_id: &RequestId) {
        let ours = self.code == Code::Internal;
        self.tell(error);
        if ours {
            tracing::error!(request_id = %request_id, error = %error.message, "an internal error");
            "internal error".clone_into(&mut error.message);
            error.extensions.get_or_insert_default().set("requestId", request_id.as_str());
        }
    }

    /// Message, code, and when to try again.
    fn tell(self, error: &mut ServerError) {
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", self.code.name());
        if let Some(wait) = self.retry_after {
            extensions
                .set(RETRY_AFTER_MS, u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
        }
        error.message = self.message;
        error.extensions = Some(extensions);
    }
}

impl From<tonic::Status> for Error {
    /// The one match from what services answer.
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as Grpc;
        let code = match status.code() {
            Grpc::InvalidArgument | Grpc::FailedPrecondition => Code::BadUserInput,
            Grpc::NotFound | Grpc::PermissionDenied => Code::NotFound,
            Grpc::AlreadyExists => Code::Conflict,
            Grpc::Unauthenticated => Code::Unauthenticated,
            Grpc::ResourceExhausted => Code::LimitExceeded,
            Grpc::Unavailable => return Self::new(Code::Unavailable, "a service is away, try again later"),
            Grpc::DeadlineExceeded => {
                return Self::new(Code::DeadlineExceeded, "a service did not answer in time");
            }
            // The client's own word for an answer that is larger than it takes.
            Grpc::OutOfRange => {
                return Self::new(Code::LimitExceeded, "the answer is too large: ask for less at once");
            }
            _ => Code::Internal,
        };
        Self::new(code, status.message())
    }
}

impl From<proto::InvalidId> for Error {
    /// A service answered with an id that is none.
    fn from(error: proto::InvalidId) -> Self {
        Self::internal(format!("a service answered with {error}"))
    }
}

/// Why an operation is not executed: errors of one code, and no data.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    code: Code,
    errors: Vec<ServerError>,
}

impl Rejected {
    /// Errors of this code.
    pub fn coded(code: Code, mut errors: Vec<ServerError>) -> Self {
        for error in &mut errors {
            let extensions = error.extensions.get_or_insert_default();
            extensions.set("code", code.name());
        }
        Self { code, errors }
    }

    /// What does not fit the schema.
    pub fn invalid(errors: Vec<ServerError>) -> Self {
        Self::coded(Code::GraphqlValidationFailed, errors)
    }

    /// A failure of this request.
    pub fn of(error: Error, request_id: &RequestId) -> Self {
        Self { code: error.code, errors: vec![error.into_server_error(request_id)] }
    }

    /// What kind of failure it is.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What a client is shown; each error carries its code.
    pub fn errors(&self) -> &[ServerError] {
        &self.errors
    }

    /// What an executed operation comes to that has no data because there was too much of something: it is refused like
    /// one that was not executed.
    pub fn limited(response: &Response) -> Option<Self> {
        let limited =
            |error: &ServerError| extension(error, "code") == Some(&Value::from(Code::RateLimited.name()));
        let refused = response.data == Value::Null && response.errors.iter().any(limited);
        refused.then(|| Self { code: Code::RateLimited, errors: response.errors.clone() })
    }

    /// After how many seconds it may be tried again, where that is known.
    pub fn retry_after_s(&self) -> Option<u64> {
        let wait_ms = self.errors.iter().filter_map(|error| match extension(error, RETRY_AFTER_MS) {
            Some(Value::Number(wait_ms)) => wait_ms.as_u64(),
            _ => None,
        });
        wait_ms.max().map(|wait_ms| wait_ms.div_ceil(1000).max(1))
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        Response::from_errors(self.errors)
    }
}

impl From<Error> for Rejected {
    /// A failure of the one who asks; ours are of a request ([`Rejected::of`]).
    fn from(error: Error) -> Self {
        let (code, mut shown) = (error.code, ServerError::new(String::new(), None));
        error.tell(&mut shown);
        Self { code, errors: vec![shown] }
    }
}

fn extension<'a>(error: &'a ServerError, name: &str) -> Option<&'a Value> {
    error.extensions.as_ref().and_then(|extensions| extensions.get(name))
}

/// Gives every error of an executed operation its code. Those of resolvers know theirs; one without a source is
/// async-graphql's own, about the value of an argument.
pub fn finish(response: &mut Response, request_id: &RequestId) {
    for shown in &mut response.errors {
        if shown.extensions.as_ref().is_some_and(|extensions| extensions.get("code").is_some()) {
            continue;
        }
        let error = match shown.source.take() {
            None => Error::input(without_value(std::mem::take(&mut shown.message))),
            Some(source) => match source.downcast_ref::<Error>() {
                Some(error) => error.clone(),
                None => Error::internal(std::mem::take(&mut shown.message)),
            },
        };
        error.show(shown, request_id);
    }
}

/// async-graphql repeats a value of the wrong type, which may be a password: `Expected input type "Int", found "…".`
fn without_value(mut message: String) -> String {
    if let Some(at) = message.find(", found ") {
        message.truncate(at);
        message.push('.');
    }
    message
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::{Code as Grpc, Status};

    use super::*;

    #[test]
    fn the_table_is_the_public_contract() {
        let table: Vec<_> =
            Code::ALL.iter().map(|code| format!("{} {}", code.name(), code.status().as_u16())).collect();
        assert_eq!(
            table,
            [
                "GRAPHQL_PARSE_FAILED 400",
                "GRAPHQL_VALIDATION_FAILED 400",
                "BAD_REQUEST 400",
                "PERSISTED_QUERY_NOT_FOUND 200",
                "PERSISTED_QUERY_REQUIRED 400",
                "UNAUTHENTICATED 401",
                "BAD_USER_INPUT 200",
                "NOT_FOUND 200",
                "CONFLICT 200",
                "LIMIT_EXCEEDED 400",
                "RATE_LIMITED 429",
                "UNAVAILABLE 200",
                "DEADLINE_EXCEEDED 200",
                "INTERNAL 500",
            ]
        );
    }

    #[test]
    fn every_status_of_a_service_has_its_code_and_only_texts_for_people_pass() {
        let shown = |grpc| {
            let error = Error::from(Status::new(grpc, "words"));
            let error = error.into_server_error(&RequestId::random());
            let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code")).cloned();
            let Some(Value::String(code)) = code else { panic!("no code") };
            format!("{grpc:?}: {code} {}", if error.message == "words" { "as it is" } else { &error.message })
        };
        let rows: Vec<_> = (1..17).map(|number| shown(Grpc::from_i32(number))).collect();
        assert_eq!(
            rows,
            [
                "Cancelled: INTERNAL internal error",
                "Unknown: INTERNAL internal error",
                "InvalidArgument: BAD_USER_INPUT as it is",
                "DeadlineExceeded: DEADLINE_EXCEEDED a service did not answer in time",
                "NotFound: NOT_FOUND as it is",
                "AlreadyExists: CONFLICT as it is",
                "PermissionDenied: NOT_FOUND as it is",
                "ResourceExhausted: LIMIT_EXCEEDED as it is",
                "FailedPrecondition: BAD_USER_INPUT as it is",
                "Aborted: INTERNAL internal error",
                "OutOfRange: LIMIT_EXCEEDED the answer is too large: ask for less at once",
                "Unimplemented: INTERNAL internal error",
                "Internal: INTERNAL internal error",
                "Unavailable: UNAVAILABLE a service is away, try again later",
                "DataLoss: INTERNAL internal error",
                "Unauthenticated: UNAUTHENTICATED as it is",
            ]
        );
    }

    #[test]
    fn every_error_of_an_answer_carries_its_code() {
        let ours =
            |error: Error| ServerError { source: Some(Arc::new(error)), ..ServerError::new("words", None) };
        let foreign = ServerError { source: Some(Arc::new("other")), ..ServerError::new("secret", None) };
        let errors = vec![
            ours(Error::new(Code::Conflict, "taken")),
            ours(Error::internal("secret")),
            ServerError::new("Only integers from -2147483648 to 2147483647 are accepted.", None),
            foreign,
            ServerError::new("Expected input type \"LoginInput\", found \"correct horse\".", None),
        ];
        let mut response = Response::from_errors(errors);
        let request_id = RequestId::random();
        finish(&mut response, &request_id);
        finish(&mut response, &request_id);
        let shown = serde_json::to_value(&response.errors).expect("JSON");
        let internal = serde_json::json!({
            "message": "internal error",
            "extensions": { "code": "INTERNAL", "requestId": request_id.as_str() },
        });
        assert_eq!(shown[0], serde_json::json!({ "message": "taken", "extensions": { "code": "CONFLICT" } }));
        assert_eq!((&shown[1], &shown[3]), (&internal, &internal));
        assert_eq!(shown[2]["extensions"]["code"], "BAD_USER_INPUT");
        assert_eq!(shown[4]["message"], "Expected input type \"LoginInput\".", "the value is not repeated");
    }
}
