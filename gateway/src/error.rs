//! Error codes of the public API: one table of codes, and one mapping from gRPC status.
//!
//! Every error of an answer carries its code in `extensions.code`. An internal error is logged once,
//! here, and masked: the client gets the request id, by which the log line is found.

use std::time::Duration;

use async_graphql::{ErrorExtensionValues, Response, ServerError, Value};
use http::StatusCode;
use telemetry::RequestId;

/// Extension with the time to wait before a retry, in milliseconds.
const RETRY_AFTER_MS: &str = "retryAfterMs";

/// Error code: one per reaction that a client can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The document does not parse.
    GraphqlParseFailed,
    /// The document is not valid for the schema.
    GraphqlValidationFailed,
    /// The request is malformed.
    BadRequest,
    /// No document with this hash is known. The client sends the whole document.
    PersistedQueryNotFound,
    /// The document is not in the list of trusted documents.
    PersistedQueryRequired,
    /// The token is missing, malformed, expired or revoked.
    Unauthenticated,
    /// A value exceeds its limits, or a cursor or version is malformed.
    BadUserInput,
    /// The object does not exist, or the caller may not see it.
    NotFound,
    /// The login or client key is used for something else.
    Conflict,
    /// The request exceeds a limit of size, depth, cost or count.
    LimitExceeded,
    /// The rate limit is exceeded.
    RateLimited,
    /// A service, database, cache or broker is unavailable.
    Unavailable,
    /// A service did not answer before the deadline.
    DeadlineExceeded,
    /// A fault of Tidings.
    Internal,
}

impl Code {
    /// All codes, in the order of the table.
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

    /// Returns the value of `extensions.code`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Returns the HTTP status of an `application/graphql-response+json` answer without `data`.
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// Returns the row of the code table: name and status.
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

/// Error with its code. The message is shown to clients, except the message of [`Code::Internal`], which
/// is only logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    /// Time to wait before a retry.
    retry_after: Option<Duration>,
}

impl Error {
    /// Creates an error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// Creates RATE_LIMITED, with the time to wait before a retry.
    pub fn rate_limited(retry_after: Duration) -> Self {
        let error = Self::new(Code::RateLimited, "too many requests, try again later");
        Self { retry_after: Some(retry_after), ..error }
    }

    /// Creates BAD_USER_INPUT.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Code::BadUserInput, message)
    }

    /// Creates INTERNAL for a state that the code rules out. The message is only logged.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Creates UNAUTHENTICATED for an anonymous client.
    pub fn sign_in() -> Self {
        Self::new(Code::Unauthenticated, "sign in first")
    }

    /// Returns the code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Returns the message, unmasked.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Converts to the error that a client sees. An internal error is logged and masked here.
    pub fn into_server_error(self, request_id: &RequestId) -> ServerError {
        let mut error = ServerError::new(String::new(), None);
        self.write_masked(&mut error, request_id);
        error
    }

    fn write_masked(self, error: &mut ServerError, request_id: &RequestId) {
        let internal = self.code == Code::Internal;
        self.write(error);
        if internal {
            tracing::error!(request_id = %request_id, error = %error.message, "internal error");
            "internal error".clone_into(&mut error.message);
            error.extensions.get_or_insert_default().set("requestId", request_id.as_str());
        }
    }

    /// Writes message, code and retry time.
    fn write(self, error: &mut ServerError) {
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
    /// Maps the status that a service returned. The only such mapping in the gateway.
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as Grpc;
        let code = match status.code() {
            Grpc::InvalidArgument | Grpc::FailedPrecondition => Code::BadUserInput,
            Grpc::NotFound | Grpc::PermissionDenied => Code::NotFound,
            Grpc::AlreadyExists => Code::Conflict,
            Grpc::Unauthenticated => Code::Unauthenticated,
            // Refused work has a time after which it may be tried again, a limit of size has none.
            Grpc::ResourceExhausted => match proto::retry_after(&status) {
                Some(wait) => return Self::rate_limited(wait),
                None => Code::LimitExceeded,
            },
            Grpc::Unavailable => {
                return Self::new(Code::Unavailable, "a service is unavailable, try again later");
            }
            Grpc::DeadlineExceeded => {
                return Self::new(Code::DeadlineExceeded, "a service did not answer in time");
            }
            // tonic's client reports a response over its size limit as OUT_OF_RANGE.
            Grpc::OutOfRange => {
                return Self::new(
                    Code::LimitExceeded,
                    "the answer is too large: request fewer items at once",
                );
            }
            _ => Code::Internal,
        };
        Self::new(code, status.message())
    }
}

impl From<proto::InvalidId> for Error {
    /// Maps a malformed id in a service's answer.
    fn from(error: proto::InvalidId) -> Self {
        Self::internal(format!("a service answered with {error}"))
    }
}

/// Rejection of an operation before its execution: errors of one code, and no data.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    code: Code,
    errors: Vec<ServerError>,
}

impl Rejection {
    /// Creates a rejection and sets the code of its errors.
    pub fn coded(code: Code, mut errors: Vec<ServerError>) -> Self {
        for error in &mut errors {
            let extensions = error.extensions.get_or_insert_default();
            extensions.set("code", code.name());
        }
        Self { code, errors }
    }

    /// Creates a GRAPHQL_VALIDATION_FAILED rejection.
    pub fn invalid(errors: Vec<ServerError>) -> Self {
        Self::coded(Code::GraphqlValidationFailed, errors)
    }

    /// Creates a rejection from an error of a request. An internal error is logged and masked.
    pub fn of(error: Error, request_id: &RequestId) -> Self {
        Self { code: error.code, errors: vec![error.into_server_error(request_id)] }
    }

    /// Returns the code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Returns the errors that the client sees. Each carries its code.
    pub fn errors(&self) -> &[ServerError] {
        &self.errors
    }

    /// Converts an executed operation that returned no data because of RATE_LIMITED to a rejection, so
    /// that it is answered like an operation that was not executed. `None` for any other response.
    pub fn limited(response: &Response) -> Option<Self> {
        let limited =
            |error: &ServerError| extension(error, "code") == Some(&Value::from(Code::RateLimited.name()));
        let rejected = response.data == Value::Null && response.errors.iter().any(limited);
        rejected.then(|| Self { code: Code::RateLimited, errors: response.errors.clone() })
    }

    /// Returns the time to wait before a retry in seconds, rounded up, `None` if unknown.
    pub fn retry_after_s(&self) -> Option<u64> {
        let wait_ms = self.errors.iter().filter_map(|error| match extension(error, RETRY_AFTER_MS) {
            Some(Value::Number(wait_ms)) => wait_ms.as_u64(),
            _ => None,
        });
        wait_ms.max().map(|wait_ms| wait_ms.div_ceil(1000).max(1))
    }

    /// Converts to a GraphQL response without data.
    pub fn into_response(self) -> Response {
        Response::from_errors(self.errors)
    }
}

impl From<Error> for Rejection {
    /// Converts a client's error. Internal errors need the request id: [`Rejection::of`].
    fn from(error: Error) -> Self {
        let code = error.code;
        let mut shown = ServerError::new(String::new(), None);
        error.write(&mut shown);
        Self { code, errors: vec![shown] }
    }
}

fn extension<'a>(error: &'a ServerError, name: &str) -> Option<&'a Value> {
    error.extensions.as_ref().and_then(|extensions| extensions.get(name))
}

/// Sets the code of every error of an executed operation. Errors of resolvers carry an [`Error`] as
/// their source; an error without a source was created by async-graphql for the value of an argument.
pub fn set_codes(response: &mut Response, request_id: &RequestId) {
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
        error.write_masked(shown, request_id);
    }
}

/// Removes the rejected value from a message of async-graphql, since it may be a password:
/// `Expected input type "Int", found "…".`
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
    fn the_code_table_is_the_public_contract() {
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
    fn every_grpc_status_has_its_code_and_only_public_messages_pass() {
        let shown = |grpc| {
            let error = Error::from(Status::new(grpc, "words"));
            let error = error.into_server_error(&RequestId::random());
            let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code")).cloned();
            let Some(Value::String(code)) = code else { panic!("no code") };
            format!(
                "{grpc:?}: {code} {}",
                if error.message == "words" { "unchanged" } else { &error.message }
            )
        };
        let rows: Vec<_> = (1..17).map(|number| shown(Grpc::from_i32(number))).collect();
        assert_eq!(
            rows,
            [
                "Cancelled: INTERNAL internal error",
                "Unknown: INTERNAL internal error",
                "InvalidArgument: BAD_USER_INPUT unchanged",
                "DeadlineExceeded: DEADLINE_EXCEEDED a service did not answer in time",
                "NotFound: NOT_FOUND unchanged",
                "AlreadyExists: CONFLICT unchanged",
                "PermissionDenied: NOT_FOUND unchanged",
                "ResourceExhausted: LIMIT_EXCEEDED unchanged",
                "FailedPrecondition: BAD_USER_INPUT unchanged",
                "Aborted: INTERNAL internal error",
                "OutOfRange: LIMIT_EXCEEDED the answer is too large: request fewer items at once",
                "Unimplemented: INTERNAL internal error",
                "Internal: INTERNAL internal error",
                "Unavailable: UNAVAILABLE a service is unavailable, try again later",
                "DataLoss: INTERNAL internal error",
                "Unauthenticated: UNAUTHENTICATED unchanged",
            ]
        );
    }

    #[test]
    fn refused_work_is_rate_limited_with_the_time_to_wait() {
        let error = Error::from(proto::refuse("words", Duration::from_millis(1_500)));
        assert_eq!(error, Error::rate_limited(Duration::from_millis(1_500)));
        let error = error.into_server_error(&RequestId::random());
        let wait = error.extensions.as_ref().and_then(|extensions| extensions.get(RETRY_AFTER_MS)).cloned();
        assert_eq!(wait, Some(Value::from(1_500)));
    }

    #[test]
    fn every_error_of_a_response_carries_its_code() {
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
        set_codes(&mut response, &request_id);
        set_codes(&mut response, &request_id);
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
