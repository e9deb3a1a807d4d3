//! Errors of a profile, and their answers.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// Reason why a request gets no profile. The text is the body of the answer: one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request has no service token, or another one.
    #[error("the service token is required: authorization: Bearer TOKEN")]
    Unauthenticated,
    /// A parameter is unknown, given twice or malformed.
    #[error("{0}")]
    Query(&'static str),
    /// Another profile is being recorded.
    #[error("this process records one profile at a time, and another one is being recorded")]
    Busy,
    /// The program was built without profiles of the heap.
    #[error("this program was built without heap profiles: cargo build --features heap-profiles")]
    WithoutHeap,
    /// The program could record the heap, but was not started with sampling.
    #[error("heap profiles are off: start the program with MALLOC_CONF=prof:true")]
    HeapIsOff,
    /// The profiler failed. The log has the reason.
    #[error("the profile cannot be recorded: see the log of the process")]
    Failed,
}

impl Error {
    /// Logs the cause of a failure.
    pub(crate) fn failed(cause: impl std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "a profile cannot be recorded");
        Self::Failed
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::CONFLICT,
            Self::WithoutHeap | Self::HeapIsOff => StatusCode::NOT_IMPLEMENTED,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status(), format!("{self}\n")).into_response();
        if matches!(self, Self::Unauthenticated) {
            let challenge = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
