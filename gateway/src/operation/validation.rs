//! Validation of a document against the schema, and its cost.
//!
//! async-graphql validates only as the first step of execution. This module therefore runs a second
//! schema whose extension stops each request after validation. The schema that executes does not
//! validate again.

use std::sync::Arc;

use async_graphql::{
    Request, ServerError, ValidationResult, Variables,
    async_trait::async_trait,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextValidation},
};
use async_graphql_parser::types::ExecutableDocument;
use futures_util::FutureExt;
use parking_lot::Mutex;

use crate::{
    operation::RECURSION_MAX,
    schema::{self, Schema},
};

/// Validates documents. Cheap to clone.
#[derive(Clone)]
pub struct Validator(Schema);

/// Result of a validation: the cost of the document, or the validation errors.
type Validated = Result<usize, Vec<ServerError>>;

/// Entry in a request's data through which the extension returns the result.
#[derive(Clone, Default)]
struct Outcome(Arc<Mutex<Option<Validated>>>);

impl Validator {
    /// Creates a validator. `suggestions` adds "did you mean" hints, which reveal names of the schema.
    pub fn new(suggestions: bool) -> Self {
        let builder = schema::build().extension(Stop).limit_recursive_depth(RECURSION_MAX);
        Self(if suggestions { builder.finish() } else { builder.disable_suggestions().finish() })
    }

    /// Validates a document and returns the cost of all its operations together.
    ///
    /// # Errors
    /// The validation errors.
    pub fn validate(&self, document: ExecutableDocument, variables: &Variables) -> Validated {
        let outcome = Outcome::default();
        let mut request = Request::new("").variables(variables.clone()).data(outcome.clone());
        request.set_parsed_query(document);
        // Completes without waiting: nothing is executed.
        let stopped = self.0.execute(request).now_or_never();
        let outcome = outcome.0.lock().take();
        // Without an outcome the request failed before its validation, and the response holds the reason.
        outcome.unwrap_or_else(|| Err(stopped.map(|response| response.errors).unwrap_or_default()))
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
        let result = next.run(ctx).await.map(|valid| valid.complexity);
        if let Some(outcome) = ctx.data_opt::<Outcome>() {
            *outcome.0.lock() = Some(result);
        }
        Err(Vec::new())
    }
}
