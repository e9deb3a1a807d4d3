//! Execution of subscriptions, for every transport.
//!
//! An operation is executed once with a probe, which finds the field that it subscribes to, and then
//! once for each frame of the hub. Streams that receive equal results share one execution
//! ([`result_cache`]).

#[cfg(test)]
mod allocation_tests;
#[cfg(test)]
mod dialog_tests;
pub mod log_reader;
pub mod resolver_input;
mod result_cache;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use async_graphql::{Response, ServerError, Value};
use futures_util::stream;
use resilience::Backoff;
use telemetry::{Call, Traceparent, trace};
use tracing::Instrument;

use resolver_input::{Frame, Probe, ResolverInput, Target};
use result_cache::{FrameResult, Key, ResultCache};

use crate::{
    client::caller::Caller,
    connections::{
        answer_budget::{Account, AnswerBudget, AnswerJson},
        gauge::GaugeGuard,
    },
    error::{Code, Error},
    hub::{self, Hubs, StreamCaller, dialogs, messages, read_states, unread},
    operation::{Admitted, Pipeline},
    seen_versions::SeenVersions,
    version::Version,
};

/// Most bytes of the fields of a frame besides its rows.
const FRAME_FIELDS_BYTES: usize = 4096;

/// Result of a subscription.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// The response, as JSON.
    pub json: AnswerJson,
    /// Version to resume from, also in the response as `extensions.cursor`. `None` if the stream cannot
    /// be resumed.
    pub cursor: Option<Version>,
}

impl fmt::Debug for Payload {
    /// Omits the response: it may hold message texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

/// Opens subscriptions. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Subscriptions(Arc<State>);

struct State {
    pipeline: Pipeline,
    hubs: Hubs,
    seen_versions: SeenVersions,
    result_cache: ResultCache,
    budget: AnswerBudget,
}

impl Subscriptions {
    /// Creates subscriptions over these hubs. Every sent version of the unread counts is recorded in
    /// `seen_versions`, and every result takes room in `budget`.
    pub fn new(pipeline: Pipeline, hubs: Hubs, seen_versions: SeenVersions, budget: AnswerBudget) -> Self {
        Self(Arc::new(State { pipeline, hubs, seen_versions, result_cache: ResultCache::new(), budget }))
    }

    /// Opens the stream of an admitted subscription. Waits while a service that it needs is unavailable.
    ///
    /// # Errors
    /// In the form that clients receive: UNAUTHENTICATED without a caller, the code of the resolver for
    /// an invalid argument, NOT_FOUND for a dialog that the caller cannot see, GRAPHQL_VALIDATION_FAILED
    /// if the operation does not execute exactly one field.
    pub async fn open(
        &self,
        admitted: Admitted,
        caller: Option<Caller>,
        call: Call,
    ) -> Result<Stream, Vec<ServerError>> {
        self.open_after(None, admitted, caller, call).await
    }

    /// Like [`Subscriptions::open`], and resumes after the result with this cursor. The argument `since`
    /// of the operation takes precedence.
    ///
    /// # Errors
    /// Those of [`Subscriptions::open`], and BAD_USER_INPUT if the cursor of `messages` is not a
    /// version.
    pub async fn open_after(
        &self,
        cursor: Option<&str>,
        admitted: Admitted,
        caller: Option<Caller>,
        mut call: Call,
    ) -> Result<Stream, Vec<ServerError>> {
        // The deadline is that of the request, and the stream outlives it.
        call.deadline = None;
        let target = self.probe(&admitted, caller.clone(), &call).await?;
        let server_errors = |error: Error| vec![error.into_server_error(&call.request_id)];
        let caller = caller.ok_or_else(|| server_errors(Error::sign_in()))?;
        let target = target.resume_after(cursor).map_err(server_errors)?;
        let source = self.source(target, &caller, &call).await.map_err(server_errors)?;
        let field = source.field();
        let gauge = metrics::gauge!("gateway_subscriptions", "field" => field);
        metrics::counter!("gateway_subscriptions_started_total", "field" => field).increment(1);
        for reason in ["client", "source"] {
            // The first end is then an increase.
            metrics::counter!("gateway_subscriptions_ended_total", "field" => field, "reason" => reason)
                .increment(0);
        }
        let calls_services = resolver_input::calls_services(admitted.document());
        Ok(Stream {
            subscriptions: self.clone(),
            admitted,
            caller,
            call,
            source,
            calls_services,
            failing: None,
            has_ended: false,
            _gauge: GaugeGuard::of(gauge),
        })
    }

    /// Executes the operation with a probe and returns its target.
    async fn probe(
        &self,
        admitted: &Admitted,
        caller: Option<Caller>,
        call: &Call,
    ) -> Result<Target, Vec<ServerError>> {
        let probe = Probe::default();
        let input = ResolverInput::Probe(probe.clone());
        let response = self.0.pipeline.frame(admitted, input, caller, call.clone()).await;
        if let Some(response) = response.filter(Response::is_err) {
            return Err(response.errors);
        }
        let mut targets = probe.take_targets();
        match (targets.pop(), targets.is_empty()) {
            (Some(target), true) => Ok(target),
            _ => {
                let error = Error::new(
                    Code::GraphqlValidationFailed,
                    "a subscription has exactly one field, written in the operation itself",
                );
                Err(vec![error.into_server_error(&call.request_id)])
            }
        }
    }

    async fn source(&self, target: Target, caller: &Caller, call: &Call) -> Result<Source, Error> {
        let stream_caller = StreamCaller::new(caller, call);
        // Before the log is followed, an event between the initial state and the log's end would be missed.
        self.0.hubs.following().await;
        Ok(match target {
            Target::Unread { since } => Source::Unread(self.0.hubs.unread.subscribe(caller.user, since)),
            Target::Dialogs => Source::Dialogs(self.0.hubs.dialogs.subscribe(caller.user)),
            Target::Messages { dialog, since } => {
                Source::Messages(dialog, self.0.hubs.messages.subscribe(&stream_caller, dialog, since).await?)
            }
            Target::ReadStates { dialog } => {
                Source::ReadStates(dialog, self.0.hubs.read_states.subscribe(&stream_caller, dialog).await?)
            }
        })
    }
}

/// Subscription to a hub.
enum Source {
    Unread(unread::Subscription),
    Dialogs(dialogs::Subscription),
    Messages(proto::DialogId, messages::Subscription),
    ReadStates(proto::DialogId, read_states::Subscription),
}

impl Source {
    /// Requests the whole state as the next frame, because the last frame could not be sent.
    fn resync(&mut self) {
        match self {
            Self::Unread(subscription) => subscription.resync(),
            Self::Dialogs(subscription) => subscription.resync(),
            Self::Messages(_, subscription) => subscription.resync(),
            Self::ReadStates(_, subscription) => subscription.resync(),
        }
    }

    /// Returns true if no other stream receives the same frames, so that caching their results is useless.
    fn is_only_one(&self) -> bool {
        match self {
            Self::Unread(subscription) => subscription.is_only_one(),
            Self::Dialogs(_) | Self::Messages(..) | Self::ReadStates(..) => false,
        }
    }

    /// Returns the span that caused the newest change, if it is exported.
    fn cause(&self) -> Option<Traceparent> {
        match self {
            Self::Unread(subscription) => subscription.cause(),
            Self::Dialogs(_) | Self::Messages(..) | Self::ReadStates(..) => None,
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::Unread(_) => "unread",
            Self::Dialogs(_) => "dialogs",
            Self::Messages(..) => "messages",
            Self::ReadStates(..) => "readStates",
        }
    }

    async fn next(&mut self) -> Result<Option<Frame>, Error> {
        Ok(match self {
            Self::Unread(subscription) => Some(Frame::Unread(subscription.next().await)),
            Self::Dialogs(subscription) => Some(Frame::DialogChange(subscription.next().await)),
            Self::Messages(dialog, subscription) => {
                subscription.next().await.map(|frame| Frame::Message(*dialog, frame))
            }
            Self::ReadStates(dialog, subscription) => {
                subscription.next().await?.map(|state| Frame::ReadState(*dialog, state))
            }
        })
    }
}

/// An open subscription. Dropping it unsubscribes.
pub struct Stream {
    subscriptions: Subscriptions,
    admitted: Admitted,
    caller: Caller,
    call: Call,
    source: Source,
    calls_services: bool,
    /// Delay between executions while results have errors and no data.
    failing: Option<Backoff>,
    /// The source has ended; otherwise the client ends the stream.
    has_ended: bool,
    _gauge: GaugeGuard,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let reason = if self.has_ended { "source" } else { "client" };
        let field = self.source.field();
        metrics::counter!("gateway_subscriptions_ended_total", "field" => field, "reason" => reason)
            .increment(1);
    }
}

impl Stream {
    /// Waits for the next result, which reflects the newest state. Returns `None` when the stream has
    /// ended.
    ///
    /// A frame whose result has errors and no data is sent once, without a cursor. Executions are then
    /// repeated with a backoff, and the next result is the whole state.
    pub async fn next(&mut self) -> Option<Payload> {
        loop {
            if let Some(backoff) = &mut self.failing {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            let frame = match self.source.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    self.has_ended = true;
                    return None;
                }
                Err(error) => {
                    self.has_ended = true;
                    tracing::debug!(%error, "a stream ends");
                    return None;
                }
            };
            let field = self.source.field();
            let cursor = frame.cursor();
            let unread = if let Frame::Unread(frame) = &frame { Some(frame.version) } else { None };
            // Boxed: a stream is idle most of the time, and its memory does not include that of an
            // execution.
            let (result, json) = Box::pin(self.charged_result(frame, cursor)).await;
            if result.is_failure {
                self.source.resync();
                if self.failing.is_some() {
                    continue;
                }
                self.failing = Some(hub::backoff());
                return Some(Payload { json, cursor: None });
            }
            self.failing = None;
            if let Some(version) = unread {
                self.subscriptions.0.seen_versions.raise(self.caller.user, version);
            }
            metrics::counter!("gateway_frames_total", "field" => field).increment(1);
            metrics::counter!("gateway_frame_bytes_total", "field" => field).increment(json.len() as u64);
            return Some(Payload { json, cursor });
        }
    }

    /// Converts to a [`futures_util::Stream`] of results.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Payload> + Send {
        stream::unfold(self, |mut stream| async move { stream.next().await.map(|payload| (payload, stream)) })
    }

    /// Returns the result of one frame once there is room for it, and its JSON with that room. A stream that
    /// waits holds no result, and its next frame merges what has changed since.
    async fn charged_result(&self, frame: Frame, cursor: Option<Version>) -> (FrameResult, AnswerJson) {
        let account = Account::User(self.caller.user);
        let bytes = self.admitted.answer_max_bytes() / frame.share_of_largest() + FRAME_FIELDS_BYTES;
        let reservation = self.subscriptions.0.budget.reserve_patiently(account, bytes).await;
        let result = self.result(frame, cursor).await;
        // A result that outgrew its reservation is sent all the same: the stream cannot go on without it.
        let _ = reservation.resize(result.json.len());
        let json = AnswerJson::new(result.json.clone(), reservation);
        (result, json)
    }

    /// Returns the result of one frame, shared with the streams that receive the same. A result that
    /// needs service calls is never shared: it depends on the caller's token and on the time of the
    /// calls.
    async fn result(&self, frame: Frame, cursor: Option<Version>) -> FrameResult {
        if self.calls_services || self.source.is_only_one() {
            return self.execute(frame, cursor).await;
        }
        let key = Key::new(self.admitted.operation_key().clone(), &frame, self.caller.user);
        self.subscriptions.0.result_cache.get(key, self.execute(frame, cursor)).await
    }

    /// Executes the operation for one frame.
    async fn execute(&self, frame: Frame, cursor: Option<Version>) -> FrameResult {
        let input = ResolverInput::frame(frame);
        let mut call = self.call.clone();
        // The frame belongs to the trace of its newest change. The opening of the subscription has its own.
        let trace = self.source.cause().map(|cause| {
            let mut span = call.start_span_of(trace::Kind::Internal, || "frame", cause);
            span.set("graphql.operation.type", "subscription");
            span.set("tidings.subscription.field", self.source.field());
            span
        });
        let span = call.log_span();
        let caller = Some(self.caller.clone());
        let work = self.subscriptions.0.pipeline.frame(&self.admitted, input, caller, call);
        let response = work.instrument(span).await;
        drop(trace);
        let mut response = response.unwrap_or_default();
        let has_errors = response.is_err();
        let is_failure = has_errors && response.data == Value::Null;
        // Without a cursor, a client that reconnects does not resume after a frame that it never received.
        if let Some(cursor) = cursor.filter(|_| !is_failure) {
            response.extensions.insert("cursor".to_owned(), Value::from(cursor.to_string()));
        }
        let json = serde_json::to_string(&response).expect("a response has only string keys");
        FrameResult { json: json.into(), has_errors, is_failure }
    }
}
