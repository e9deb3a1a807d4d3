//! Operation pipeline: the one place where operations of every transport are admitted and executed.
//!
//! Admission checks the rate limit, the limits on tokens, the document's limits and its validity, in
//! this order, and executes nothing. Execution runs the schema's resolvers under a deadline, with
//! loaders that belong to the operation.

pub mod coercion;
mod complexity;
pub mod concurrency_limit;
pub mod document_cache;
mod known_costs;
mod lexical;
mod missing_rules;
pub mod normalization;
pub mod persisted_queries;
pub mod query_limits;
pub mod request;
pub mod response_shape;
pub mod token_limits;
pub mod validation;

use std::{
    any::Any,
    fmt,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_graphql::{PathSegment, Request, Response, ValidationMode};
use async_graphql_parser::types::{ExecutableDocument, OperationType};
use futures_util::{FutureExt, StreamExt};
use telemetry::{
    Call, RequestId, Traceparent, panic,
    trace::{self, Span},
};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    client::{
        Client, caller::Caller, rate_limits::RateLimiter, revoked_sessions::RevokedSessions,
        user_agent::UserAgent,
    },
    error::{Code, Error, Rejection, set_codes},
    hub::Service,
    schema::{
        self, Schema, Scope, SignInLimiter,
        data_loader::Dispatcher,
        plan::{Plan, Unplanned},
    },
    seen_versions::SeenVersions,
};
use concurrency_limit::ConcurrencyLimit;
use document_cache::{DocumentCache, PreparedOperation};
use persisted_queries::{PersistedQueries, TrustedDocuments};
use request::{OperationKey, OperationRequest};

/// Default deadline of an operation.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(5);
/// Time between the deadline of service calls and that of the operation: enough to send the rest of the
/// answer when a service is too slow.
const ANSWER_MARGIN: Duration = Duration::from_millis(250);
/// Key in the extensions of a request that asks for the id of its trace, and of the response that has it.
const TRACE_ID: &str = "traceId";
/// Bytes of an answer around its data, such as the headers of a part or the frame of a socket.
const FRAME_BYTES: usize = 512;
/// Nesting of fields and fragments at which validation and execution stop. A second line of defence: the
/// document limits are lower.
pub const RECURSION_MAX: usize = 128;

/// Admitted operation: parsed, valid, normalized and within all limits. Cheap to clone.
#[derive(Clone)]
pub struct Admitted {
    prepared: PreparedOperation,
    text: Arc<str>,
    operation_name: Option<String>,
    operation_key: OnceLock<OperationKey>,
    address: IpAddr,
    /// User agent of the client, for a mutation: only a sign-in passes it on, and a subscription would hold
    /// it for hours.
    user_agent: UserAgent,
    /// The client asked for the id of the trace.
    wants_trace_id: bool,
}

/// Response of an executed operation.
pub enum Executed {
    /// The whole response as JSON, with data and without errors.
    Json(Vec<u8>),
    /// A response that may have errors.
    Response(Response),
}

impl Executed {
    /// Adds the id of the trace to the extensions.
    fn with_trace_id(self, traceparent: Traceparent) -> Self {
        let trace_id = format!("{:032x}", traceparent.trace_id());
        match self {
            Self::Json(mut json) => {
                // A response that was serialized as a whole has data and no extensions.
                json.pop();
                json.extend_from_slice(
                    format!(r#","extensions":{{"{TRACE_ID}":"{trace_id}"}}}}"#).as_bytes(),
                );
                Self::Json(json)
            }
            Self::Response(mut response) => {
                response.extensions.insert(TRACE_ID.to_owned(), trace_id.into());
                Self::Response(response)
            }
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("kind", &self.kind())
            .field("cost", &self.cost())
            .finish_non_exhaustive()
    }
}

impl Admitted {
    /// Returns the kind: query, mutation or subscription.
    pub fn kind(&self) -> OperationType {
        self.prepared.kind
    }

    /// Returns the maximum cost, in the units of the complexity limit.
    pub fn cost(&self) -> usize {
        self.prepared.cost
    }

    /// Returns the most bytes that the answer has, errors and introspection aside.
    pub fn answer_max_bytes(&self) -> usize {
        answer_max_bytes(self.cost())
    }

    /// Returns the document: one normalized operation without fragments and variables.
    pub fn document(&self) -> &ExecutableDocument {
        self.prepared.document()
    }

    /// Returns the key by which equal operations share results.
    pub fn operation_key(&self) -> &OperationKey {
        let Self { prepared, text, operation_name, .. } = self;
        let key = || OperationKey::new(text.clone(), operation_name.clone(), &prepared.variables);
        self.operation_key.get_or_init(key)
    }
}

/// Returns the most bytes in the answer of an operation of this cost.
pub fn answer_max_bytes(cost: usize) -> usize {
    cost.saturating_mul(query_limits::ANSWER_BYTES_PER_COST).saturating_add(FRAME_BYTES)
}

/// Admits and executes operations. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Pipeline {
    schema: Schema,
    documents: DocumentCache,
    persisted: PersistedQueries,
    service: Service,
    seen_versions: SeenVersions,
    rate_limiter: RateLimiter,
    revoked: RevokedSessions,
    deadline: Duration,
    queries: ConcurrencyLimit,
    /// Running mutations. They run to their end even if the client disconnects.
    writes: TaskTracker,
}

impl Pipeline {
    /// Creates a pipeline over these services. Mutations that end sessions add them to `revoked`. With a
    /// list of trusted documents, every other document is rejected.
    pub fn new(
        service: Service,
        seen_versions: SeenVersions,
        rate_limiter: RateLimiter,
        revoked: RevokedSessions,
        introspection: bool,
        trusted: Option<TrustedDocuments>,
    ) -> Self {
        // Documents are validated at admission, with our own limits; the executor need not repeat it.
        let schema =
            schema::build().validation_mode(ValidationMode::Fast).limit_recursive_depth(RECURSION_MAX);
        let schema = if introspection { schema } else { schema.disable_introspection() };
        Self {
            schema: schema.finish(),
            documents: DocumentCache::new(introspection),
            persisted: PersistedQueries::new(trusted),
            service,
            seen_versions,
            rate_limiter,
            revoked,
            deadline: OPERATION_LIMIT,
            queries: ConcurrencyLimit::default(),
            writes: TaskTracker::new(),
        }
    }

    /// Sets the deadline of operations, at least one second.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.max(Duration::from_secs(1));
        self
    }

    /// Waits for the running mutations.
    pub async fn finish(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Admits an operation: checks the client's rate limit, the document's limits and its validity.
    /// Executes nothing.
    ///
    /// # Errors
    /// A [`Rejection`] with the code of the first check that failed.
    pub async fn admit(
        &self,
        request: OperationRequest,
        client: &Client,
        call: &Call,
    ) -> Result<Admitted, Rejection> {
        self.rate_limiter.request(client).await?;
        let document = self.persisted.document(&request).await?;
        let OperationRequest { operation_name, variables, extensions, .. } = request;
        let wants_trace_id = extensions.get(TRACE_ID).is_some_and(|value| value == true);
        let text = document.text.clone();
        let name = operation_name.filter(|name| !name.is_empty());
        let prepared =
            AssertUnwindSafe(self.documents.prepare(text.clone(), name.clone(), &variables)).catch_unwind();
        let prepared = prepared.await.map_err(|payload| {
            panic::report("document", payload.as_ref());
            Rejection::of(Error::internal("the admission of a document panicked"), &call.request_id)
        })?;
        let prepared = prepared?;
        self.persisted.cache(document).await;
        let operation_key = OnceLock::new();
        let address = client.address;
        let is_mutation = prepared.kind == OperationType::Mutation;
        let user_agent = if is_mutation { client.user_agent.clone() } else { UserAgent::default() };
        let operation_name = name;
        Ok(Admitted { prepared, text, operation_name, operation_key, address, user_agent, wants_trace_id })
    }

    /// Executes a query or a mutation, a query by its plan if it has one. Otherwise, and if the plan gives
    /// up, like [`Pipeline::execute`].
    pub async fn answer(&self, admitted: &Admitted, caller: Option<Caller>, mut call: Call) -> Executed {
        let _span = trace::is_exported().then(|| start_span(admitted, &mut call));
        let trace_id = admitted.wants_trace_id.then_some(call.traceparent);
        let executed = self.execute_planned(admitted, caller, call).await;
        match trace_id {
            Some(traceparent) => executed.with_trace_id(traceparent),
            None => executed,
        }
    }

    async fn execute_planned(&self, admitted: &Admitted, caller: Option<Caller>, call: Call) -> Executed {
        match admitted.prepared.plan() {
            Some(plan) if plan.is_constant() => {
                count(admitted.kind());
                Executed::Json(plan.constant())
            }
            // Without a caller every field of a plan fails.
            Some(plan) if caller.is_some() => match self.queries.acquire().await {
                Ok(_permit) => self.run_plan(plan, admitted, caller, call).await,
                Err(error) => Executed::Response(failed(error, &call.request_id)),
            },
            _ => Executed::Response(self.execute(admitted, caller, call).await),
        }
    }

    async fn run_plan(
        &self,
        plan: &Plan,
        admitted: &Admitted,
        caller: Option<Caller>,
        call: Call,
    ) -> Executed {
        count(admitted.kind());
        let dispatcher = Dispatcher::default();
        let request_id = call.request_id.clone();
        let deadline = Instant::now() + self.deadline;
        let scope = self.scope(caller, call.with_deadline(deadline - ANSWER_MARGIN), &dispatcher);
        let work = async {
            match plan.answer(&scope, &admitted.prepared.variables).await {
                Ok(json) => Executed::Json(json),
                Err(Unplanned) => {
                    let response = self.schema.execute(self.request(admitted, scope)).await;
                    Executed::Response(settled(admitted, response, &request_id))
                }
            }
        };
        let executed = guarded(deadline, dispatcher.run(work)).await;
        executed.unwrap_or_else(|error| Executed::Response(failed(error, &request_id)))
    }

    /// Executes a query or a mutation. Every error of the response carries its code; RATE_LIMITED if more
    /// queries arrive than can be answered. Dropping the future cancels a query and its calls; a mutation
    /// runs to its end in a task of its own, so that a client that disconnects cannot cut it in half.
    pub async fn execute(&self, admitted: &Admitted, caller: Option<Caller>, call: Call) -> Response {
        if admitted.kind() != OperationType::Mutation {
            return match self.queries.acquire().await {
                Ok(_permit) => self.run(admitted, caller, call).await,
                Err(error) => failed(error, &call.request_id),
            };
        }
        let pipeline = self.clone();
        let admitted = admitted.clone();
        let request_id = call.request_id.clone();
        let write = async move { pipeline.run(&admitted, caller, call).await };
        match self.writes.spawn(write.in_current_span()).await {
            Ok(response) => response,
            Err(_) => failed(Error::internal("a mutation was cancelled"), &request_id),
        }
    }

    async fn run(&self, admitted: &Admitted, caller: Option<Caller>, call: Call) -> Response {
        count(admitted.kind());
        let dispatcher = Dispatcher::default();
        let request_id = call.request_id.clone();
        let deadline = Instant::now() + self.deadline;
        let scope = self.scope(caller, call.with_deadline(deadline - ANSWER_MARGIN), &dispatcher);
        let request = self.request(admitted, scope);
        let work = dispatcher.run(self.schema.execute(request));
        let response = guarded(deadline, work).await.map(|response| settled(admitted, response, &request_id));
        response.unwrap_or_else(|error| failed(error, &request_id))
    }

    /// Executes the resolvers of a subscription once, with `input` (a probe or a frame) in the request's
    /// data. Returns the first item of their stream, `None` if it is empty.
    pub async fn frame<F: Any + Send + Sync>(
        &self,
        admitted: &Admitted,
        input: F,
        caller: Option<Caller>,
        call: Call,
    ) -> Option<Response> {
        let dispatcher = Dispatcher::default();
        let request_id = call.request_id.clone();
        let deadline = Instant::now() + self.deadline;
        let scope = self.scope(caller, call.with_deadline(deadline - ANSWER_MARGIN), &dispatcher);
        let request = self.request(admitted, scope).data(input);
        let mut stream = self.schema.execute_stream(request);
        let work = dispatcher.run(stream.next());
        match guarded(deadline, work).await {
            Ok(response) => response.map(|response| settled(admitted, response, &request_id)),
            Err(error) => Some(failed(error, &request_id)),
        }
    }

    fn scope(&self, caller: Option<Caller>, call: Call, dispatcher: &Dispatcher) -> Scope {
        Scope::new(caller, call, self.service.clone(), self.seen_versions.clone(), dispatcher)
    }

    fn request(&self, admitted: &Admitted, scope: Scope) -> Request {
        let sign_ins = SignInLimiter {
            rate_limiter: self.rate_limiter.clone(),
            address: admitted.address,
            user_agent: admitted.user_agent.clone(),
        };
        let mut request = Request::new("").data(scope).data(sign_ins).data(admitted.prepared.shape().clone());
        request = request.data(self.revoked.clone());
        request.set_parsed_query(ExecutableDocument::clone(admitted.prepared.document()));
        request
    }
}

/// Starts the span of an operation. The document is no attribute, as it may have texts and passwords in it.
fn start_span(admitted: &Admitted, call: &mut Call) -> Span {
    let kind = kind_name(admitted.kind());
    let mut span = call.start_span(trace::Kind::Internal, || kind);
    span.set("graphql.operation.type", kind);
    if let Some(name) = &admitted.operation_name {
        span.set("graphql.operation.name", name.clone());
    }
    span
}

/// Counts an operation that is executed.
fn count(kind: OperationType) {
    metrics::counter!("gateway_operations_total", "operation" => kind_name(kind)).increment(1);
}

/// Returns the name of a kind of operation in metrics and in the log.
pub fn kind_name(kind: OperationType) -> &'static str {
    match kind {
        OperationType::Query => "query",
        OperationType::Mutation => "mutation",
        OperationType::Subscription => "subscription",
    }
}

/// Runs work until the deadline. A panic becomes an internal error of this operation.
async fn guarded<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Error> {
    match timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(payload)) => {
            panic::report("resolver", payload.as_ref());
            Err(Error::internal("a resolver panicked"))
        }
        Err(_) => Err(Error::new(Code::DeadlineExceeded, "the operation took too long")),
    }
}

/// Brings an executed response into the form that the specification demands, and sets the codes of its
/// errors.
fn settled(admitted: &Admitted, mut response: Response, request_id: &RequestId) -> Response {
    let failed: Vec<&[PathSegment]> = response.errors.iter().map(|error| error.path.as_slice()).collect();
    admitted.prepared.shape().correct(&mut response.data, &failed);
    set_codes(&mut response, request_id);
    response
}

fn failed(error: Error, request_id: &RequestId) -> Response {
    Response::from_errors(vec![error.into_server_error(request_id)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_operation_ends_after_five_seconds_and_a_panic_is_an_internal_error() {
        let started = Instant::now();
        let late = guarded(started + OPERATION_LIMIT, std::future::pending::<()>()).await.expect_err("late");
        assert_eq!((late.code(), started.elapsed().as_secs()), (Code::DeadlineExceeded, 5));
        let panicked = guarded(Instant::now() + OPERATION_LIMIT, async { panic!("secret") }).await;
        let panicked: Error = panicked.map(|(): ()| ()).expect_err("panicked");
        let shown = panicked.into_server_error(&RequestId::random());
        assert_eq!(shown.message, "internal error");
    }
}
