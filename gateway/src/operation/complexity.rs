//! Cost of an operation, by the complexity of the schema's fields.
//!
//! async-graphql computes it only as a step of a request. This module therefore runs a second schema whose
//! extension stops each request before its execution.

use std::sync::Arc;

use async_graphql::{
    Request, ServerError, ValidationMode, ValidationResult,
    async_trait::async_trait,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextValidation},
};
use async_graphql_parser::types::ExecutableDocument;
use futures_util::FutureExt;
use parking_lot::Mutex;

use super::RECURSION_MAX;
use crate::schema::{self, Schema};

/// Computes the cost of operations. Cheap to clone.
#[derive(Clone)]
pub struct Complexity(Schema);

/// Entry in a request's data through which the extension returns the result.
#[derive(Clone, Default)]
struct Outcome(Arc<Mutex<Option<usize>>>);

impl Default for Complexity {
    fn default() -> Self {
        let builder = schema::build().extension(Stop).validation_mode(ValidationMode::Fast);
        Self(builder.limit_recursive_depth(RECURSION_MAX).finish())
    }
}

impl Complexity {
    /// Returns the cost of a normalized operation without variables. An argument that its resolver rejects
    /// makes the cost the maximum.
    pub fn of(&self, document: &ExecutableDocument) -> usize {
        let outcome = Outcome::default();
        let mut request = Request::new("").data(outcome.clone());
        request.set_parsed_query(document.clone());
        // Completes without waiting: nothing is executed.
        self.0.execute(request).now_or_never();
        outcome.0.lock().take().unwrap_or(usize::MAX)
    }
}

/// Extension that stops every request after its validation.
struct Stop;

impl ExtensionFactory for Stop {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Extension for Stop {
    async fn validation(
        &self,
        ctx: &ExtensionContext<'_>,
        next: NextValidation<'_>,
    ) -> Result<ValidationResult, Vec<ServerError>> {
        let result = next.run(ctx).await?;
        if let Some(outcome) = ctx.data_opt::<Outcome>() {
            *outcome.0.lock() = Some(result.complexity);
        }
        Err(Vec::new())
    }
}
