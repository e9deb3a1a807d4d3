//! The public schema.

use async_graphql::{EmptyMutation, EmptySubscription, Object};
use telemetry::Call;

use crate::{peers::Peers, viewer::Viewer};

/// The schema, ready to execute.
pub type Schema = async_graphql::Schema<Query, EmptyMutation, EmptySubscription>;

/// What the resolvers of one operation share.
pub struct Scope {
    /// Who asks.
    pub viewer: Option<Viewer>,
    /// What travels with their calls.
    pub call: Call,
    /// The services.
    pub peers: Peers,
}

impl Scope {
    /// For one operation.
    pub fn new(viewer: Option<Viewer>, call: Call, peers: Peers) -> Self {
        Self { viewer, call, peers }
    }
}

/// What can be asked.
pub struct Query;

#[Object]
impl Query {
    /// Always true.
    async fn alive(&self) -> bool {
        true
    }
}
