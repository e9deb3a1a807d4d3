//! For tests: a service that does what a script says, call by call, and remembers what was asked of it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use telemetry::{call, grpc::code_of, recorder};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

use crate::retry::PUSHBACK;

/// What one call comes to.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// An answer after this time.
    Answers(Duration),
    /// This failure, at once.
    Fails(Code),
    /// This failure, after this time.
    FailsAfter(Duration, Code),
    /// UNAVAILABLE, with gRPC's word on when to come again.
    Pushes(&'static str),
}

/// A script, and what became of it.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Story>>);

#[derive(Default)]
struct Story {
    steps: VecDeque<Step>,
    always: Option<Step>,
    begun: Vec<(Instant, Option<Duration>)>,
    ended: usize,
}

/// The service of a script.
#[derive(Clone)]
pub struct Played(Script);

impl Script {
    /// These steps, one a call.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let script = Self::default();
        script.next(steps);
        script
    }

    /// This step for every call.
    pub fn always(step: Step) -> Self {
        let script = Self::default();
        script.then(step);
        script
    }

    /// From now on this step for every call that no other is left for.
    pub fn then(&self, step: Step) {
        self.story().always = Some(step);
    }

    /// These steps for the next calls.
    pub fn next(&self, steps: impl IntoIterator<Item = Step>) {
        self.story().steps.extend(steps);
    }

    pub fn service(&self) -> Played {
        Played(self.clone())
    }

    /// How many calls have come.
    pub fn begun(&self) -> usize {
        self.story().begun.len()
    }

    /// How many calls were answered; the others are under way or were given up.
    pub fn ended(&self) -> usize {
        self.story().ended
    }

    /// When the last call came.
    pub fn last_begun(&self) -> Option<Instant> {
        self.story().begun.last().map(|(at, _)| *at)
    }

    /// How much time each call was given.
    pub fn time_left(&self) -> Vec<Option<Duration>> {
        self.story().begun.iter().map(|(_, left)| *left).collect()
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.0.lock().expect("not poisoned")
    }
}

impl Service<Request<Body>> for Played {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let script = self.0.clone();
        Box::pin(async move {
            let step = {
                let mut story = script.story();
                story.begun.push((Instant::now(), call::time_left(request.headers())));
                story.steps.pop_front().or(story.always).expect("a step is left")
            };
            let answer = match step {
                Step::Answers(after) => {
                    sleep(after).await;
                    Response::new(Body::empty())
                }
                Step::Fails(code) => Status::new(code, "as written").into_http(),
                Step::FailsAfter(after, code) => {
                    sleep(after).await;
                    Status::new(code, "as written").into_http()
                }
                Step::Pushes(when) => {
                    let mut answer = Status::unavailable("as written").into_http();
                    answer.headers_mut().insert(PUSHBACK, when.parse().expect("a header"));
                    answer
                }
            };
            script.story().ended += 1;
            Ok(answer)
        })
    }
}

/// The code of one call of this method.
pub async fn ask<S>(peer: &S, method: &str, headers: &[(&'static str, &str)]) -> Code
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    recorder::install();
    let mut request = Request::post(format!("http://fake/fake.Fake/{method}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let Ok(answer) = peer.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
    code_of(answer.headers())
}

/// What a metric shows, by its name and labels.
pub fn metric(name: &str) -> Option<f64> {
    let metrics = recorder::install().render();
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
