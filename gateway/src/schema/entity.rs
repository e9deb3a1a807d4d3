//! The query root with Apollo Federation: `_entities` resolves users, dialogs and messages by key, with
//! the permissions of the caller. A malformed key, an unknown key and a key that the caller may not see
//! all return null. An unavailable service nulls its own entities only.

use std::{borrow::Cow, collections::HashMap};

use async_graphql::{
    Any, Context, ContextSelectionSet, ObjectType, OutputType, Pos, Positioned, ServerResult, Value,
    registry::Registry,
    resolver_utils::{ContainerType, resolve_container},
};
use async_graphql_parser::types::Field;
use parking_lot::Mutex;

use super::{Query, Scope};

/// The types with a federation key, which is `id` for all of them.
const ENTITY_TYPES: [&str; 3] = ["User", "Dialog", "Message"];

/// The query root: [`Query`] and `_entities`.
pub struct Root;

impl ContainerType for Root {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        let nulled = Scope::of(ctx).nulled_fields.root(ctx.item.node.response_key().node.as_str());
        tokio::select! {
            biased; // A field that is complete must keep its own errors.
            resolved = Query.resolve_field(ctx) => resolved,
            () = nulled.cancelled() => Ok(Some(Value::Null)),
        }
    }

    /// Returns null instead of `None` for an unknown key, because the library turns `None` into an error
    /// of the whole list.
    async fn find_entity(&self, ctx: &Context<'_>, key: &Value) -> ServerResult<Option<Value>> {
        let scope = Scope::of(ctx);
        let signed_in =
            scope.caller().map_err(|error| async_graphql::Error::from(error).into_server_error(ctx.item.pos));
        signed_in.map_err(|error| ctx.set_error_path(error))?;
        let index = scope.entity_indexes.take(ctx, key)?;
        let ctx = ctx.with_index(index);
        if !is_well_formed(key) {
            return Ok(Some(Value::Null));
        }
        let found = Query.find_entity(&ctx, key).await.unwrap_or_else(|error| {
            ctx.add_error(error);
            None
        });
        Ok(Some(found.unwrap_or_default()))
    }
}

impl OutputType for Root {
    fn type_name() -> Cow<'static, str> {
        Query::type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        Query::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        resolve_container(ctx, self).await
    }
}

impl ObjectType for Root {}

/// Returns true if a key names an entity type and its `id` is a string.
fn is_well_formed(key: &Value) -> bool {
    let Value::Object(key) = key else { return false };
    let is_entity =
        matches!(key.get("__typename"), Some(Value::String(name)) if ENTITY_TYPES.contains(&name.as_str()));
    is_entity && matches!(key.get("id"), Some(Value::String(_)))
}

/// List indexes of an operation's entities, for the paths of their errors. The library passes only the
/// key to `find_entity`, so the index is found by looking for the key in the argument.
#[derive(Debug, Default)]
pub struct EntityIndexes(Mutex<HashMap<Pos, Vec<Option<Value>>>>);

impl EntityIndexes {
    /// Takes the next unused index of a key; 0 if there is none.
    fn take(&self, ctx: &Context<'_>, key: &Value) -> ServerResult<usize> {
        let mut lists = self.0.lock();
        let list = match lists.get_mut(&ctx.item.pos) {
            Some(list) => list,
            None => {
                let (_, keys) = ctx.param_value::<Vec<Any>>("representations", None)?;
                lists.entry(ctx.item.pos).or_insert(keys.into_iter().map(|key| Some(key.0)).collect())
            }
        };
        let index = list.iter().position(|other| other.as_ref() == Some(key)).unwrap_or_default();
        if let Some(taken) = list.get_mut(index) {
            *taken = None;
        }
        Ok(index)
    }
}
