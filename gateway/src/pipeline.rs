//! The one place where an operation is admitted and executed, for every transport: bounds before parsing, parsing,
//! bounds of the document, validation; then the schema, under a deadline, with loaders of the operation's own.

use std::{any::Any, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_graphql::{PathSegment, Request, Response, ValidationMode, Variables};
use async_graphql_parser::types::{ExecutableDocument, OperationType};
use futures_util::{FutureExt, StreamExt};
use telemetry::{Call, RequestId};
use tokio::time::{Instant, timeout_at};

use crate::{
    documents::{Documents, Operation, Ready},
    error::{Code, Error, Rejected, finish},
    floor::Floor,
    peers::Peers,
    rates::{Asker, Rates},
    schema::{self, Schema, Scope, SignIns},
    turn::Turn,
    viewer::Viewer,
};

/// How long an operation may take.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(5);
/// How much sooner a call of a service must be answered, so that the rest of the answer is still sent.
const ANSWER: Duration = Duration::from_millis(250);
/// Fragments and fields inside each other that the executor follows; the bounds are tighter.
const RECURSION_MAX: usize = 128;

/// An operation as a transport has read it.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The document.
    pub query: String,
    /// Which operation of it.
    pub operation_name: Option<String>,
    /// Its variables.
    pub variables: Variables,
    /// What the client says beside it.
    pub extensions: serde_json::Map<String, serde_json::Value>,
}

/// What an operation is, whoever asks: two requests of one identity have one answer for one viewer and state. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Arc<(Arc<str>, Option<String>, String)>);

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
#[derive(Clone, Debug)]
pub struct Admitted {
    operation: Arc<Operation>,
    variables: Variables,
    identity: Identity,
    cost: usize,
    address: IpAddr,
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
    peers: Peers,
    floor: Floor,
    rates: Rates,
}

impl Pipeline {
    /// Over these services, as often as the rates have it. Introspection lets clients read the schema.
    pub fn new(peers: Peers, floor: Floor, rates: Rates, introspection: bool) -> Self {
        // What comes here has been validated.
        let schema = schema::build().validation_mode(ValidationMode::Fast).limit_recursive_depth(RECURSION_MAX);
        let schema = if introspection { schema } else { schema.disable_introspection() };
        Self { schema: schema.finish(), documents: Documents::new(introspection), peers, floor, rates }
    }

    /// Checks an operation against the asker's rate, then against every bound and the schema, executing nothing.
    ///
    /// # Errors
    /// [`Rejected`], with the code of what is wrong.
    pub async fn admit(&self, incoming: Incoming, asker: &Asker, call: &Call) -> Result<Admitted, Rejected> {
        self.rates.request(asker).await?;
        let Incoming { query, operation_name, variables, .. } = incoming;
        let text: Arc<str> = query.into();
        let name = operation_name.filter(|name| !name.is_empty());
        let found = AssertUnwindSafe(self.documents.find(text.clone(), name.clone(), &variables)).catch_unwind();
        let found = found.await.map_err(|_| Rejected::of(Error::internal("admitting panicked"), &call.request_id))?;
        let Ready { operation, variables, cost } = found?;
        let identity = Identity::new(text, name, &variables);
        Ok(Admitted { operation, variables, identity, cost, address: asker.address })
    }

    /// Executes a query or a mutation. Every error of the answer carries its code.
    pub async fn execute(&self, admitted: &Admitted, viewer: Option<Viewer>, call: Call) -> Response {
        let (turn, request_id) = (Turn::default(), call.request_id.clone());
        let deadline = Instant::now() + OPERATION_LIMIT;
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
        let deadline = Instant::now() + OPERATION_LIMIT;
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
        let sign_ins = SignIns { rates: self.rates.clone(), address: admitted.address };
        let mut request = Request::new("").variables(admitted.variables.clone()).data(scope).data(sign_ins);
        request.set_parsed_query(admitted.operation.document.clone());
        request
    }
}

/// Runs to the deadline; a panic is an error of this operation alone.
async fn guarded<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Error> {
    match timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Error::internal("a resolver panicked")),
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
}
