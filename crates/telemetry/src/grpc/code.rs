//! The names of gRPC codes as the specification spells them, and the code that an answer carries.

use axum::http::HeaderMap;
use tonic::{Code, Status};

/// The code's name: `DEADLINE_EXCEEDED`.
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

/// The code of an answer by its headers. An error is answered by headers alone; where they carry no status the handler
/// has succeeded, and the status that follows the body is OK.
pub fn of(headers: &HeaderMap) -> Code {
    headers.get(Status::GRPC_STATUS).map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_code_of_its_status() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            let answer: axum::http::Response<()> = Status::new(code, "words").into_http();
            assert_eq!(of(answer.headers()), code);
        }
        assert_eq!(of(&HeaderMap::new()), Code::Ok);
    }
}
