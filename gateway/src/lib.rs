//! GraphQL gateway over the services auth, dialog and counter: queries and mutations over HTTP and
//! WebSocket, and live subscriptions over WebSocket, server-sent events and multipart responses.
//!
//! A request passes `client` (address, caller, rate limits), `operation` (admission and execution) and
//! `schema` (resolvers that call the services). `subscription` reads the event log into the `hub`, which
//! sends each change to its subscribers.

mod client;
mod connections;
mod error;
mod http;
mod hub;
mod operation;
mod pages;
mod peers;
mod schema;
mod sdl;
mod seen_versions;
mod socket;
mod subscription;
#[cfg(test)]
mod testing;
mod upstream;
#[cfg(test)]
mod upstream_tests;
mod version;

use std::{sync::Arc, time::Duration};

use access::{Guard, ServiceToken};
use axum::{
    Router,
    handler::Handler,
    middleware::{from_fn, from_fn_with_state},
    routing,
};
use events::Log;
use limit::Limiter;
use telemetry::Readiness;
use tokio_util::sync::CancellationToken;
use tower_http::{
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use crate::{
    client::{
        address, caller::Authenticator, rate_limits::RateLimiter, revocation::Revocation,
        revoked_sessions::RevokedSessions,
    },
    connections::{Connections, answer_budget::AnswerBudget, held_answers::HeldAnswers, quota::Quota},
    http::Endpoint,
    hub::{Hubs, Service},
    operation::Pipeline,
    seen_versions::SeenVersions,
    socket::Sockets,
    subscription::{Subscriptions, log_reader::LogReader},
};

pub use client::{address::TrustedProxies, origins::Origins, rate_limits::RateLimits};
pub use connections::Written;
pub use operation::{
    OPERATION_LIMIT,
    persisted_queries::{InvalidList, TrustedDocuments},
};
pub use pages::are_built as pages_are_built;
pub use peers::Peers;

/// Parsers of hostile input and the hubs, for the fuzz targets and the model of the saga
/// (tests/saga_model) only.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::{
        error::{Code, Error},
        http::request::{self, BATCH_MAX, RequestBody},
        hub::{messages, unread},
        operation::{
            document_cache::{DocumentCache, PreparedOperation},
            query_limits::COMPLEXITY_MAX,
            response_shape::EMPTY_OBJECT,
        },
        schema::{build, cursor::List},
        socket::{
            READ_BUFFER,
            protocol::{Action, FRAME_MAX, InitRejection, Input, OPERATIONS_MAX, Operation, Protocol},
            subprotocol::Subprotocol,
            wire::Event,
        },
        version::Version,
    };
}

/// Time that a browser may cache the answer to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Smallest response that is compressed, in bytes. A smaller one fits into one packet anyway.
const COMPRESSED_MIN_BYTES: u64 = 1024;

/// Settings of a gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origins of the web pages that may call the gateway.
    pub allowed_origins: Origins,
    /// Allows introspection, "did you mean" hints, the SDL and the IDE pages.
    pub introspection: bool,
    /// Documents that may run beside those of the page at `/`. `None` allows every document.
    pub trusted_documents: Option<TrustedDocuments>,
    /// Most sockets and streams of one user at this gateway.
    pub max_sockets_per_user: usize,
    /// Most sockets of clients that have not authenticated yet, at this gateway.
    pub max_anonymous_sockets: usize,
    /// Most bytes of answers that clients have not taken yet, at this gateway.
    pub answer_memory_bytes: usize,
    /// Time over which sockets and streams are closed at shutdown.
    pub drain_window: Duration,
    /// Deadline of an operation, at least one second.
    pub operation_deadline: Duration,
    /// Rate limits.
    pub limits: RateLimits,
    /// Counts the rate limits, in this process or in Redis.
    pub limiter: Limiter,
    /// Proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: TrustedProxies,
}

/// A gateway. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct App {
    settings: Settings,
    endpoint: Arc<Endpoint>,
    sockets: Sockets,
    log_reader: LogReader,
    revocation: Revocation,
    log: Log,
    readiness: Readiness,
}

impl App {
    /// Creates a gateway over the services at these peers. `guard` verifies access tokens;
    /// `service_token` authorises the calls that the gateway makes on its own behalf. [`App::run`] must
    /// run for subscriptions to receive changes.
    pub fn new(
        settings: Settings,
        peers: Peers,
        guard: Guard,
        service_token: &ServiceToken,
        log: Log,
        readiness: Readiness,
    ) -> Self {
        count_from_zero();
        let peers = peers.limited(&settings.limits);
        let rate_limiter = RateLimiter::new(settings.limits, settings.limiter.clone());
        let seen_versions = SeenVersions::default();
        let revoked = RevokedSessions::default();
        let quota = Quota::new(settings.max_sockets_per_user, settings.max_anonymous_sockets);
        let answers = HeldAnswers::new(AnswerBudget::new(settings.answer_memory_bytes));
        let connections = Connections::new(quota, revoked.clone(), answers.clone(), settings.drain_window);
        let service = Service::new(peers, service_token);
        let hubs = Hubs::new(&service);
        let trusted = settings.trusted_documents.clone().map(|trusted| trusted.and(&pages::documents()));
        let pipeline = Pipeline::new(
            service.clone(),
            seen_versions.clone(),
            rate_limiter,
            revoked.clone(),
            settings.introspection,
            trusted,
        );
        let pipeline = pipeline.with_deadline(settings.operation_deadline);
        let subscriptions =
            Subscriptions::new(pipeline.clone(), hubs.clone(), seen_versions, answers.budget().clone());
        let authenticator = Arc::new(Authenticator::new(guard, revoked.clone()));
        let sockets = Sockets::new(socket::Services {
            pipeline: pipeline.clone(),
            subscriptions: subscriptions.clone(),
            authenticator: authenticator.clone(),
            origins: settings.allowed_origins.clone(),
            connections: connections.clone(),
        });
        let endpoint = Arc::new(Endpoint { pipeline, authenticator, subscriptions, connections });
        let log_reader = LogReader { hubs, revoked: revoked.clone(), component: readiness.register("log") };
        let revocation = Revocation { revoked, service, component: readiness.register("revoked sessions") };
        Self { settings, endpoint, sockets, log_reader, revocation, log, readiness }
    }

    /// Returns the routes of the gateway's public port.
    pub fn router(&self) -> Router {
        let graphql = routing::get(http::get).post(http::post.layer(http::decompression()));
        // Methods of graphql-sse's single connection mode: answered with the reason why it is not supported.
        let graphql = graphql.put(http::single_connection).delete(http::single_connection);
        let graphql = graphql.with_state(self.endpoint.clone());
        let graphql = graphql.layer(from_fn_with_state(self.sockets.clone(), socket::handshake));
        let graphql = graphql.layer(from_fn_with_state(self.settings.trusted_proxies.clone(), address::find));
        let router =
            Router::new().route("/graphql", graphql).merge(telemetry::ops::health(self.readiness.clone()));
        let router = router.merge(pages::routes(self.settings.introspection));
        let router = if self.settings.introspection { router.merge(sdl::routes()) } else { router };
        router.layer(compression()).layer(self.cors()).layer(from_fn(telemetry::http::access_log))
    }

    /// Follows the event log, feeds the hubs and asks auth for ended sessions. After `shutdown` it drains the
    /// sockets and streams, waits for running mutations and returns.
    pub async fn run(&self, shutdown: CancellationToken) {
        let drained = CancellationToken::new();
        // The log is followed until the last socket is closed: clients receive changes during the drain too.
        let drain = async {
            shutdown.cancelled().await;
            self.endpoint.connections.drain().await;
            drained.cancel();
        };
        let log_reader = self.log_reader.clone().run(self.log.clone(), drained.clone());
        let held_answers = self.endpoint.connections.answers().run(&drained);
        let revocation = self.revocation.clone().run(drained.clone());
        tokio::join!(drain, log_reader, revocation, self.log_reader.hubs.run(&drained), held_answers);
        self.endpoint.pipeline.finish().await;
    }

    /// CORS for the allowed origins. Credentials stay disallowed: the gateway uses no cookies, so
    /// another page can act for a user only if it has the user's token.
    fn cors(&self) -> CorsLayer {
        let origins = self.settings.allowed_origins.clone();
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(move |origin, _| origins.allow(origin)))
            .allow_methods([axum::http::Method::GET, axum::http::Method::POST])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([axum::http::HeaderName::from_static("x-request-id")])
            .max_age(PREFLIGHT_AGE)
    }
}

/// Starts the counters of refusals and failures at 0, so that the first one is an increase, and the gauges.
fn count_from_zero() {
    telemetry::panic::count_from_zero(&["document", "operation", "resolver"]);
    for limit in ["requests", "sign_in"] {
        metrics::counter!("gateway_rate_limited_total", "limit" => limit).increment(0);
    }
    metrics::counter!("gateway_queries_refused_total").increment(0);
    metrics::counter!("gateway_answers_refused_total").increment(0);
    metrics::gauge!("gateway_streams").increment(0.0);
    metrics::gauge!("gateway_hub_dialogs").increment(0.0);
    metrics::gauge!("gateway_hub_users").increment(0.0);
}

/// Compression of whole responses. Streams are excluded: their frames would wait in the compressor's buffer.
fn compression() -> CompressionLayer<impl Predicate + Send + Sync + 'static> {
    let whole_responses = SizeAbove::new(COMPRESSED_MIN_BYTES)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::SSE)
        .and(NotForContentType::const_new("multipart/mixed"));
    CompressionLayer::new().compress_when(whole_responses)
}
