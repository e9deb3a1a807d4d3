//! Reads that are late are asked a second time: where the answer has not come by the time in which 95 of 100 came lately, a
//! second call goes out, within a budget. The first answer wins, the other call is dropped, which cancels it. While nobody
//! knows how long answers take, nothing is asked twice.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{Either, select};
use http::{Request, Response};
use telemetry::grpc::code_of;
use tokio::time::{Instant, timeout};
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};

use crate::{Target, budget::Budget, listed, repeatable::Repeatable, rule::Rule, window::Window};

/// Second calls a hundred reads.
const PERCENT: u32 = 5;

/// Late reads of one service are asked twice: the budget, and what is known about its answers.
#[derive(Clone, Debug)]
pub struct Hedge {
    service: &'static str,
    methods: &'static [&'static str],
    /// One a method, in their order.
    windows: Arc<[Mutex<Window>]>,
    budget: Budget,
}

impl Hedge {
    /// For this service.
    pub fn new(target: Target) -> Self {
        let windows = target.hedged.iter().map(|_| Mutex::default()).collect();
        Self { service: target.service, methods: target.hedged, windows, budget: Budget::of_percent(PERCENT) }
    }
}

impl Rule for Hedge {
    async fn call<S>(self, inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static,
    {
        match listed(self.methods, &request) {
            Some(method) => self.timed(inner, method, request).await,
            None => inner.oneshot(request).await,
        }
    }
}

impl Hedge {
    async fn timed<S>(
        self,
        inner: S,
        method: &'static str,
        request: Request<Body>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        self.budget.deposit();
        let begun = Instant::now();
        let answer = match self.window(method, |window| window.late_after(begun)) {
            Some(late_after) => self.twice(inner, method, request, late_after).await,
            None => inner.oneshot(request).await,
        };
        if answer.as_ref().is_ok_and(|answer| code_of(answer.headers()) == Code::Ok) {
            self.window(method, |window| window.answered(begun.elapsed()));
        }
        answer
    }

    async fn twice<S>(
        &self,
        inner: S,
        method: &'static str,
        request: Request<Body>,
        late_after: Duration,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        let request = match Repeatable::read(request).await {
            Ok(request) => request,
            Err(status) => return Ok(status.into_http()),
        };
        let mut first = pin!(inner.clone().oneshot(request.again()));
        if let Ok(answer) = timeout(late_after, first.as_mut()).await {
            return answer;
        }
        if !self.budget.withdraw() {
            return first.await;
        }
        metrics::counter!("upstream_hedges_total", "service" => self.service, "method" => method)
            .increment(1);
        let second = pin!(inner.oneshot(request.again()));
        // One that could not be answered has not won while the other is under way.
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

    fn window<T>(&self, method: &'static str, work: impl FnOnce(&mut Window) -> T) -> T {
        let place = self.methods.iter().position(|name| *name == method).unwrap_or_default();
        work(&mut self.windows[place].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn unavailable<E>(answer: &Result<Response<Body>, E>) -> bool {
    answer.as_ref().map_or(true, |answer| code_of(answer.headers()) == Code::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rule::Ruled,
        script::{Played, Script, Step, ask, metric},
        window,
    };

    const MS: Duration = Duration::from_millis(1);
    const STUCK: Step = Step::Answers(Duration::from_secs(4));

    /// A service that has answered within 10 ms for a whole window, and will be late after them.
    async fn known(service: &'static str, script: &Script) -> Ruled<Hedge, Played> {
        let target = Target { service, reads: &["Read"], hedged: &["Other", "Read"] };
        let peer = Ruled::new(Hedge::new(target), script.service());
        script.then(Step::Answers(10 * MS));
        for _ in 0..100 {
            ask(&peer, "Read", &[]).await;
        }
        tokio::time::advance(window::LASTS).await;
        peer
    }

    async fn took(peer: &Ruled<Hedge, Played>) -> (Code, Duration) {
        let begun = Instant::now();
        (ask(peer, "Read", &[("grpc-timeout", "5S")]).await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_read_is_asked_again_and_the_first_answer_wins() {
        let script = Script::new([]);
        let peer = known("late", &script).await;
        let before = (script.begun(), script.ended());
        script.next([STUCK, Step::Answers(2 * MS)]);
        assert_eq!(took(&peer).await, (Code::Ok, 12 * MS));
        assert_eq!((script.begun() - before.0, script.ended() - before.1), (2, 1), "the other was dropped");
        let left = script.time_left();
        assert_eq!(
            left[left.len() - 2..],
            [Some(Duration::from_secs(5)), Some(Duration::from_secs(5) - 10 * MS)]
        );
        assert_eq!(metric(r#"upstream_hedges_total{service="late",method="Read"}"#), Some(1.0));
        assert_eq!(metric(r#"upstream_hedge_wins_total{service="late",method="Read"}"#), Some(1.0));

        script.next([Step::Answers(15 * MS), STUCK]);
        assert_eq!(took(&peer).await, (Code::Ok, 15 * MS), "the first was only a little late");
        assert_eq!(metric(r#"upstream_hedges_total{service="late",method="Read"}"#), Some(2.0));
        assert_eq!(metric(r#"upstream_hedge_wins_total{service="late",method="Read"}"#), Some(1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_asked_once() {
        let script = Script::new([]);
        let peer = known("in_time", &script).await;
        let before = script.begun();
        for _ in 0..20 {
            assert_eq!(took(&peer).await, (Code::Ok, 10 * MS));
        }
        assert_eq!(script.begun() - before, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_twice_while_nobody_knows_how_long_it_takes() {
        let script = Script::always(Step::Answers(10 * MS));
        let peer = Ruled::new(
            Hedge::new(Target { service: "unknown", reads: &[], hedged: &["Read"] }),
            script.service(),
        );
        for _ in 0..50 {
            took(&peer).await;
        }
        script.next([STUCK]);
        assert_eq!(took(&peer).await.1, Duration::from_secs(4), "the first window has not ended");
        tokio::time::advance(10 * window::LASTS).await;
        script.next([STUCK]);
        assert_eq!(took(&peer).await.1, Duration::from_secs(4), "and what is known of long ago is not known");
        assert_eq!(script.begun(), 52);
    }

    #[tokio::test(start_paused = true)]
    async fn methods_that_are_not_named_are_asked_once() {
        let script = Script::new([]);
        let peer = known("named", &script).await;
        script.next([STUCK]);
        assert_eq!(ask(&peer, "Write", &[]).await, Code::Ok);
        script.next([STUCK]);
        assert_eq!(ask(&peer, "Other", &[]).await, Code::Ok, "nothing is known about this one");
        assert_eq!(script.begun(), 102);
    }

    #[tokio::test(start_paused = true)]
    async fn second_calls_are_a_twentieth_of_the_reads() {
        let script = Script::new([]);
        let peer = known("twentieth", &script).await;
        script.then(Step::Answers(11 * MS));
        let before = script.begun();
        // Within one window, so that 11 ms go on being late.
        for _ in 0..300 {
            took(&peer).await;
        }
        let second = script.begun() - before - 300;
        assert!((24..=25).contains(&second), "10 saved and 15 earned: {second}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_does_not_win_while_the_other_is_under_way() {
        let script = Script::new([]);
        let peer = known("failure", &script).await;
        script.next([Step::Answers(50 * MS), Step::Fails(Code::Unavailable)]);
        assert_eq!(took(&peer).await, (Code::Ok, 50 * MS));
        script.next([Step::FailsAfter(20 * MS, Code::Unavailable), Step::Answers(30 * MS)]);
        assert_eq!(took(&peer).await, (Code::Ok, 40 * MS));
        script.next([Step::FailsAfter(20 * MS, Code::NotFound), STUCK]);
        assert_eq!(took(&peer).await, (Code::NotFound, 20 * MS), "that is an answer");
    }
}
