//! Retries of the hubs' calls: [`run_requests`] serves a queue of keys with limited concurrency,
//! [`until_available`] repeats one call while its service is unavailable.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use proto::retry_after;
use resilience::Backoff;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use crate::error::Error;

/// Creates the backoff of subscriptions: 50 ms at first, doubling up to 1 s. The limit is low because a
/// user waits for the result.
pub(crate) const fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}

/// Limits of the requests of a hub.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestLimits {
    /// Maximum number of requests at a time.
    pub(super) concurrency_max: usize,
    /// Minimum time between the starts of two requests, in which the keys of the second one gather. Zero
    /// for requests of one key.
    pub(super) interval: Duration,
}

/// Sends requests until `shutdown`, within the limits.
///
/// `start` takes keys from the queue and starts the next request; it returns `None` if the queue is
/// empty, and is called again when `queued` is notified or a request has finished. A request returns the
/// keys that it could not serve. They are passed to `requeue` after a backoff, which a request without
/// such keys resets.
pub(super) async fn run_requests<K, F>(
    limits: RequestLimits,
    queued: &Notify,
    shutdown: &CancellationToken,
    mut start: impl FnMut() -> Option<F>,
    mut requeue: impl FnMut(&mut BTreeSet<K>),
) where
    K: Ord,
    F: Future<Output = Vec<K>>,
{
    let mut backoff = backoff();
    let mut failed = BTreeSet::new();
    let mut retry_at = Instant::now();
    let mut requests = FuturesUnordered::new();
    let mut next_start = Instant::now();
    loop {
        while requests.len() < limits.concurrency_max
            && next_start <= Instant::now()
            && let Some(request) = start()
        {
            requests.push(request);
            next_start = Instant::now() + limits.interval;
        }
        let gathers = next_start > Instant::now();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = queued.notified() => {}
            () = tokio::time::sleep_until(next_start), if gathers => {}
            Some(unserved) = requests.next(), if !requests.is_empty() => {
                if unserved.is_empty() {
                    backoff.reset();
                } else {
                    if failed.is_empty() {
                        retry_at = Instant::now() + backoff.next_delay();
                    }
                    failed.extend(unserved);
                }
            }
            () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => requeue(&mut failed),
        }
    }
}

/// Repeats a call with backoff while the service is unavailable, too slow or too busy, so that a subscription
/// opened during an outage starts when the outage ends. There is no limit: dropping the future ends it.
///
/// # Errors
/// Any other error of the call.
pub(super) async fn until_available<T, F>(mut call: impl FnMut() -> F) -> Result<Response<T>, Error>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut backoff = backoff();
    loop {
        match call().await {
            Err(status) if is_temporary(&status) => {
                tracing::debug!(error = %status, "a subscription waits for an unavailable service");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            result => return result.map_err(Error::from),
        }
    }
}

/// Returns true for an outage, a timeout, and work that was refused for the moment.
fn is_temporary(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || retry_after(status).is_some()
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Serves the keys 1 to 3, one per request of 10 ms. The first `outages` requests fail. Returns the
    /// times in ms at which requests started.
    async fn serve(concurrency_max: usize, interval_ms: u64, outages: usize) -> Vec<u128> {
        let queue = Mutex::new(BTreeSet::from([1, 2, 3]));
        let started = Mutex::new(Vec::new());
        let shutdown = CancellationToken::new();
        let begin = Instant::now();
        let start = || {
            let key = queue.lock().pop_first()?;
            let mut started = started.lock();
            started.push(begin.elapsed().as_millis());
            let fails = started.len() <= outages;
            Some(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if fails { vec![key] } else { Vec::new() }
            })
        };
        let requeue = |failed: &mut BTreeSet<i32>| queue.lock().append(failed);
        let queued = Notify::new();
        let limits = RequestLimits { concurrency_max, interval: Duration::from_millis(interval_ms) };
        let requests = run_requests(limits, &queued, &shutdown, start, requeue);
        let _ended_by_timeout = tokio::time::timeout(Duration::from_secs(5), requests).await;
        assert!(queue.lock().is_empty(), "every key is served");
        started.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_limited_and_failed_keys_are_retried_after_a_backoff() {
        assert_eq!(serve(2, 0, 0).await, [0, 0, 10]);
        assert_eq!(serve(4, 0, 3).await, [0, 0, 0, 60, 60, 60], "one delay of 50 ms for concurrent failures");
        assert_eq!(serve(1, 0, 2).await, [0, 10, 20, 60, 60 + 10]);
        assert_eq!(serve(4, 25, 0).await, [0, 25, 50], "keys gather between two requests");
        assert_eq!(serve(1, 4, 0).await, [0, 10, 20]);
    }
}
