//! GraphQL over HTTP, `POST` and `GET /graphql`: queries and mutations as the specification of that name has them, one or
//! a batch, and subscriptions as streams (`stream`). Who asks and what is asked are checked before anything is executed.

mod answer;
mod media;
#[cfg(test)]
mod rate_tests;
pub mod request;
mod stream;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_graphql_parser::types::OperationType;
use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    response::Response,
};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Limited};
use telemetry::Call;

use crate::{
    client::{Client, address::Address, caller::Authenticator},
    connections::Connections,
    error::{Code, Error, Rejection},
    operation::{Admitted, Pipeline, document_cache::check_cost, request::OperationRequest},
    subscription::Subscriptions,
};

use answer::{Answer, Executed, refusal};
use media::Accepted;
use request::Asked;

/// The most bytes of a request's body.
pub const BODY_MAX_BYTES: usize = 1_000_000;
/// How long it may take to come, so that nobody holds a connection by sending it a byte at a time.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// The header of graphql-sse's single connection mode.
const STREAM_TOKEN: &str = "x-graphql-event-stream-token";
/// The cursor after which a browser goes on.
const LAST_EVENT_ID: &str = "last-event-id";

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    /// Admits and executes.
    pub pipeline: Pipeline,
    /// Says who asks.
    pub authenticator: Arc<Authenticator>,
    /// Opens subscriptions.
    pub subscriptions: Subscriptions,
    /// Quotas, revocation and drain of streams.
    pub connections: Connections,
}

/// A request whose head was read.
struct Head {
    accepted: Accepted,
    client: Client,
    /// Where the client was in a stream that broke off.
    cursor: Option<String>,
    call: Call,
    method: Method,
}

/// `POST /graphql`.
pub async fn post(
    State(endpoint): State<Endpoint>,
    Extension(call): Extension<Call>,
    Extension(Address(address)): Extension<Address>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let accepted = match Accepted::of(&headers) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.into(),
    };
    if !media::is_json(&headers) {
        return refusal::unsupported_type().into();
    }
    let head = match endpoint.head(&headers, accepted, address, call, Method::POST).await {
        Ok(head) => head,
        Err(refused) => return refused.into(),
    };
    let bytes = match read(&headers, body).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused.into(),
    };
    match request::parse(&bytes) {
        Ok(Asked::One(incoming)) => endpoint.one(head, incoming).await,
        Ok(Asked::Batch(batch)) => endpoint.batch(head, batch).await.into(),
        Err(error) => Answer::refused(accepted.media(), error.into()).into(),
    }
}

/// `GET /graphql`: queries and subscriptions alone, so that nothing is changed by following a link.
pub async fn get(
    State(endpoint): State<Endpoint>,
    Extension(call): Extension<Call>,
    Extension(Address(address)): Extension<Address>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let accepted = match Accepted::of(&headers) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.into(),
    };
    let head = match endpoint.head(&headers, accepted, address, call, Method::GET).await {
        Ok(head) => head,
        Err(refused) => return refused.into(),
    };
    match request::parse_query(uri.query().unwrap_or_default()) {
        Ok(incoming) => endpoint.one(head, incoming).await,
        Err(error) => Answer::refused(accepted.media(), error.into()).into(),
    }
}

/// `PUT` and `DELETE /graphql`: one stream for several operations would bind a client to one gateway.
pub async fn single_connection() -> Response {
    refusal::single_connection_method().into()
}

impl Endpoint {
    async fn head(
        &self,
        headers: &HeaderMap,
        accepted: Accepted,
        address: IpAddr,
        call: Call,
        method: Method,
    ) -> Result<Head, Answer> {
        if headers.contains_key(STREAM_TOKEN) {
            return Err(refusal::single_connection_token());
        }
        let caller = self.authenticator.header(headers).await;
        let caller = caller
            .map_err(|error| Answer::refused(accepted.media(), Rejection::of(error, &call.request_id)))?;
        let cursor =
            headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok(Head {
            accepted,
            client: Client { caller, address },
            cursor: cursor.filter(|cursor| !cursor.is_empty()),
            call,
            method,
        })
    }

    async fn one(&self, head: Head, incoming: OperationRequest) -> Response {
        let (accepted, media) = (head.accepted, head.accepted.media());
        let admitted = match self.pipeline.admit(incoming, &head.client, &head.call).await {
            Ok(admitted) => admitted,
            Err(rejected) => return stream::rejected(accepted, rejected),
        };
        match (admitted.kind(), accepted) {
            (OperationType::Mutation, _) if head.method == Method::GET => {
                refusal::mutation_by_get(media).into()
            }
            (OperationType::Subscription, _) => match accepted.format() {
                Some(format) => self.stream(head, format, admitted),
                None => Answer::refused(media, no_stream().into()).into(),
            },
            (_, Accepted::Single(media, _)) => {
                Answer::executed(media, self.pipeline.execute(&admitted, head.client.caller, head.call).await)
                    .into()
            }
            (_, Accepted::Stream(format)) => {
                let executed = self.pipeline.execute(&admitted, head.client.caller, head.call).await;
                match Rejection::limited(&executed) {
                    Some(limited) => stream::rejected(accepted, limited),
                    None => stream::whole(format, &Executed::Answered(executed)),
                }
            }
        }
    }

    /// Every operation is admitted before the first is executed; one that is refused is answered in its place. Where one
    /// comes too soon, none is executed: the client sends the batch again.
    async fn batch(&self, head: Head, batch: Vec<OperationRequest>) -> Answer {
        let Accepted::Single(media, _) = head.accepted else { return refusal::not_acceptable() };
        let mut admitted = Vec::with_capacity(batch.len());
        for incoming in batch {
            match self.pipeline.admit(incoming, &head.client, &head.call).await.and_then(streamless) {
                Err(limited) if limited.code() == Code::RateLimited => {
                    return Answer::refused(media, limited);
                }
                answer => admitted.push(answer),
            }
        }
        let cost = admitted.iter().flatten().map(Admitted::cost).sum();
        if let Err(error) = check_cost(cost) {
            return Answer::refused(media, error.into());
        }
        let answers = admitted.into_iter().map(|admitted| {
            let (caller, call) = (head.client.caller.clone(), head.call.clone());
            async move {
                match admitted {
                    Ok(admitted) => Executed::Answered(self.pipeline.execute(&admitted, caller, call).await),
                    Err(rejected) => Executed::Refused(rejected),
                }
            }
        });
        Answer::batch(media, join_all(answers).await)
    }
}

fn streamless(admitted: Admitted) -> Result<Admitted, Rejection> {
    if admitted.kind() == OperationType::Subscription { Err(no_stream().into()) } else { Ok(admitted) }
}

fn no_stream() -> Error {
    let message = "subscriptions run over WebSocket on the same path, and one by one as `text/event-stream` or \
        `multipart/mixed;subscriptionSpec=1.0` where `Accept` says so";
    Error::new(Code::BadRequest, message)
}

/// The body, of at most [`BODY_MAX_BYTES`], within [`BODY_LIMIT`]. One that says beforehand that it is longer is not read
/// at all.
async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Answer> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|said| said > BODY_MAX_BYTES as u64) {
        return Err(refusal::too_large());
    }
    match tokio::time::timeout(BODY_LIMIT, Limited::new(body, BODY_MAX_BYTES).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(refusal::too_large()),
        Ok(Err(_)) => Err(refusal::broken_body()),
        Err(_) => Err(refusal::late_body()),
    }
}

/// What every answer of this path carries.
fn common(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.append(header::VARY, HeaderValue::from_static("accept"));
}
