//! The gateway: GraphQL for people, over the services that hold the data. A hub pushes what changes to those who watch.

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
pub mod loaders;
pub mod origins;
pub mod peers;
pub mod pipeline;
pub mod scan;
pub mod schema;
pub mod shape;
pub mod socket;
pub mod turn;
pub mod variables;
pub mod version;
pub mod viewer;

use std::{sync::Arc, time::Duration};

use access::Guard;
use axum::{Router, middleware::from_fn, routing};
use telemetry::Readiness;
use tower_http::{
    compression::CompressionLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use crate::{floor::Floor, http::Door, origins::Origins, peers::Peers, pipeline::Pipeline, viewer::Authenticator};

/// How long a browser may remember what a preflight has said.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// What the gateway is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which web pages may come.
    pub allowed_origins: Origins,
    /// Whether clients may read the schema; the IDE page and suggestions with it.
    pub introspection: bool,
    /// How many sockets a person may have at this gateway.
    pub max_sockets_per_user: usize,
    /// The time over which sockets are closed when the gateway stops.
    pub drain_window: Duration,
    /// How long access tokens live: for so long a revoked session must be remembered.
    pub access_token_ttl: Duration,
}

/// The gateway.
#[derive(Clone)]
pub struct App {
    settings: Settings,
    door: Door,
    readiness: Readiness,
}

impl App {
    /// Over these services, for people whom this guard believes.
    pub fn new(settings: Settings, peers: Peers, guard: Guard, readiness: Readiness) -> Self {
        let pipeline = Pipeline::new(peers, Floor::default(), settings.introspection);
        let door = Door { pipeline, authenticator: Arc::new(Authenticator::new(guard)) };
        Self { settings, door, readiness }
    }

    /// Everything that the gateway answers on its own port.
    pub fn router(&self) -> Router {
        let graphql = routing::get(http::get).post(http::post).with_state(self.door.clone());
        let router = Router::new().route("/graphql", graphql).merge(telemetry::ops::health(self.readiness.clone()));
        let router = if self.settings.introspection { router.merge(ide::routes()) } else { router };
        router.layer(CompressionLayer::new()).layer(self.cors()).layer(from_fn(telemetry::http::access_log))
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
