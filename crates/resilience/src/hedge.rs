//! Hedged reads: a read that is not answered within the recent 95th percentile of its method is sent a
//! second time, within a budget. The first answer wins; the other call is dropped, which cancels it.
//!
//! Nothing is hedged until the percentile of a method is known.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use http::{Request, Response};
use parking_lot::Mutex;
use telemetry::grpc::code_of;
use tokio::time::{Instant, timeout};
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};

use crate::{
    Target, budget::Budget, buffered_request::BufferedRequest, latency::LatencyWindow, listed, policy::Policy,
};

/// Hedges per 100 reads.
const PERCENT: u32 = 5;

/// Policy that hedges the reads of one service.
#[derive(Clone, Debug)]
pub struct Hedge {
    service: &'static str,
    methods: &'static [&'static str],
    /// One window per method, in the order of `methods`.
    windows: Arc<[Mutex<LatencyWindow>]>,
    budget: Budget,
}

impl Hedge {
    /// Creates the policy for this service.
    pub fn new(target: Target) -> Self {
        let windows = target.hedged.iter().map(|_| Mutex::default()).collect();
        Self {
            service: target.service,
            methods: target.hedged,
            windows,
            budget: Budget::from_percent(PERCENT),
        }
    }
}

impl Policy for Hedge {
    async fn call<S>(self, inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static,
    {
        match listed(self.methods, &request) {
            Some(method) => self.call_measured(inner, method, request).await,
            None => inner.oneshot(request).await,
        }
    }
}

impl Hedge {
    async fn call_measured<S>(
        self,
        inner: S,
        method: &'static str,
        request: Request<Body>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        self.budget.deposit();
        let started = Instant::now();
        let p95 = self.window(method).lock().p95(started);
        let answer = match p95 {
            Some(hedge_after) => self.call_hedged(inner, method, request, hedge_after).await,
            None => inner.oneshot(request).await,
        };
        if answer.as_ref().is_ok_and(|answer| code_of(answer.headers()) == Code::Ok) {
            self.window(method).lock().record(started.elapsed());
        }
        answer
    }

    async fn call_hedged<S>(
        &self,
        inner: S,
        method: &'static str,
        request: Request<Body>,
        hedge_after: Duration,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        let request = match BufferedRequest::buffer(request).await {
            Ok(request) => request,
            Err(status) => return Ok(status.into_http()),
        };
        let mut first = pin!(inner.clone().oneshot(request.to_request()));
        if let Ok(answer) = timeout(hedge_after, first.as_mut()).await {
            return answer;
        }
        if !self.budget.withdraw() {
            return first.await;
        }
        metrics::counter!("upstream_hedges_total", "service" => self.service, "method" => method)
            .increment(1);
        let second = pin!(inner.oneshot(request.to_request()));
        // UNAVAILABLE does not win while the other call is still running.
        let (answer, second_won) = match select(first, second).await {
            Either::Left((answer, second)) if unavailable(&answer) => (second.await, true),
            Either::Left((answer, _)) => (answer, false),
            Either::Right((answer, first)) if unavailable(&answer) => (first.await, false),
            Either::Right((answer, _)) => (answer, true),
        };
        if second_won {
            metrics::counter!("upstream_hedge_wins_total", "service" => self.service, "method" => method)
                .increment(1);
        }
        answer
    }

    fn window(&self, method: &'static str) -> &Mutex<LatencyWindow> {
        let index = self.methods.iter().position(|name| *name == method);
        &self.windows[index.expect("only listed methods are measured")]
    }
}

fn unavailable<E>(answer: &Result<Response<Body>, E>) -> bool {
    answer.as_ref().map_or(true, |answer| code_of(answer.headers()) == Code::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        latency,
        policy::PolicyService,
        script::{FakeGrpc, Script, Step, call_method, metric},
    };

    const MS: Duration = Duration::from_millis(1);
    const SLOW: Step = Step::Reply(Duration::from_secs(4));

    /// Builds a hedged service that answered in 10 ms for a whole window: calls that take longer are
    /// hedged.
    async fn measured(service: &'static str, script: &Script) -> PolicyService<Hedge, FakeGrpc> {
        let target = Target { service, reads: &["Read"], hedged: &["Other", "Read"] };
        let peer = PolicyService::new(Hedge::new(target), script.service());
        script.set_default(Step::Reply(10 * MS));
        for _ in 0..100 {
            call_method(&peer, "Read", &[]).await;
        }
        tokio::time::advance(latency::WINDOW).await;
        peer
    }

    async fn timed_read(peer: &PolicyService<Hedge, FakeGrpc>) -> (Code, Duration) {
        let started = Instant::now();
        (call_method(peer, "Read", &[("grpc-timeout", "5S")]).await, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_read_is_hedged_and_the_first_answer_wins() {
        let script = Script::new([]);
        let peer = measured("late", &script).await;
        let started = script.started();
        let answered = script.answered();
        script.push([SLOW, Step::Reply(2 * MS)]);
        assert_eq!(timed_read(&peer).await, (Code::Ok, 12 * MS));
        assert_eq!(
            (script.started() - started, script.answered() - answered),
            (2, 1),
            "the other was cancelled"
        );
        let left = script.timeouts();
        assert_eq!(
            left[left.len() - 2..],
            [Some(Duration::from_secs(5)), Some(Duration::from_secs(5) - 10 * MS)]
        );
        assert_eq!(metric(r#"upstream_hedges_total{service="late",method="Read"}"#), Some(1.0));
        assert_eq!(metric(r#"upstream_hedge_wins_total{service="late",method="Read"}"#), Some(1.0));

        script.push([Step::Reply(15 * MS), SLOW]);
        assert_eq!(timed_read(&peer).await, (Code::Ok, 15 * MS), "the first call answered before its hedge");
        assert_eq!(metric(r#"upstream_hedges_total{service="late",method="Read"}"#), Some(2.0));
        assert_eq!(metric(r#"upstream_hedge_wins_total{service="late",method="Read"}"#), Some(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_read_is_not_hedged() {
        let script = Script::new([]);
        let peer = measured("in_time", &script).await;
        let before = script.started();
        for _ in 0..20 {
            assert_eq!(timed_read(&peer).await, (Code::Ok, 10 * MS));
        }
        assert_eq!(script.started() - before, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_hedged_while_the_latency_is_unknown() {
        let script = Script::always(Step::Reply(10 * MS));
        let peer = PolicyService::new(
            Hedge::new(Target { service: "unknown", reads: &[], hedged: &["Read"] }),
            script.service(),
        );
        for _ in 0..50 {
            timed_read(&peer).await;
        }
        script.push([SLOW]);
        assert_eq!(timed_read(&peer).await.1, Duration::from_secs(4), "the first window has not ended");
        tokio::time::advance(10 * latency::WINDOW).await;
        script.push([SLOW]);
        assert_eq!(timed_read(&peer).await.1, Duration::from_secs(4), "old latencies do not count");
        assert_eq!(script.started(), 52);
    }

    #[tokio::test(start_paused = true)]
    async fn unlisted_and_unmeasured_methods_are_not_hedged() {
        let script = Script::new([]);
        let peer = measured("named", &script).await;
        script.push([SLOW]);
        assert_eq!(call_method(&peer, "Write", &[]).await, Code::Ok);
        script.push([SLOW]);
        assert_eq!(call_method(&peer, "Other", &[]).await, Code::Ok, "its latency is unknown");
        assert_eq!(script.started(), 102);
    }

    #[tokio::test(start_paused = true)]
    async fn hedges_are_limited_to_a_twentieth_of_the_reads() {
        let script = Script::new([]);
        let peer = measured("twentieth", &script).await;
        script.set_default(Step::Reply(11 * MS));
        let before = script.started();
        // Within one window, so that 11 ms stay above the percentile.
        for _ in 0..300 {
            timed_read(&peer).await;
        }
        let hedges = script.started() - before - 300;
        assert!((24..=25).contains(&hedges), "10 saved and 15 earned: {hedges}");
    }

    #[tokio::test(start_paused = true)]
    async fn unavailable_does_not_win_while_the_other_call_is_running() {
        let script = Script::new([]);
        let peer = measured("failure", &script).await;
        script.push([Step::Reply(50 * MS), Step::Fail(Code::Unavailable)]);
        assert_eq!(timed_read(&peer).await, (Code::Ok, 50 * MS));
        script.push([Step::FailAfter(20 * MS, Code::Unavailable), Step::Reply(30 * MS)]);
        assert_eq!(timed_read(&peer).await, (Code::Ok, 40 * MS));
        script.push([Step::FailAfter(20 * MS, Code::NotFound), SLOW]);
        assert_eq!(timed_read(&peer).await, (Code::NotFound, 20 * MS), "NOT_FOUND is an answer");
    }
}
