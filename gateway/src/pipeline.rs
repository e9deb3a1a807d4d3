//! The one place where an operation is admitted and executed, for every transport: bounds before parsing, parsing,
//! bounds of the document, validation; then the schema, under a deadline, with loaders of the operation's own.

use std::{any::Any, fmt, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_graphql::{PathSegment, Request, Response, ValidationMode, Variables};
use async_graphql_parser::types::{ExecutableDocument, OperationType};
use futures_util::{FutureExt, StreamExt};
use telemetry::{Call, RequestId, panic};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    documents::{Documents, Operation, Ready},
    error::{Code, Error, Rejected, finish},
    floor::Floor,
    peers::Peers,
    persisted::{Persisted, TrustedDocuments},
    rates::{Asker, Rates},
    schema::{self, Schema, Scope, SignIns},
    turn::Turn,
    viewer::Viewer,
};

/// How long an operation may take where nothing else is said.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(5);
/// How much sooner a call of a service must be answered, so that the rest of the answer is still sent.
const ANSWER: Duration = Duration::from_millis(250);
/// Fragments and fields inside each other that validation and execution follow; the bounds are tighter.
pub const RECURSION_MAX: usize = 128;

/// An operation as a transport has read it. Documents and variables hold passwords and texts: Debug shows neither.
#[derive(Default)]
pub struct Incoming {
    /// The document, unless it is only named.
    pub query: Option<String>,
    /// Its name, as GraphQL over HTTP has it; Apollo's clients name it in the extensions.
    pub document_id: Option<String>,
    /// Which operation of it.
    pub operation_name: Option<String>,
    /// Its variables.
    pub variables: Variables,
    /// What the client says beside it.
    pub extensions: serde_json::Map<String, serde_json::Value>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("operation_name", &self.operation_name).finish_non_exhaustive()
    }
}

/// What an operation is, whoever asks: two requests of one identity have one answer for one viewer and state. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity(Arc<(Arc<str>, Option<String>, String)>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} bytes)", self.size_bytes())
    }
}

impl Identity {
    /// Of a document, the name of one of its operations, and the values of its variables.
    pub fn new(text: Arc<str>, name: Option<String>, variables: &Variables) -> Self {
        let values = serde_json::to_string(variables).unwrap_or_default();
        Self(Arc::new((text, name, values)))
    }

    /// How much it holds, in bytes.
    pub fn size_bytes(&self) -> usize {
        let (text, name, values) = &*self.0;
        text.len() + name.as_ref().map_or(0, String::len) + values.len()
    }
}

/// An operation within all bounds, parsed and valid. Cheap to clone.
#[derive(Clone)]
pub struct Admitted {
    operation: Arc<Operation>,
    variables: Variables,
    identity: Identity,
    cost: usize,
    address: IpAddr,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("operation", &self.operation).finish_non_exhaustive()
    }
}

impl Admitted {
    /// Query, mutation or subscription.
    pub fn kind(&self) -> OperationType {
        self.operation.kind
    }

    /// What it costs at most, as the bound on complexity counts.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// The operation with the fragments that it reaches.
    pub fn document(&self) -> &ExecutableDocument {
        &self.operation.document
    }

    /// What it is: document, operation and variables, to share answers by.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Admits and executes. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    schema: Schema,
    documents: Documents,
    persisted: Persisted,
    peers: Peers,
    floor: Floor,
    rates: Rates,
    limit: Duration,
    /// Mutations under way: they end whether or not their client waits.
    writes: TaskTracker,
}

impl Pipeline {
    /// Over these services, as often as the rates have it. Introspection lets clients read the schema; with a list of trusted
    /// documents nothing else runs.
    pub fn new(
        peers: Peers,
        floor: Floor,
        rates: Rates,
        introspection: bool,
        trusted: Option<TrustedDocuments>,
    ) -> Self {
        // What comes here has been validated.
        let schema =
            schema::build().validation_mode(ValidationMode::Fast).limit_recursive_depth(RECURSION_MAX);
        let schema = if introspection { schema } else { schema.disable_introspection() };
        let (documents, persisted) = (Documents::new(introspection), Persisted::new(trusted));
        let (limit, writes) = (OPERATION_LIMIT, TaskTracker::new());
        Self { schema: schema.finish(), documents, persisted, peers, floor, rates, limit, writes }
    }

    /// The same, whose operations may take so long: a second at least.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit.max(Duration::from_secs(1));
        self
    }

    /// Waits for the mutations under way.
    pub async fn finish(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Checks an operation against the asker's rate, then against every bound and the schema, executing nothing.
    ///
    /// # Errors
    /// [`Rejected`], with the code of what is wrong.
    pub async fn admit(&self, incoming: Incoming, asker: &Asker, call: &Call) -> Result<Admitted, Rejected> {
        self.rates.request(asker).await?;
        let document = self.persisted.document(&incoming).await?;
        let Incoming { operation_name, variables, .. } = incoming;
        let text = document.text.clone();
        let name = operation_name.filter(|name| !name.is_empty());
        let found =
            AssertUnwindSafe(self.documents.find(text.clone(), name.clone(), &variables)).catch_unwind();
        let found = found.await.map_err(|payload| {
            panic::report("document", payload.as_ref());
            Rejected::of(Error::internal("admitting panicked"), &call.request_id)
        })?;
        let Ready { operation, variables, cost } = found?;
        self.persisted.keep(document).await;
        let identity = Identity::new(text, name, &variables);
        Ok(Admitted { operation, variables, identity, cost, address: asker.address })
    }

    /// Executes a query or a mutation. Every error of the answer carries its code. Where nobody waits for the answer any
    /// more a query is given up, with the calls that it has made; a mutation goes on to its end.
    pub async fn execute(&self, admitted: &Admitted, viewer: Option<Viewer>, call: Call) -> Response {
        if admitted.kind() != OperationType::Mutation {
            return self.run(admitted, viewer, call).await;
        }
        let (pipeline, admitted, request_id) = (self.clone(), admitted.clone(), call.request_id.clone());
        let write = async move { pipeline.run(&admitted, viewer, call).await };
        match self.writes.spawn(write.in_current_span()).await {
            Ok(response) => response,
            Err(_) => failed(Error::internal("a mutation was cut off"), &request_id),
        }
    }

    async fn run(&self, admitted: &Admitted, viewer: Option<Viewer>, call: Call) -> Response {
        metrics::counter!("gateway_operations_total", "operation" => admitted.kind().to_string())
            .increment(1);
        let (turn, request_id) = (Turn::default(), call.request_id.clone());
        let deadline = Instant::now() + self.limit;
        let request = self.request(admitted, viewer, call.with_deadline(deadline - ANSWER), &turn);
        let work = turn.run(self.schema.execute(request));
        let response = guarded(deadline, work).await.map(|response| settled(admitted, response, &request_id));
        response.unwrap_or_else(|error| failed(error, &request_id))
    }

    /// Executes a subscription's resolvers once, over what `feed` gives them (a probe or a frame): the first item of
    /// their stream, `None` where it has none.
    pub async fn frame<F: Any + Send + Sync>(
        &self,
        admitted: &Admitted,
        feed: F,
        viewer: Option<Viewer>,
        call: Call,
    ) -> Option<Response> {
        let (turn, request_id) = (Turn::default(), call.request_id.clone());
        let deadline = Instant::now() + self.limit;
        let request = self.request(admitted, viewer, call.with_deadline(deadline - ANSWER), &turn).data(feed);
        let mut stream = self.schema.execute_stream(request);
        let work = turn.run(stream.next());
        match guarded(deadline, work).await {
            Ok(response) => response.map(|response| settled(admitted, response, &request_id)),
            Err(error) => Some(failed(error, &request_id)),
        }
    }

    fn request(&self, admitted: &Admitted, viewer: Option<Viewer>, call: Call, turn: &Turn) -> Request {
        let scope = Scope::new(viewer, call, self.peers.clone(), self.floor.clone(), turn);
        let request = Request::new("").variables(admitted.variables.clone());
        let sign_ins = SignIns { rates: self.rates.clone(), address: admitted.address };
        let mut request = request.data(scope).data(sign_ins).data(admitted.operation.clone());
        request.set_parsed_query(admitted.operation.document.clone());
        request
    }
}

/// Runs to the deadline; a panic is an error of this operation alone.
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

/// The answer as clients see it.
fn settled(admitted: &Admitted, mut response: Response, request_id: &RequestId) -> Response {
    let failed: Vec<&[PathSegment]> = response.errors.iter().map(|error| error.path.as_slice()).collect();
    admitted.operation.shape.settle(&mut response.data, &failed);
    finish(&mut response, request_id);
    response
}

fn failed(error: Error, request_id: &RequestId) -> Response {
    Response::from_errors(vec![error.into_server_error(request_id)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_operation_has_five_seconds_and_a_panic_is_its_own() {
        let begun = Instant::now();
        let late = guarded(begun + OPERATION_LIMIT, std::future::pending::<()>()).await.expect_err("late");
        assert_eq!((late.code(), begun.elapsed().as_secs()), (Code::DeadlineExceeded, 5));
        let broken = guarded(Instant::now() + OPERATION_LIMIT, async { panic!("secret") }).await;
        let broken: Error = broken.map(|(): ()| ()).expect_err("panicked");
        let shown = broken.into_server_error(&RequestId::random());
        assert_eq!(shown.message, "internal error");
    }

    #[test]
    fn an_operation_does_not_show_what_is_in_it() {
        let variables = Variables::from_json(serde_json::json!({ "password": "hidden" }));
        let identity = Identity::new("{ a(b: \"hidden\") }".into(), None, &variables);
        let incoming = Incoming { query: Some("hidden".to_owned()), variables, ..Incoming::default() };
        let shown = format!("{incoming:?} {identity:?}");
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
