//! Fake peer for the tests of this crate: a [`FakeGrpc`] that answers call by call as a script says.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use parking_lot::Mutex;
use telemetry::{call, grpc::code_of, recorder};
pub use testkit::FakeGrpc;
use testkit::{CallState, fake_request};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, body::Body, metadata::MetadataMap};
use tower::{Service, ServiceExt};

use crate::retry::PUSHBACK;

/// Outcome of one call.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Succeeds after a delay.
    Reply(Duration),
    /// Fails immediately.
    Fail(Code),
    /// Fails after a delay.
    FailAfter(Duration, Code),
    /// Fails with UNAVAILABLE and this value of `grpc-retry-pushback-ms`.
    Pushback(&'static str),
}

/// Script of a fake peer, and the record of its calls.
pub struct Script {
    steps: Arc<Mutex<Steps>>,
    service: FakeGrpc,
}

#[derive(Default)]
struct Steps {
    next: VecDeque<Step>,
    default: Option<Step>,
}

impl Script {
    /// Creates a script with one step for each of the first calls.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let next = steps.into_iter().collect();
        let steps = Arc::new(Mutex::new(Steps { next, default: None }));
        let played = Arc::clone(&steps);
        let service = FakeGrpc::new(move |_| {
            let step = {
                let mut steps = played.lock();
                steps.next.pop_front().or(steps.default).expect("the script has a step for every call")
            };
            perform(step)
        });
        Self { steps, service }
    }

    /// Creates a script with the same step for every call.
    pub fn always(step: Step) -> Self {
        let script = Self::new([]);
        script.set_default(step);
        script
    }

    /// Sets the step of every call for which no other step is left.
    pub fn set_default(&self, step: Step) {
        self.steps.lock().default = Some(step);
    }

    /// Appends one step for each of the next calls.
    pub fn push(&self, steps: impl IntoIterator<Item = Step>) {
        self.steps.lock().next.extend(steps);
    }

    /// Returns the service that performs the script.
    pub fn service(&self) -> FakeGrpc {
        self.service.clone()
    }

    /// Counts the calls so far.
    pub fn started(&self) -> usize {
        self.service.calls().len()
    }

    /// Counts the calls that were answered; the others are running or were cancelled.
    pub fn answered(&self) -> usize {
        self.service.calls().iter().filter(|call| call.state == CallState::Answered).count()
    }

    /// Returns the time at which the last call arrived.
    pub fn last_started_at(&self) -> Option<Instant> {
        self.service.calls().last().map(|call| call.started_at)
    }

    /// Returns the timeout that each call carried in `grpc-timeout`.
    pub fn timeouts(&self) -> Vec<Option<Duration>> {
        self.service.calls().iter().map(|call| call::time_left(&call.headers)).collect()
    }
}

async fn perform(step: Step) -> Result<Vec<u8>, Status> {
    match step {
        Step::Reply(delay) => {
            sleep(delay).await;
            Ok(Vec::new())
        }
        Step::Fail(code) => Err(Status::new(code, "scripted")),
        Step::FailAfter(delay, code) => {
            sleep(delay).await;
            Err(Status::new(code, "scripted"))
        }
        Step::Pushback(value) => {
            let mut metadata = MetadataMap::new();
            metadata.insert(PUSHBACK, value.parse().expect("a header value"));
            Err(Status::with_metadata(Code::Unavailable, "scripted", metadata))
        }
    }
}

/// Calls a method of a peer and returns the code of the answer.
pub async fn call_method<S>(peer: &S, method: &str, headers: &[(&'static str, &str)]) -> Code
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    recorder::install();
    let Ok(response) = peer.clone().oneshot(fake_request(method, headers)).await;
    code_of(response.headers())
}

/// Returns the value of a metric, by its name and labels.
pub fn metric(name: &str) -> Option<f64> {
    let metrics = recorder::install().render();
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
