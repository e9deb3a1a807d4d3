//! The one place where an operation is admitted and executed, for every transport: bounds before parsing, parsing,
//! bounds of the document, validation; then the schema, under a deadline, with loaders of the operation's own.

use std::{any::Any, sync::Arc, time::Duration};

use async_graphql::{Request, Response, ServerError, Variables};
use async_graphql_parser::types::{ExecutableDocument, OperationType};
use futures_util::StreamExt;
use http::StatusCode;
use telemetry::{Call, RequestId};
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{Code, Error, finish},
    floor::Floor,
    peers::Peers,
    schema::{Schema, Scope},
    turn::Turn,
    viewer::Viewer,
};

/// How long an operation may take.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(5);

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

/// What an operation is, whoever asks: two requests of one identity have one answer for one viewer and state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Arc<(Arc<str>, Option<String>, String)>);

/// An operation within all bounds, parsed and valid. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admitted {
    document: Arc<Document>,
    operation_name: Option<String>,
    variables: Variables,
    identity: Identity,
    kind: OperationType,
    cost: usize,
}

#[derive(Debug)]
struct Document {
    text: Arc<str>,
    parsed: ExecutableDocument,
}

impl Admitted {
    /// Query, mutation or subscription.
    pub fn kind(&self) -> OperationType {
        self.kind
    }

    /// What it costs at most, as the bound on complexity counts.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// What it is: document, operation and variables, to share answers by.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Why an operation is not executed.
#[derive(Clone, Debug)]
pub struct Rejected {
    code: Code,
    errors: Vec<ServerError>,
}

impl Rejected {
    /// A refusal of this kind.
    pub fn new(error: Error, request_id: &RequestId) -> Self {
        Self { code: error.code(), errors: vec![error.into_server_error(request_id)] }
    }

    /// Of what kind.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The status over HTTP, for clients that understand `application/graphql-response+json`.
    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// What a client is shown; each error carries its code.
    pub fn errors(&self) -> &[ServerError] {
        &self.errors
    }
}

/// Admits and executes. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    schema: Schema,
    peers: Peers,
    floor: Floor,
}

impl Pipeline {
    /// Over these services.
    pub fn new(schema: Schema, peers: Peers, floor: Floor) -> Self {
        Self { schema, peers, floor }
    }

    /// Checks an operation against every bound and the schema, executing nothing.
    ///
    /// # Errors
    /// [`Rejected`], with the code of what is wrong.
    pub async fn admit(&self, incoming: Incoming, call: &Call) -> Result<Admitted, Rejected> {
        let Incoming { query, operation_name, variables, .. } = incoming;
        let text: Arc<str> = query.into();
        let parsed = async_graphql_parser::parse_query(&*text).map_err(|error| {
            Rejected::new(Error::new(Code::GraphqlParseFailed, error.to_string()), &call.request_id)
        })?;
        let kind = parsed.operations.iter().next().map_or(OperationType::Query, |(_, operation)| operation.node.ty);
        let identity = Identity(Arc::new((
            text.clone(),
            operation_name.clone(),
            serde_json::to_string(&variables).unwrap_or_default(),
        )));
        let document = Arc::new(Document { text, parsed });
        Ok(Admitted { document, operation_name, variables, identity, kind, cost: 0 })
    }

    /// Executes a query or a mutation. Every error of the answer carries its code.
    pub async fn execute(&self, admitted: &Admitted, viewer: Option<Viewer>, call: Call) -> Response {
        let request_id = call.request_id.clone();
        let turn = Turn::default();
        let deadline = Instant::now() + OPERATION_LIMIT;
        let request = self.request(admitted, viewer, call.with_deadline(deadline), &turn);
        let answer = timeout_at(deadline, turn.run(self.schema.execute(request))).await;
        let mut response = answer.unwrap_or_else(|_| late(&request_id));
        finish(&mut response, &request_id);
        response
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
        let request_id = call.request_id.clone();
        let turn = Turn::default();
        let deadline = Instant::now() + OPERATION_LIMIT;
        let request = self.request(admitted, viewer, call.with_deadline(deadline), &turn).data(feed);
        let mut stream = self.schema.execute_stream(request);
        let mut response =
            timeout_at(deadline, turn.run(stream.next())).await.unwrap_or_else(|_| Some(late(&request_id)))?;
        finish(&mut response, &request_id);
        Some(response)
    }

    fn request(&self, admitted: &Admitted, viewer: Option<Viewer>, call: Call, turn: &Turn) -> Request {
        let scope = Scope::new(viewer, call, self.peers.clone(), self.floor.clone(), turn);
        let mut request = Request::new(&*admitted.document.text).variables(admitted.variables.clone()).data(scope);
        request.operation_name.clone_from(&admitted.operation_name);
        request.set_parsed_query(admitted.document.parsed.clone());
        request
    }
}

fn late(request_id: &RequestId) -> Response {
    let error = Error::new(Code::DeadlineExceeded, "the operation took too long");
    Response::from_errors(vec![error.into_server_error(request_id)])
}
