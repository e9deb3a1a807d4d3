//! Request that can be sent more than once: its body, one small message, is buffered in memory.

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use telemetry::call;
use tokio::time::Instant;
use tonic::{Status, body::Body};

/// Maximum size of a buffered body. The largest read, of 10,000 ids, has 180 kB.
pub(crate) const BODY_MAX_BYTES: usize = 1 << 20;

/// Request with a buffered body.
pub(crate) struct BufferedRequest {
    parts: Parts,
    body: Bytes,
    /// Time after which the caller no longer waits for the answer.
    pub(crate) deadline: Option<Instant>,
}

impl BufferedRequest {
    /// Receives the whole body.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it has more than [`BODY_MAX_BYTES`]; INTERNAL if it ends early.
    pub(crate) async fn buffer(request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let deadline = call::time_left(&parts.headers).and_then(|left| Instant::now().checked_add(left));
        let body = Limited::new(body, BODY_MAX_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Status::resource_exhausted("the request body is too large to be buffered for a retry")
            } else {
                Status::internal("the request body ended early")
            }
        })?;
        Ok(Self { parts, body: body.to_bytes(), deadline })
    }

    /// Builds a copy of the request. Its timeout is the time that is left until the deadline.
    pub(crate) fn to_request(&self) -> Request<Body> {
        let mut parts = self.parts.clone();
        if let Some(deadline) = self.deadline {
            call::set_time_left(&mut parts.headers, deadline.saturating_duration_since(Instant::now()));
        }
        Request::from_parts(parts, Body::new(Full::new(self.body.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(bytes: usize) -> Request<Body> {
        let request =
            Request::post("http://fake/fake.Fake/Read").header("grpc-timeout", "1S").extension(7_u8);
        request.body(Body::new(Full::new(Bytes::from(vec![1; bytes])))).expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_differs_only_in_the_time_that_is_left() {
        let buffered = BufferedRequest::buffer(request(300)).await.expect("small");
        tokio::time::advance(Duration::from_millis(400)).await;
        for _ in 0..2 {
            let copy = buffered.to_request();
            assert_eq!(call::time_left(copy.headers()), Some(Duration::from_millis(600)));
            assert_eq!((copy.uri().path(), copy.extensions().get::<u8>()), ("/fake.Fake/Read", Some(&7)));
            assert_eq!(copy.into_body().collect().await.expect("a body").to_bytes(), vec![1; 300]);
        }
    }

    #[tokio::test]
    async fn a_body_above_the_limit_is_refused() {
        assert!(BufferedRequest::buffer(request(BODY_MAX_BYTES)).await.is_ok());
        let error = BufferedRequest::buffer(request(BODY_MAX_BYTES + 1)).await.err().expect("too large");
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
    }
}
