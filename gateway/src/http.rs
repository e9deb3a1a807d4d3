//! GraphQL over HTTP, `POST` and `GET /graphql`: queries and mutations, single or in a batch, as in
//! the GraphQL over HTTP specification, and subscriptions as streams (`stream`).
//!
//! A request is authenticated and all its operations are admitted before the first one is executed. A
//! malformed or rejected request has no effect.

#[cfg(test)]
mod allocation_tests;
mod answer;
#[cfg(test)]
mod async_graphql_axum_tests;
#[cfg(test)]
mod encoding_tests;
mod media;
mod multipart_form;
#[cfg(test)]
mod multipart_form_tests;
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
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    response::Response,
};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Limited};
use telemetry::Call;
use tower_http::decompression::RequestDecompressionLayer;

use crate::{
    client::{Client, address::Address, caller::Authenticator, user_agent::UserAgent},
    connections::{
        Connections,
        answer_budget::{Account, Reservation},
    },
    error::{Code, Error, Rejection},
    operation::{
        Admitted, Pipeline, answer_max_bytes, document_cache::check_cost, request::OperationRequest,
    },
    subscription::Subscriptions,
};

use answer::{Answer, Outcome, rejections};
use media::{Accepted, BodyFormat};
use request::RequestBody;

/// Largest request body, in bytes.
pub const BODY_MAX_BYTES: usize = 1_000_000;
/// Time in which the whole body must arrive. Stops clients that hold a connection by sending byte by byte.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Header of graphql-sse's single connection mode, which is not supported.
const STREAM_TOKEN: &str = "x-graphql-event-stream-token";
/// Header in which a reconnecting event source sends the cursor of the last event that it received.
const LAST_EVENT_ID: &str = "last-event-id";

/// State of the HTTP handlers. Shared behind one pointer, because the router clones it several times for each
/// request.
pub struct Endpoint {
    /// Admits and executes operations.
    pub pipeline: Pipeline,
    /// Authenticates requests.
    pub authenticator: Arc<Authenticator>,
    /// Opens subscriptions.
    pub subscriptions: Subscriptions,
    /// Quotas, revocation and drain of streams.
    pub connections: Connections,
}

/// Everything about an authenticated request except its operations.
struct RequestContext {
    accepted: Accepted,
    client: Client,
    /// Cursor of the last event that the client received before its stream broke.
    cursor: Option<String>,
    call: Call,
    method: Method,
}

/// Handles `POST /graphql`.
pub async fn post(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(call): Extension<Call>,
    Extension(Address(address)): Extension<Address>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    let accepted = Accepted::negotiate(&headers)?;
    let format = BodyFormat::of(&headers).ok_or_else(rejections::unsupported_type)?;
    if !is_plain(&headers) {
        return Err(rejections::unsupported_encoding().into());
    }
    let context = endpoint.authenticate(&headers, accepted, address, call, Method::POST).await?;
    let bytes = read_body(&headers, body).await?;
    let body = match format {
        BodyFormat::Json => request::parse(&bytes),
        BodyFormat::Form => multipart_form::parse(&headers, bytes.to_vec()).await,
    };
    let body = body.map_err(|error| Answer::request_rejected(accepted.media(), error.into()))?;
    Ok(match body {
        RequestBody::Single(incoming) => endpoint.single(context, incoming).await,
        RequestBody::Batch(batch) => endpoint.batch(context, batch).await?,
    })
}

/// Handles `GET /graphql`: queries and subscriptions only, so following a link changes nothing.
pub async fn get(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(call): Extension<Call>,
    Extension(Address(address)): Extension<Address>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Response> {
    let accepted = Accepted::negotiate(&headers)?;
    let context = endpoint.authenticate(&headers, accepted, address, call, Method::GET).await?;
    let incoming = request::parse_query(uri.query().unwrap_or_default())
        .map_err(|error| Answer::request_rejected(accepted.media(), error.into()))?;
    Ok(endpoint.single(context, incoming).await)
}

/// Rejects `PUT` and `DELETE /graphql`, the single connection mode of graphql-sse. One stream for several
/// operations would bind a client to one gateway.
pub async fn single_connection() -> Response {
    rejections::single_connection_method().into()
}

impl Endpoint {
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        accepted: Accepted,
        address: IpAddr,
        call: Call,
        method: Method,
    ) -> Result<RequestContext, Answer> {
        if headers.contains_key(STREAM_TOKEN) {
            return Err(rejections::single_connection_token());
        }
        let caller = self.authenticator.header(headers).await;
        let caller = caller.map_err(|error| {
            Answer::request_rejected(accepted.media(), Rejection::of(error, &call.request_id))
        })?;
        let cursor =
            headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok(RequestContext {
            accepted,
            client: Client { caller, address, user_agent: UserAgent::of(headers) },
            cursor: cursor.filter(|cursor| !cursor.is_empty()),
            call,
            method,
        })
    }

    async fn single(&self, context: RequestContext, incoming: OperationRequest) -> Response {
        let accepted = context.accepted;
        let media = accepted.media();
        let admitted = match self.pipeline.admit(incoming, &context.client, &context.call).await {
            Ok(admitted) => admitted,
            Err(rejection) => return stream::rejected(accepted, rejection),
        };
        match (admitted.kind(), accepted) {
            (OperationType::Mutation, _) if context.method == Method::GET => {
                rejections::mutation_by_get(media).into()
            }
            (OperationType::Subscription, _) => match accepted.format() {
                Some(format) => self.stream(context, format, admitted),
                None => Answer::request_rejected(media, needs_stream().into()).into(),
            },
            (kind, _) => {
                let reservation = match self.reserve(&context.client, admitted.answer_max_bytes()).await {
                    Ok(reservation) => reservation,
                    Err(error) => return stream::rejected(accepted, error.into()),
                };
                let is_mutation = kind == OperationType::Mutation;
                let executed = self.pipeline.answer(&admitted, context.client.caller, context.call).await;
                let outcome = Outcome::from(executed);
                let answers = self.connections.answers();
                match (accepted, outcome.limited()) {
                    (Accepted::Stream(_), Some(limited)) => stream::rejected(accepted, limited),
                    (Accepted::Stream(format), None) => {
                        let result = stream::single_result(format, outcome);
                        stream::charged(format, result, answers, reservation, is_mutation)
                    }
                    (Accepted::Single(..), _) => {
                        Answer::executed(media, outcome).charged(answers, reservation, is_mutation)
                    }
                }
            }
        }
    }

    /// Reserves room for an answer of at most this many bytes.
    ///
    /// # Errors
    /// UNAVAILABLE if there is no room in time.
    async fn reserve(&self, client: &Client, bytes: usize) -> Result<Reservation, Error> {
        self.connections.answers().budget().reserve(Account::of(client), bytes).await
    }

    /// Executes a batch concurrently, after all its operations were admitted. A rejected operation has its
    /// errors at its position. If one exceeds a rate limit, none is executed, and the client repeats the
    /// whole batch.
    async fn batch(&self, context: RequestContext, batch: Vec<OperationRequest>) -> Result<Response, Answer> {
        let Accepted::Single(media, _) = context.accepted else { return Err(rejections::not_acceptable()) };
        let mut admitted = Vec::with_capacity(batch.len());
        for incoming in batch {
            let result = self.pipeline.admit(incoming, &context.client, &context.call).await;
            match result.and_then(reject_subscription) {
                Err(limited) if limited.code() == Code::RateLimited => {
                    return Err(Answer::request_rejected(media, limited));
                }
                result => admitted.push(result),
            }
        }
        let cost = admitted.iter().flatten().map(Admitted::cost).sum();
        if let Err(error) = check_cost(cost) {
            return Err(Answer::request_rejected(media, error.into()));
        }
        let reservation = self.reserve(&context.client, answer_max_bytes(cost)).await;
        let reservation = reservation.map_err(|error| Answer::request_rejected(media, error.into()))?;
        let mut kinds = admitted.iter().flatten().map(Admitted::kind);
        let is_mutation = kinds.any(|kind| kind == OperationType::Mutation);
        let outcomes = admitted.into_iter().map(|admitted| {
            let caller = context.client.caller.clone();
            let call = context.call.clone();
            async move {
                match admitted {
                    Ok(admitted) => self.pipeline.answer(&admitted, caller, call).await.into(),
                    Err(rejection) => Outcome::Rejected(rejection),
                }
            }
        });
        let answer = Answer::batch(media, join_all(outcomes).await);
        Ok(answer.charged(self.connections.answers(), reservation, is_mutation))
    }
}

fn reject_subscription(admitted: Admitted) -> Result<Admitted, Rejection> {
    if admitted.kind() == OperationType::Subscription { Err(needs_stream().into()) } else { Ok(admitted) }
}

fn needs_stream() -> Error {
    let message = "a subscription requires a WebSocket on the same path, or a separate request with \
        `Accept: text/event-stream` or `Accept: multipart/mixed;subscriptionSpec=1.0`";
    Error::new(Code::BadRequest, message)
}

/// Decompresses the bodies of requests. An encoding other than gzip stays in the headers.
pub fn decompression() -> RequestDecompressionLayer {
    RequestDecompressionLayer::new().pass_through_unaccepted(true)
}

/// Returns true if a body needs no further decompression.
fn is_plain(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Reads a body of at most [`BODY_MAX_BYTES`], counted after decompression, within [`BODY_TIMEOUT`]. A body
/// with a larger `Content-Length` is rejected unread.
async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Answer> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_MAX_BYTES as u64) {
        return Err(rejections::too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX_BYTES).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(rejections::too_large()),
        Ok(Err(_)) => Err(rejections::broken_body()),
        Err(_) => Err(rejections::late_body()),
    }
}

/// Sets the headers that every response of `/graphql` has.
fn set_common_headers(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.append(header::VARY, HeaderValue::from_static("accept"));
}
