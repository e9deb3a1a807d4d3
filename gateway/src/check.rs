//! Validates an operation against the schema and counts its cost, executing nothing: a second schema that stops after its
//! validation. The one that executes need not validate again.

use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::{
    Request, ServerError, ValidationResult, Variables,
    async_trait::async_trait,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextValidation},
};
use async_graphql_parser::types::ExecutableDocument;
use futures_util::FutureExt;

use crate::{
    pipeline::RECURSION_MAX,
    schema::{self, Schema},
};

/// Validates. Cheap to clone.
#[derive(Clone)]
pub struct Checker(Schema);

/// What the validation of one request has said.
#[derive(Clone, Default)]
struct Verdict(Arc<Mutex<Option<Said>>>);

/// The cost, or what does not fit.
type Said = Result<usize, Vec<ServerError>>;

impl Checker {
    /// Over the public schema. Suggestions tell names of the schema.
    pub fn new(suggestions: bool) -> Self {
        let builder = schema::build().extension(Stop).limit_recursive_depth(RECURSION_MAX);
        Self(if suggestions { builder.finish() } else { builder.disable_suggestions().finish() })
    }

    /// What the document's operations cost, all together.
    ///
    /// # Errors
    /// What does not fit the schema.
    pub fn check(
        &self,
        document: ExecutableDocument,
        variables: &Variables,
    ) -> Result<usize, Vec<ServerError>> {
        let verdict = Verdict::default();
        let mut request = Request::new("").variables(variables.clone()).data(verdict.clone());
        request.set_parsed_query(document);
        let stopped = self.0.execute(request).now_or_never();
        let said = verdict.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Without a verdict something came before the validation, and has said why.
        said.unwrap_or_else(|| Err(stopped.map(|response| response.errors).unwrap_or_default()))
    }
}

/// Stops every request after its validation.
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
        let said = next.run(ctx).await.map(|valid| valid.complexity);
        let verdict = ctx.data_opt::<Verdict>();
        if let Some(verdict) = verdict {
            *verdict.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        }
        Err(Vec::new())
    }
}
