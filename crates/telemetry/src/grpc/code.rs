//! Names of gRPC status codes, and the code of a response.

use axum::http::HeaderMap;
use tonic::{Code, Status};

/// Returns the name of a code as the gRPC specification spells it, such as `DEADLINE_EXCEEDED`.
pub fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Returns the code of a response from its headers. An error is a response without a body, with the
/// status in its headers. Headers without a status mean success; the status OK then follows in the
/// trailers.
pub fn of(headers: &HeaderMap) -> Code {
    headers.get(Status::GRPC_STATUS).map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_an_error_carry_its_code() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            let response: axum::http::Response<()> = Status::new(code, "message").into_http();
            assert_eq!(of(response.headers()), code);
        }
        assert_eq!(of(&HeaderMap::new()), Code::Ok);
    }
}
