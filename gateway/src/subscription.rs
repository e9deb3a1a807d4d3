//! Subscriptions, for every transport: an operation is first run with a probe that tells what it subscribes to, then once
//! for each frame of the hub. What is executed and serialised is shared by all who would get the same bytes.

pub mod log_reader;
pub mod resolver_input;
mod result_cache;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use async_graphql::{Response, ServerError, Value};
use futures_util::stream;
use resilience::Backoff;
use telemetry::Call;
use tracing::Instrument;

use resolver_input::{Frame, ResolverInput, Start};
use result_cache::{CachedResult, Key, ResultCache};

use crate::{
    client::caller::Caller,
    connections::gauge::GaugeGuard,
    error::{Code, Error},
    hub::{self, Hubs, StreamCaller, messages, read_states, unread},
    operation::{Admitted, Pipeline},
    seen_versions::SeenVersions,
    version::Version,
};

/// One result of a subscription.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// The response, as JSON.
    pub json: Arc<str>,
    /// The version to resume from, where the stream can be resumed. It is in the response as `extensions.cursor` too.
    pub cursor: Option<Version>,
}

impl fmt::Debug for Payload {
    /// Without what is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

/// Opens subscriptions. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions(Arc<Parts>);

struct Parts {
    pipeline: Pipeline,
    hubs: Hubs,
    seen_versions: SeenVersions,
    result_cache: ResultCache,
}

impl Subscriptions {
    /// Over these hubs. What is pushed raises the seen_versions.
    pub fn new(pipeline: Pipeline, hubs: Hubs, seen_versions: SeenVersions) -> Self {
        Self(Arc::new(Parts { pipeline, hubs, seen_versions, result_cache: ResultCache::new() }))
    }

    /// Opens the stream of an admitted subscription. It takes as long as the services that know its beginning are away.
    ///
    /// # Errors
    /// As clients are shown them: where nobody is signed in, an argument is out of its bounds, or there is nothing to see.
    pub async fn open(
        &self,
        admitted: Admitted,
        caller: Option<Caller>,
        call: Call,
    ) -> Result<Stream, Vec<ServerError>> {
        self.open_after(None, admitted, caller, call).await
    }

    /// As [`Subscriptions::open`], after the result with this cursor: the field's `since`, where the operation gives none.
    ///
    /// # Errors
    /// As there, and BAD_USER_INPUT for a cursor that is none.
    pub async fn open_after(
        &self,
        cursor: Option<&str>,
        admitted: Admitted,
        caller: Option<Caller>,
        call: Call,
    ) -> Result<Stream, Vec<ServerError>> {
        // A deadline is one of the request; the stream goes on.
        let call = Call { deadline: None, ..call };
        let start = self.probe(&admitted, caller.clone(), &call).await?;
        let shown = |error: Error| vec![error.into_server_error(&call.request_id)];
        let caller = caller.ok_or_else(|| shown(Error::sign_in()))?;
        let start = start.after(cursor).map_err(shown)?;
        let source = self.source(start, &caller, &call).await.map_err(shown)?;
        let gauge = metrics::gauge!("gateway_subscriptions", "field" => source.field());
        let private = resolver_input::looks_beyond(admitted.document());
        Ok(Stream {
            subscriptions: self.clone(),
            admitted,
            caller,
            call,
            source,
            private,
            failing: None,
            _counted: GaugeGuard::of(gauge),
        })
    }

    /// What the operation subscribes to.
    async fn probe(
        &self,
        admitted: &Admitted,
        caller: Option<Caller>,
        call: &Call,
    ) -> Result<Start, Vec<ServerError>> {
        let (feed, started) = ResolverInput::probe();
        let response = self.0.pipeline.frame(admitted, feed, caller, call.clone()).await;
        if let Some(response) = response.filter(Response::is_err) {
            return Err(response.errors);
        }
        let mut started = std::mem::take(&mut *started.lock());
        match (started.pop(), started.is_empty()) {
            (Some(start), true) => Ok(start),
            _ => {
                let error = Error::new(
                    Code::GraphqlValidationFailed,
                    "a subscription has exactly one field, written in the operation itself",
                );
                Err(vec![error.into_server_error(&call.request_id)])
            }
        }
    }

    async fn source(&self, start: Start, caller: &Caller, call: &Call) -> Result<Source, Error> {
        let stream_caller = StreamCaller::new(caller, call);
        self.0.hubs.following().await;
        Ok(match start {
            Start::Unread { since } => Source::Unread(self.0.hubs.unread.subscribe(caller.user, since)),
            Start::Messages { dialog, since } => {
                Source::Messages(dialog, self.0.hubs.messages.subscribe(&stream_caller, dialog, since).await?)
            }
            Start::ReadStates { dialog } => {
                Source::ReadStates(dialog, self.0.hubs.read_states.subscribe(&stream_caller, dialog).await?)
            }
        })
    }
}

enum Source {
    Unread(unread::Subscription),
    Messages(proto::DialogId, messages::Subscription),
    ReadStates(proto::DialogId, read_states::Subscription),
}

impl Source {
    /// What was given last could not be shown: all of it comes again.
    fn resync(&mut self) {
        match self {
            Self::Unread(subscription) => subscription.resync(),
            Self::Messages(_, subscription) => subscription.resync(),
            Self::ReadStates(_, subscription) => subscription.resync(),
        }
    }

    /// Whether nobody else gets what this one gets: there is nothing to result_cache then.
    fn is_only_one(&self) -> bool {
        match self {
            Self::Unread(subscription) => subscription.is_only_one(),
            Self::Messages(..) | Self::ReadStates(..) => false,
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::Unread(_) => "unread",
            Self::Messages(..) => "messages",
            Self::ReadStates(..) => "readStates",
        }
    }

    async fn next(&mut self) -> Result<Option<Frame>, Error> {
        Ok(match self {
            Self::Unread(subscription) => Some(Frame::Unread(subscription.next().await)),
            Self::Messages(dialog, subscription) => {
                subscription.next().await.map(|frame| Frame::Message(*dialog, frame))
            }
            Self::ReadStates(dialog, subscription) => {
                subscription.next().await?.map(|state| Frame::ReadState(*dialog, state))
            }
        })
    }
}

/// An open subscription. Dropped, it costs nothing any more.
pub struct Stream {
    subscriptions: Subscriptions,
    admitted: Admitted,
    caller: Caller,
    call: Call,
    source: Source,
    private: bool,
    /// While nothing can be shown.
    failing: Option<Backoff>,
    _counted: GaugeGuard,
}

impl Stream {
    /// The next result, made from the newest state when it is asked for. `None`: there will be none.
    ///
    /// A frame of which nothing could be shown is told once, without a cursor, and made good: what comes next is the whole
    /// state, as soon as it can be shown.
    pub async fn next(&mut self) -> Option<Payload> {
        loop {
            if let Some(backoff) = &mut self.failing {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            let frame = match self.source.next().await {
                Ok(frame) => frame?,
                Err(error) => {
                    tracing::debug!(%error, "a stream ends");
                    return None;
                }
            };
            let field = self.source.field();
            let cursor = frame.cursor();
            let unread = if let Frame::Unread(frame) = &frame { Some(frame.version) } else { None };
            // Boxed: a stream waits far longer than it works, and what work takes is given back meanwhile.
            let made = Box::pin(self.made(frame, cursor)).await;
            if made.failed {
                self.source.resync();
                if self.failing.is_some() {
                    continue;
                }
                self.failing = Some(hub::backoff());
                return Some(Payload { json: made.json, cursor: None });
            }
            self.failing = None;
            if let Some(version) = unread {
                self.subscriptions.0.seen_versions.raise(self.caller.user, version);
            }
            metrics::counter!("gateway_frames_total", "field" => field).increment(1);
            return Some(Payload { json: made.json, cursor });
        }
    }

    /// The results as a stream for `futures`.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Payload> + Send {
        stream::unfold(self, |mut stream| async move { stream.next().await.map(|payload| (payload, stream)) })
    }

    /// The result of one frame, shared with whoever else would get the same. One that looks beyond the frame is not: it
    /// may have changed meanwhile, and whoever makes it waits for services, with this reader's token.
    async fn made(&self, frame: Frame, cursor: Option<Version>) -> CachedResult {
        if self.private || self.source.is_only_one() {
            return self.execute(frame, cursor).await;
        }
        let key = Key::new(self.admitted.operation_key().clone(), &frame, self.caller.user);
        self.subscriptions.0.result_cache.get(key, self.execute(frame, cursor)).await
    }

    /// The response to one frame.
    async fn execute(&self, frame: Frame, cursor: Option<Version>) -> CachedResult {
        let feed = ResolverInput::frame(frame);
        let span = tracing::info_span!("gateway.live.frame", request_id = %self.call.request_id);
        let work = self.subscriptions.0.pipeline.frame(
            &self.admitted,
            feed,
            Some(self.caller.clone()),
            self.call.clone(),
        );
        let response = work.instrument(span).await;
        let mut response = response.unwrap_or_default();
        let (erred, failed) = (response.is_err(), response.is_err() && response.data == Value::Null);
        if let Some(cursor) = cursor.filter(|_| !failed) {
            response.extensions.insert("cursor".to_owned(), Value::from(cursor.to_string()));
        }
        let json = serde_json::to_string(&response).expect("a response has string keys alone");
        CachedResult { json: json.into(), erred, failed }
    }
}
