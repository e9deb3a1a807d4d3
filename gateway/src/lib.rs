//! The gateway: GraphQL for people, over the services that hold the data. A hub pushes what changes to those who watch.

pub mod address;
pub mod batch;
pub mod check;
pub mod cursor;
pub mod documents;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod floor;
pub mod http;
pub mod hub;
pub mod ide;
pub mod limits;
pub mod live;
pub mod loaders;
pub mod origins;
pub mod peers;
pub mod persisted;
pub mod pipeline;
pub mod rates;
pub mod scan;
pub mod schema;
pub mod sdl;
pub mod sessions;
pub mod shape;
pub mod socket;
#[cfg(test)]
mod stage;
pub mod tail;
pub mod turn;
pub mod upstream;
#[cfg(test)]
mod upstream_tests;
pub mod variables;
pub mod version;
pub mod viewer;

use std::{sync::Arc, time::Duration};

use access::{Guard, ServiceToken};
use axum::{
    Router,
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
    address::TrustedProxies,
    floor::Floor,
    http::Door,
    hub::{Hubs, Service},
    live::Live,
    origins::Origins,
    peers::Peers,
    persisted::TrustedDocuments,
    pipeline::Pipeline,
    rates::{Limits, Rates},
    sessions::Revoked,
    socket::Sockets,
    tail::Reader,
    viewer::Authenticator,
};

/// How long a browser may remember what a preflight has said.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Below this many bytes an answer is not compressed: it would be sent in one packet anyway.
const COMPRESSED_MIN_BYTES: u64 = 1024;

/// What the gateway is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which web pages may come.
    pub allowed_origins: Origins,
    /// Whether clients may read the schema; the IDE page and suggestions with it.
    pub introspection: bool,
    /// The only documents that run, where there is a list.
    pub trusted_documents: Option<TrustedDocuments>,
    /// How many sockets a person may have at this gateway.
    pub max_sockets_per_user: usize,
    /// How many sockets may be open at this gateway before their people have signed in.
    pub max_anonymous_sockets: usize,
    /// The time over which sockets are closed when the gateway stops.
    pub drain_window: Duration,
    /// How long access tokens live: for so long a revoked session must be remembered.
    pub access_token_ttl: Duration,
    /// How long an operation may take: a second at least.
    pub operation_deadline: Duration,
    /// How often somebody may come.
    pub limits: Limits,
    /// Where that is counted.
    pub limiter: Limiter,
    /// Whose word is taken about where clients are.
    pub trusted_proxies: TrustedProxies,
}

/// The gateway. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct App {
    settings: Settings,
    door: Door,
    sockets: Sockets,
    reader: Reader,
    log: Log,
    readiness: Readiness,
}

impl App {
    /// Over these services, for people whom this guard believes. What changes is read from the log; what the gateway asks
    /// for itself it asks with the service token.
    pub fn new(
        settings: Settings,
        peers: Peers,
        guard: Guard,
        service_token: &ServiceToken,
        log: Log,
        readiness: Readiness,
    ) -> Self {
        let peers = peers.limited(&settings.limits);
        let rates = Rates::new(settings.limits, settings.limiter.clone());
        let (floor, revoked) = (Floor::default(), Revoked::new(settings.access_token_ttl));
        let service = Service::new(peers.clone(), service_token);
        let hubs = Hubs::new(&service);
        let trusted = settings.trusted_documents.clone();
        let pipeline = Pipeline::new(peers, floor.clone(), rates, settings.introspection, trusted);
        let pipeline = pipeline.with_limit(settings.operation_deadline);
        let live = Live::new(pipeline.clone(), hubs.clone(), floor);
        let authenticator = Arc::new(Authenticator::new(guard, revoked.clone()));
        let sockets = Sockets::new(socket::Parts {
            pipeline: pipeline.clone(),
            live,
            authenticator: authenticator.clone(),
            revoked: revoked.clone(),
            origins: settings.allowed_origins.clone(),
            each_max: settings.max_sockets_per_user,
            anonymous_max: settings.max_anonymous_sockets,
            drain_window: settings.drain_window,
        });
        let door = Door { pipeline, authenticator, sockets: sockets.clone() };
        let reader = Reader { hubs, revoked, service, component: readiness.register("log") };
        Self { settings, door, sockets, reader, log, readiness }
    }

    /// Everything that the gateway answers on its own port.
    pub fn router(&self) -> Router {
        let graphql = routing::get(http::get).post(http::post);
        // What graphql-sse's single connection mode asks with.
        let graphql = graphql.put(http::single_connection).delete(http::single_connection);
        let graphql = graphql.with_state(self.door.clone());
        let graphql = graphql.layer(from_fn_with_state(self.sockets.clone(), socket::handshake));
        let graphql = graphql.layer(from_fn_with_state(self.settings.trusted_proxies.clone(), address::find));
        let router =
            Router::new().route("/graphql", graphql).merge(telemetry::ops::health(self.readiness.clone()));
        let router = if self.settings.introspection {
            router.merge(ide::routes()).merge(sdl::routes())
        } else {
            router
        };
        router.layer(compression()).layer(self.cors()).layer(from_fn(telemetry::http::access_log))
    }

    /// Follows the log and feeds those who watch, until shut down, the last socket is closed and the last mutation has ended.
    pub async fn run(&self, shutdown: CancellationToken) {
        let drained = CancellationToken::new();
        let sockets = async {
            shutdown.cancelled().await;
            self.sockets.drain().await;
            drained.cancel();
        };
        let reader = self.reader.clone().run(self.log.clone(), drained.clone());
        tokio::join!(sockets, reader, self.reader.hubs.run(&drained));
        self.door.pipeline.finish().await;
    }

    /// No cookies are taken, so a page can do nothing in somebody's name without that person's token.
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

/// For answers; never for streams, whose frames would wait in the compressor.
fn compression() -> CompressionLayer<impl Predicate + Send + Sync + 'static> {
    let answers = SizeAbove::new(COMPRESSED_MIN_BYTES)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::SSE)
        .and(NotForContentType::const_new("multipart/mixed"));
    CompressionLayer::new().compress_when(answers)
}
