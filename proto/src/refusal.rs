//! Refused work: RESOURCE_EXHAUSTED with the time after which the caller may try again. A service that
//! refuses work is healthy, so no circuit breaker counts it; UNAVAILABLE is for a service that cannot work.

use std::time::Duration;

use tonic::{Code, Status};

/// Response metadata with the delay before the next attempt in milliseconds (gRPC proposal A6, "Pushback").
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Creates the status of refused work: RESOURCE_EXHAUSTED, with the time to wait before another attempt.
pub fn refuse(message: &str, retry_after: Duration) -> Status {
    let mut status = Status::resource_exhausted(message);
    let wait_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
    status.metadata_mut().insert(PUSHBACK, wait_ms.into());
    status
}

/// Returns the time to wait before another attempt if the status is one of [`refuse`].
pub fn retry_after(status: &Status) -> Option<Duration> {
    let wait_ms = status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    (status.code() == Code::ResourceExhausted).then(|| Duration::from_millis(wait_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_try_again_and_no_other_status_does() {
        let refused = refuse("busy", Duration::from_millis(1_500));
        assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "busy"));
        let sent = Status::from_header_map(refused.into_http::<()>().headers()).expect("a status");
        assert_eq!(retry_after(&sent), Some(Duration::from_millis(1_500)));
        assert_eq!(retry_after(&refuse("busy", Duration::ZERO)), Some(Duration::from_millis(1)));
        assert_eq!(retry_after(&Status::resource_exhausted("too large")), None);
        let mut other = Status::unavailable("away");
        other.metadata_mut().insert(PUSHBACK, 5_u64.into());
        assert_eq!(retry_after(&other), None);
    }
}
