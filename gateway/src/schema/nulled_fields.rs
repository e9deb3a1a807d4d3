//! Root fields that are null already, because a non-null field below them failed. The executor would go
//! on resolving the rest of such a field only to discard it; cancelling saves those calls.

use std::{collections::HashMap, sync::Arc};

use async_graphql::{Context, ServerError};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::operation::response_shape::ResponseShape;

/// The nulled root fields of one operation, by response key.
#[derive(Debug, Default)]
pub struct NulledFields(Mutex<HashMap<String, CancellationToken>>);

impl NulledFields {
    /// Returns the token that is cancelled when the root field with this response key becomes null.
    pub fn root(&self, key: &str) -> CancellationToken {
        self.0.lock().entry(key.to_owned()).or_default().clone()
    }

    /// Records that the current field failed. Cancels its root field, unless a nullable field between
    /// the two stops the null from propagating.
    pub fn failed(&self, ctx: &Context<'_>) {
        // The library hands out the path of a field only through an error.
        let path = ctx.set_error_path(ServerError::new("", None)).path;
        let nulls_root =
            ctx.data_opt::<Arc<ResponseShape>>().is_some_and(|shape| shape.nulls_root_field(&path));
        if let Some(async_graphql::PathSegment::Field(root)) = path.first().filter(|_| nulls_root) {
            self.root(root).cancel();
        }
    }
}
