//! The router of a gateway without a port, over fake services that a function answers for.

use std::{convert::Infallible, sync::Arc, time::Duration};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use events::{Local, Log};
use http_body_util::BodyExt;
use limit::Limiter;
use parking_lot::Mutex;
use proto::{SessionId, UserId};
use serde_json::{Value, json};
use telemetry::Readiness;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::{FakeHandler, everywhere, fake_service, unavailable};
use crate::{
    App, Settings,
    client::{origins::Origins, rate_limits::RateLimits},
    peers::Peers,
};

/// The gateway of a test.
pub struct TestGateway {
    pub router: Router,
    pub keys: SigningKeys,
    pub user: UserId,
    /// The methods that were called, in order.
    pub calls: Arc<Mutex<Vec<String>>>,
}

impl TestGateway {
    /// With services that are away.
    pub fn alone() -> Self {
        Self::new(true, unavailable)
    }

    /// With services that are fake_service.
    pub fn new(introspection: bool, play: FakeHandler) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        Self::over(introspection, everywhere(&fake_service(play, calls.clone())), calls)
    }

    /// With services that are fake_service, as often as the limits have it, behind a proxy at 10.0.0.0/8.
    pub fn limited(limits: RateLimits, play: FakeHandler) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        Self::within(limits, true, everywhere(&fake_service(play, calls.clone())), calls)
    }

    /// With services that take every call and never answer.
    pub fn hanging() -> Self {
        let hang = service_fn(|_: Request<tonic::body::Body>| std::future::pending());
        Self::over(true, everywhere(&BoxCloneSyncService::new(hang)), Arc::default())
    }

    /// Over these services, whose calls somebody writes down.
    pub fn over(introspection: bool, peers: Peers, calls: Arc<Mutex<Vec<String>>>) -> Self {
        Self::within(RateLimits::default(), introspection, peers, calls)
    }

    fn within(limits: RateLimits, introspection: bool, peers: Peers, calls: Arc<Mutex<Vec<String>>>) -> Self {
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
            operation_deadline: crate::operation::OPERATION_LIMIT,
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
        let now_s = crate::client::caller::now_s();
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
