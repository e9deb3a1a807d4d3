//! For tests: the gateway over services that are played by a function, and people with real tokens.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use events::{Local, Log};
use http_body_util::{BodyExt, StreamBody};
use limit::Limiter;
use prost::Message;
use proto::{Peer, SessionId, UserId};
use serde_json::{Value, json};
use telemetry::Readiness;
use tonic::Status;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{App, Settings, origins::Origins, peers::Peers, rates::Limits};

/// What a played service answers: by the method's name and the request's bytes, the reply's.
pub type Play = fn(&str, &[u8]) -> Result<Vec<u8>, Status>;

/// Every service is away.
pub fn away(_: &str, _: &[u8]) -> Result<Vec<u8>, Status> {
    Err(Status::unavailable("away"))
}

/// A reply of a played service.
pub fn reply(message: &impl Message) -> Result<Vec<u8>, Status> {
    Ok(message.encode_to_vec())
}

/// The gateway of a test.
pub struct Fixture {
    pub router: Router,
    pub keys: SigningKeys,
    pub user: UserId,
    /// The methods that were called, in order.
    pub calls: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    /// With services that are away.
    pub fn alone() -> Self {
        Self::new(true, away)
    }

    /// With services that are played.
    pub fn new(introspection: bool, play: Play) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        Self::over(introspection, everywhere(&played(play, calls.clone())), calls)
    }

    /// With services that are played, as often as the limits have it, behind a proxy at 10.0.0.0/8.
    pub fn limited(limits: Limits, play: Play) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        Self::within(limits, true, everywhere(&played(play, calls.clone())), calls)
    }

    /// With services that take every call and never answer.
    pub fn hanging() -> Self {
        let hang = service_fn(|_: Request<tonic::body::Body>| std::future::pending());
        Self::over(true, everywhere(&BoxCloneSyncService::new(hang)), Arc::default())
    }

    /// Over these services, whose calls somebody writes down.
    pub fn over(introspection: bool, peers: Peers, calls: Arc<Mutex<Vec<String>>>) -> Self {
        Self::within(Limits::default(), introspection, peers, calls)
    }

    fn within(limits: Limits, introspection: bool, peers: Peers, calls: Arc<Mutex<Vec<String>>>) -> Self {
        let keys = SigningKeys::generate();
        let jwks = keys.jwks();
        let set = KeySet::new(move || std::future::ready(Ok::<_, Infallible>(jwks.clone())));
        let service_token = ServiceToken::generate();
        let guard = Guard::new(set, service_token.clone(), "tidings");
        let settings = Settings {
            allowed_origins: "https://app.example".parse::<Origins>().expect("an origin"),
            introspection,
            trusted_documents: None,
            max_sockets_per_user: 20,
            max_anonymous_sockets: 100,
            drain_window: Duration::from_millis(100),
            access_token_ttl: Duration::from_secs(300),
            operation_deadline: crate::pipeline::OPERATION_LIMIT,
            limits,
            limiter: Limiter::local(),
            trusted_proxies: "10.0.0.0/8".parse().expect("a network"),
        };
        let log = Log::Local(Local::new(Vec::new()));
        let app = App::new(settings, peers, guard, &service_token, log, Readiness::new());
        Self { router: app.router(), keys, user: UserId::now(), calls }
    }

    /// An access token of this fixture's person, whose life may have been over for long.
    pub fn token(&self, lifetime_s: i64) -> String {
        let now_s = crate::viewer::now_s();
        let session = SessionId::now().uuid();
        self.keys.sign(&Claims::new("tidings", self.user.uuid(), session, now_s, lifetime_s))
    }

    /// Sends a request.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, text, json }
    }

    /// Posts JSON and takes any answer.
    pub async fn post(&self, body: &Value) -> Answer {
        self.send(post(&body.to_string()).body(Body::from(body.to_string())).expect("a request")).await
    }

    /// The answer to a document of this fixture's person.
    pub async fn ask(&self, document: &str) -> Value {
        self.ask_with(&json!({ "query": document })).await
    }

    /// The answer to a request of this fixture's person.
    pub async fn ask_with(&self, body: &Value) -> Value {
        let body = body.to_string();
        let request = post(&body).header(header::AUTHORIZATION, format!("Bearer {}", self.token(300)));
        let answer = self.send(request.body(Body::from(body)).expect("a request")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
        answer.json
    }
}

/// One service that plays all three.
pub fn everywhere(peer: &Peer) -> Peers {
    Peers::new(peer.clone(), peer.clone(), peer.clone())
}

/// A post of JSON, its body to come.
pub fn post(body: &str) -> axum::http::request::Builder {
    Request::post("/graphql")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len().to_string())
}

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// The code of the first error.
    pub fn code(&self) -> &str {
        self.json["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }
}

/// A service that is played, and counted.
pub fn played<P>(play: P, calls: Arc<Mutex<Vec<String>>>) -> Peer
where
    P: Fn(&str, &[u8]) -> Result<Vec<u8>, Status> + Clone + Send + Sync + 'static,
{
    BoxCloneSyncService::new(service_fn(move |request: Request<tonic::body::Body>| {
        let (play, calls) = (play.clone(), calls.clone());
        async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            calls.lock().expect("not poisoned").push(method.clone());
            let bytes = request.into_body().collect().await.expect("a request").to_bytes();
            // A frame has a byte of flags and four of length before its message.
            let answer = play(&method, bytes.get(5..).unwrap_or_default());
            Ok(answer.map_or_else(Status::into_http, framed))
        }
    }))
}

/// An answer with this message.
pub fn framed(message: Vec<u8>) -> Response<tonic::body::Body> {
    let length = u32::try_from(message.len()).expect("a small message");
    let frame = [&[0][..], &length.to_be_bytes(), &message].concat();
    let trailers = axum::http::HeaderMap::from_iter([(
        axum::http::HeaderName::from_static("grpc-status"),
        axum::http::HeaderValue::from_static("0"),
    )]);
    let frames = [http_body::Frame::data(bytes::Bytes::from(frame)), http_body::Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(tonic::body::Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().expect("a header"));
    response
}
