//! What stands between a caller and a gRPC service that may be ill: reads that failed are made again, late ones are asked
//! a second time, and a service that answers nothing is left alone for a moment. Each is a rule of its own, each has a
//! budget, and none outlasts the call's deadline. Calls that change something pass through once, untouched.

mod backoff;
pub mod breaker;
pub mod budget;
pub mod hedge;
mod repeatable;
pub mod retry;
pub mod rule;
#[cfg(test)]
mod script;
mod window;

use http::{Request, Response};
use tonic::body::Body;
use tower::{Service, util::BoxCloneSyncService};

pub use crate::backoff::Backoff;
use crate::{breaker::Breaker, hedge::Hedge, retry::Retry, rule::Ruled};

/// How often a read may be made again where nothing else is said.
pub const RETRIES_DEFAULT: u32 = 3;

/// What is done about calls that fail or are late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often a read that failed is made again at most; 0 switches it off.
    pub retries: u32,
    /// Whether late reads are asked a second time.
    pub hedge: bool,
    /// Whether a service that fails is left alone for a moment.
    pub breaker: bool,
}

/// A service and which of its methods, by their bare names, may be called again. Closed lists: what is not named is called
/// once.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The label of the metrics.
    pub service: &'static str,
    /// Those that change nothing.
    pub reads: &'static [&'static str],
    /// Those of them that are cheap enough to be asked twice at once.
    pub hedged: &'static [&'static str],
}

/// The service with everything around it that the settings ask for. From the outside: retries, hedges, breaker; so each
/// call that really goes out passes the breaker, and a breaker that is open ends retrying.
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
        peer = BoxCloneSyncService::new(Ruled::new(Breaker::new(target.service), peer));
    }
    if settings.hedge && !target.hedged.is_empty() {
        peer = BoxCloneSyncService::new(Ruled::new(Hedge::new(target), peer));
    }
    if settings.retries > 0 {
        peer = BoxCloneSyncService::new(Ruled::new(Retry::new(target, settings.retries), peer));
    }
    peer
}

/// The bare name of the method that a request calls.
fn method<B>(request: &Request<B>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

/// The name in this list that a request calls, if it is there.
fn listed<B>(names: &'static [&'static str], request: &Request<B>) -> Option<&'static str> {
    names.iter().copied().find(|name| *name == method(request))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::script::{Script, Step, ask};

    const TARGET: Target = Target { service: "whole", reads: &["Read"], hedged: &["Read"] };
    const ALL: Settings = Settings { retries: RETRIES_DEFAULT, hedge: true, breaker: true };

    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_opens_ends_retrying() {
        let script = Script::always(Step::Fails(Code::Unavailable));
        let peer = around(script.service(), TARGET, ALL);
        for _ in 0..10 {
            assert_eq!(ask(&peer, "Read", &[]).await, Code::Unavailable);
        }
        assert_eq!(script.begun(), 10, "ten failures, then none: neither first calls nor repetitions");
        tokio::time::advance(breaker::OPEN).await;
        script.then(Step::Answers(Duration::ZERO));
        assert_eq!(ask(&peer, "Read", &[]).await, Code::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_switched_off_is_not_there() {
        let script = Script::always(Step::Fails(Code::Unavailable));
        let peer = around(script.service(), TARGET, Settings { retries: 0, hedge: false, breaker: false });
        for _ in 0..30 {
            assert_eq!(ask(&peer, "Read", &[]).await, Code::Unavailable);
        }
        assert_eq!(script.begun(), 30);
    }
}
