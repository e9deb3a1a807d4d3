//! Router of a gateway without a port, over fake services whose replies a function returns.

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

/// Gateway of a test, called without a network.
pub struct TestGateway {
    pub router: Router,
    pub keys: SigningKeys,
    pub user: UserId,
    /// Service methods that were called, in order.
    pub calls: Arc<Mutex<Vec<String>>>,
}

impl TestGateway {
    /// Creates a gateway whose services are unavailable.
    pub fn alone() -> Self {
        Self::new(true, unavailable)
    }

    /// Creates a gateway over fake services with this handler.
    pub fn new(introspection: bool, handler: FakeHandler) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        Self::over(introspection, everywhere(&fake_service(handler, calls.clone())), calls)
    }

    /// Creates a gateway with rate limits over fake services. It trusts proxies in 10.0.0.0/8, as every test
    /// gateway does.
    pub fn limited(limits: RateLimits, handler: FakeHandler) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        Self::within(limits, true, everywhere(&fake_service(handler, calls.clone())), calls)
    }

    /// Creates a gateway whose services accept every call and never reply.
    pub fn hanging() -> Self {
        let hang = service_fn(|_: Request<tonic::body::Body>| std::future::pending());
        Self::over(true, everywhere(&BoxCloneSyncService::new(hang)), Arc::default())
    }

    /// Creates a gateway over these services. They record the methods that are called in `calls`.
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
            allowed_origins: "https://app.example".parse::<Origins>().expect("a valid origin"),
            introspection,
            trusted_documents: None,
            max_sockets_per_user: 20,
            max_anonymous_sockets: 100,
            answer_memory_bytes: 256 << 20,
            drain_window: Duration::from_millis(100),
            operation_deadline: crate::operation::OPERATION_LIMIT,
            limits,
            limiter: Limiter::local(),
            trusted_proxies: "10.0.0.0/8".parse().expect("a valid network"),
        };
        let log = Log::Local(Local::new(Vec::new()));
        let app = App::new(settings, peers, guard, &service_token, log, Readiness::new());
        // `App::run`, which asks auth for them, does not run.
        app.revocation.revoked.set_complete();
        Self { router: app.router(), keys, user: UserId::now(), calls }
    }

    /// Signs an access token of [`TestGateway::user`]. A negative lifetime gives an expired token.
    pub fn token(&self, lifetime_s: i64) -> String {
        self.token_of(SessionId::now(), lifetime_s)
    }

    /// Signs an access token of a session of [`TestGateway::user`].
    pub fn token_of(&self, session: SessionId, lifetime_s: i64) -> String {
        let now_s = crate::client::caller::now_s();
        self.keys.sign(&Claims::new("tidings", self.user.uuid(), session.uuid(), now_s, lifetime_s))
    }

    /// Sends a request and collects its response.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("the router cannot fail");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body is complete").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("the body is UTF-8");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, text, json }
    }

    /// Posts JSON as an anonymous client. Any status is accepted.
    pub async fn post(&self, body: &Value) -> Answer {
        self.send(post(&body.to_string()).body(Body::from(body.to_string())).expect("a valid request")).await
    }

    /// Executes a document as [`TestGateway::user`] and returns the GraphQL response.
    pub async fn ask(&self, document: &str) -> Value {
        self.ask_with(&json!({ "query": document })).await
    }

    /// Executes a GraphQL request as [`TestGateway::user`] and returns the GraphQL response.
    pub async fn ask_with(&self, body: &Value) -> Value {
        let body = body.to_string();
        let request = post(&body).header(header::AUTHORIZATION, format!("Bearer {}", self.token(300)));
        let answer = self.send(request.body(Body::from(body)).expect("a valid request")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
        answer.json
    }
}

/// Creates a request that posts this JSON. The caller adds the body.
pub fn post(body: &str) -> axum::http::request::Builder {
    Request::post("/graphql")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len().to_string())
}

/// Response with its whole body. `json` is null if the body is not JSON.
pub struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// Returns the code of the first error, or `none`.
    pub fn code(&self) -> &str {
        self.json["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }
}
