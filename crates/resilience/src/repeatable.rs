//! A request that can be sent more than once: its body, one small message, is held in memory.

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use telemetry::call;
use tokio::time::Instant;
use tonic::{Status, body::Body};

/// The most bytes of a request that is held: the largest read names 10,000 ids in 180 kB.
pub(crate) const BODY_MAX_BYTES: usize = 1 << 20;

/// A request whose body is held.
pub(crate) struct Repeatable {
    parts: Parts,
    body: Bytes,
    /// When nobody waits for the answer any more.
    pub(crate) deadline: Option<Instant>,
}

impl Repeatable {
    /// Takes the body in.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED where it has more than [`BODY_MAX_BYTES`], INTERNAL where it breaks off.
    pub(crate) async fn read(request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let deadline = call::time_left(&parts.headers).and_then(|left| Instant::now().checked_add(left));
        let body = Limited::new(body, BODY_MAX_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Status::resource_exhausted("a read is larger than what is held to be sent again")
            } else {
                Status::internal("a request broke off")
            }
        })?;
        Ok(Self { parts, body: body.to_bytes(), deadline })
    }

    /// The request once more, with the time that is left of it now.
    pub(crate) fn again(&self) -> Request<Body> {
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
    async fn a_request_is_the_same_again_but_for_the_time_that_is_left() {
        let held = Repeatable::read(request(300)).await.expect("small");
        tokio::time::advance(Duration::from_millis(400)).await;
        for _ in 0..2 {
            let again = held.again();
            assert_eq!(call::time_left(again.headers()), Some(Duration::from_millis(600)));
            assert_eq!((again.uri().path(), again.extensions().get::<u8>()), ("/fake.Fake/Read", Some(&7)));
            assert_eq!(again.into_body().collect().await.expect("a body").to_bytes(), vec![1; 300]);
        }
    }

    #[tokio::test]
    async fn a_large_request_is_not_held() {
        assert!(Repeatable::read(request(BODY_MAX_BYTES)).await.is_ok());
        let refused = Repeatable::read(request(BODY_MAX_BYTES + 1)).await.err().expect("refused");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
