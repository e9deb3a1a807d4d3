//! GraphQL over HTTP, `POST` and `GET /graphql`: queries and mutations as the specification of that name has them, one or
//! a batch. Who asks and what is asked are checked before anything is executed.

mod answer;
mod media;
#[cfg(test)]
mod rate_tests;
mod request;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

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
    address::Address,
    documents::affordable,
    error::{Code, Error, Rejected},
    pipeline::{Admitted, Incoming, Pipeline},
    rates::Asker,
    viewer::Authenticator,
};

use answer::{Answer, Executed, refusal};
use media::Media;
use request::Asked;

/// The most bytes of a request's body.
pub const BODY_MAX_BYTES: usize = 1_000_000;
/// How long it may take to come, so that nobody holds a connection by sending it a byte at a time.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    /// Admits and executes.
    pub pipeline: Pipeline,
    /// Says who asks.
    pub authenticator: Arc<Authenticator>,
}

/// `POST /graphql`.
pub async fn post(
    State(door): State<Door>,
    Extension(call): Extension<Call>,
    Extension(Address(address)): Extension<Address>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let media = match Media::accepted(&headers) {
        Ok(media) => media,
        Err(refused) => return refused.into(),
    };
    if !media::is_json(&headers) {
        return refusal::unsupported_type().into();
    }
    let viewer = match door.authenticator.header(&headers).await {
        Ok(viewer) => viewer,
        Err(error) => return Answer::refused(media, Rejected::of(error, &call.request_id)).into(),
    };
    let asker = Asker { viewer, address };
    let bytes = match read(&headers, body).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused.into(),
    };
    match request::parse(&bytes) {
        Ok(Asked::One(incoming)) => door.one(media, incoming, asker, call, Method::POST).await.into(),
        Ok(Asked::Batch(batch)) => door.batch(media, batch, asker, call).await.into(),
        Err(error) => Answer::refused(media, error.into()).into(),
    }
}

/// `GET /graphql`: queries alone, so that nothing is changed by following a link.
pub async fn get(
    State(door): State<Door>,
    Extension(call): Extension<Call>,
    Extension(Address(address)): Extension<Address>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let media = match Media::accepted(&headers) {
        Ok(media) => media,
        Err(refused) => return refused.into(),
    };
    let viewer = match door.authenticator.header(&headers).await {
        Ok(viewer) => viewer,
        Err(error) => return Answer::refused(media, Rejected::of(error, &call.request_id)).into(),
    };
    match request::parse_query(uri.query().unwrap_or_default()) {
        Ok(incoming) => door.one(media, incoming, Asker { viewer, address }, call, Method::GET).await.into(),
        Err(error) => Answer::refused(media, error.into()).into(),
    }
}

impl Door {
    async fn one(&self, media: Media, incoming: Incoming, asker: Asker, call: Call, method: Method) -> Answer {
        let admitted = match self.pipeline.admit(incoming, &asker, &call).await {
            Ok(admitted) => admitted,
            Err(rejected) => return Answer::rejected(media, rejected),
        };
        match admitted.kind() {
            OperationType::Mutation if method == Method::GET => refusal::mutation_by_get(media),
            OperationType::Subscription => Answer::refused(media, no_stream().into()),
            _ => Answer::executed(media, self.pipeline.execute(&admitted, asker.viewer, call).await),
        }
    }

    /// Every operation is admitted before the first is executed; one that is refused is answered in its place. Where one
    /// comes too soon, none is executed: the client sends the batch again.
    async fn batch(&self, media: Media, batch: Vec<Incoming>, asker: Asker, call: Call) -> Answer {
        let mut admitted = Vec::with_capacity(batch.len());
        for incoming in batch {
            match self.pipeline.admit(incoming, &asker, &call).await.and_then(streamless) {
                Err(limited) if limited.code() == Code::RateLimited => return Answer::refused(media, limited),
                answer => admitted.push(answer),
            }
        }
        let cost = admitted.iter().flatten().map(Admitted::cost).sum();
        if let Err(error) = affordable(cost) {
            return Answer::refused(media, error.into());
        }
        let answers = admitted.into_iter().map(|admitted| {
            let (viewer, call) = (asker.viewer.clone(), call.clone());
            async move {
                match admitted {
                    Ok(admitted) => Executed::Answered(self.pipeline.execute(&admitted, viewer, call).await),
                    Err(rejected) => Executed::Refused(rejected),
                }
            }
        });
        Answer::batch(media, join_all(answers).await)
    }
}

fn streamless(admitted: Admitted) -> Result<Admitted, Rejected> {
    if admitted.kind() == OperationType::Subscription { Err(no_stream().into()) } else { Ok(admitted) }
}

fn no_stream() -> Error {
    Error::new(Code::BadRequest, "subscriptions run over WebSocket, on the same path")
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
