//! Root fields whose value has become null for good, because something in them has failed that must not be null: what else is
//! read for them is given up. The executor goes on with it, for errors that nobody would see.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_graphql::{Context, ServerError};
use tokio_util::sync::CancellationToken;

use crate::documents::Operation;

/// Those of one operation, by the keys of its answer.
#[derive(Debug, Default)]
pub struct Lost(Mutex<HashMap<String, CancellationToken>>);

impl Lost {
    /// What is cancelled when the root field of this key is lost.
    pub fn root(&self, key: &str) -> CancellationToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default().clone()
    }

    /// The field that is being resolved has failed. Changes nothing where a value around it may be null.
    pub fn failed(&self, ctx: &Context<'_>) {
        let path = ctx.set_error_path(ServerError::new("", None)).path;
        let takes =
            ctx.data_opt::<Arc<Operation>>().is_some_and(|operation| operation.shape.takes_root(&path));
        if let Some(async_graphql::PathSegment::Field(root)) = path.first().filter(|_| takes) {
            self.root(root).cancel();
        }
    }
}
