//! Resilience of calls between services: retries, hedges and a circuit breaker around a gRPC service
//! that may be failing, and [`Backoff`] and [`CircuitBreaker`] for every other target.
//!
//! Around a gRPC service each is a [`Policy`](policy::Policy) with its own limits, and none outlasts the
//! deadline of the call. Writes are sent once: only methods listed in [`Target`] are repeated.

mod backoff;
pub mod budget;
mod buffered_request;
pub mod circuit_breaker;
pub mod fail_fast;
pub mod hedge;
mod latency;
pub mod policy;
pub mod retry;
#[cfg(test)]
mod script;

use http::{Request, Response};
use tonic::body::Body;
use tower::{Service, util::BoxCloneSyncService};

pub use crate::{backoff::Backoff, circuit_breaker::CircuitBreaker};
use crate::{fail_fast::FailFast, hedge::Hedge, policy::PolicyService, retry::Retry};

/// Default maximum number of retries of a read.
pub const RETRIES_DEFAULT: u32 = 3;

/// Switches of the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Maximum number of retries of a read; 0 turns retries off.
    pub retries: u32,
    /// Turns hedges of slow reads on.
    pub hedge: bool,
    /// Turns the circuit breaker on.
    pub breaker: bool,
}

/// A service and the methods that may be repeated, by their names without the package. Methods that are
/// not listed are called once.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Label `service` of the metrics.
    pub service: &'static str,
    /// Methods without side effects: they are retried.
    pub reads: &'static [&'static str],
    /// Subset of `reads` that is cheap enough to run twice at the same time: these are hedged.
    pub hedged: &'static [&'static str],
}

/// Wraps a service in the policies that the settings turn on.
///
/// From the outside: retries, hedges, circuit breaker. So every attempt and every hedge is counted by
/// the breaker, and an open breaker ends the retries.
pub fn around<S>(
    service: S,
    target: Target,
    settings: Settings,
) -> BoxCloneSyncService<Request<Body>, Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    let mut peer = BoxCloneSyncService::new(service);
    if settings.breaker {
        peer = BoxCloneSyncService::new(PolicyService::new(FailFast::reads(target), peer));
        peer = BoxCloneSyncService::new(PolicyService::new(FailFast::writes(target), peer));
    }
    if settings.hedge && !target.hedged.is_empty() {
        peer = BoxCloneSyncService::new(PolicyService::new(Hedge::new(target), peer));
    }
    if settings.retries > 0 {
        peer = BoxCloneSyncService::new(PolicyService::new(Retry::new(target, settings.retries), peer));
    }
    peer
}

/// Returns the method of a request, without the package and the service.
fn method<B>(request: &Request<B>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

/// Returns the entry of `names` that is the method of a request.
fn listed<B>(names: &'static [&'static str], request: &Request<B>) -> Option<&'static str> {
    names.iter().copied().find(|name| *name == method(request))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::script::{Script, Step, call_method};

    const TARGET: Target = Target { service: "whole", reads: &["Read"], hedged: &["Read"] };
    const ALL: Settings = Settings { retries: RETRIES_DEFAULT, hedge: true, breaker: true };

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_ends_the_retries() {
        let script = Script::always(Step::Fail(Code::Unavailable));
        let peer = around(script.service(), TARGET, ALL);
        for _ in 0..10 {
            assert_eq!(call_method(&peer, "Read", &[]).await, Code::Unavailable);
        }
        assert_eq!(script.started(), 10, "ten failures open the breaker; no call and no retry follows");
        tokio::time::advance(fail_fast::OPEN_FOR).await;
        script.set_default(Step::Reply(Duration::ZERO));
        assert_eq!(call_method(&peer, "Read", &[]).await, Code::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn with_every_policy_off_calls_pass_unchanged() {
        let script = Script::always(Step::Fail(Code::Unavailable));
        let peer = around(script.service(), TARGET, Settings { retries: 0, hedge: false, breaker: false });
        for _ in 0..30 {
            assert_eq!(call_method(&peer, "Read", &[]).await, Code::Unavailable);
        }
        assert_eq!(script.started(), 30);
    }
}
