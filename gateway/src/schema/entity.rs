//! The root of queries as a gateway of a federation sees it: `_entities` finds people, dialogs and messages by their keys,
//! with the rights of the caller. A key that is strange, unknown or somebody else's gives null, all alike; a service that is
//! away costs its own entities.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_graphql::{
    Any, Context, ContextSelectionSet, ObjectType, OutputType, Pos, Positioned, ServerResult, Value,
    registry::Registry,
    resolver_utils::{ContainerType, resolve_container},
};
use async_graphql_parser::types::Field;

use super::{Query, Scope};

/// The types that have a key, which is their `id`.
const TYPES: [&str; 3] = ["User", "Dialog", "Message"];

/// The root of queries, which finds entities too.
pub struct Root;

impl ContainerType for Root {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        let lost = Scope::of(ctx).lost.root(ctx.item.node.response_key().node.as_str());
        tokio::select! {
            biased;
            found = Query.resolve_field(ctx) => found,
            () = lost.cancelled() => Ok(Some(Value::Null)),
        }
    }

    /// Null is found where there is nothing to find: the library makes nothing an error of the whole list.
    async fn find_entity(&self, ctx: &Context<'_>, key: &Value) -> ServerResult<Option<Value>> {
        let scope = Scope::of(ctx);
        let signed_in =
            scope.viewer().map_err(|error| async_graphql::Error::from(error).into_server_error(ctx.item.pos));
        signed_in.map_err(|error| ctx.set_error_path(error))?;
        let place = scope.places.take(ctx, key)?;
        let ctx = ctx.with_index(place);
        if !is_known(key) {
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

/// Whether a key is of a type that has one, and is a text.
fn is_known(key: &Value) -> bool {
    let Value::Object(key) = key else { return false };
    let named = matches!(key.get("__typename"), Some(Value::String(name)) if TYPES.contains(&name.as_str()));
    named && matches!(key.get("id"), Some(Value::String(_)))
}

/// Where the entities of an operation stand in their lists, for the paths of their errors: the library tells each only
/// its key.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<Pos, Vec<Option<Value>>>>);

impl Places {
    /// The place of the next entity with this key, 0 where there is none left.
    fn take(&self, ctx: &Context<'_>, key: &Value) -> ServerResult<usize> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = match lists.get_mut(&ctx.item.pos) {
            Some(list) => list,
            None => {
                let (_, keys) = ctx.param_value::<Vec<Any>>("representations", None)?;
                lists.entry(ctx.item.pos).or_insert(keys.into_iter().map(|key| Some(key.0)).collect())
            }
        };
        let place = list.iter().position(|other| other.as_ref() == Some(key)).unwrap_or_default();
        if let Some(taken) = list.get_mut(place) {
            *taken = None;
        }
        Ok(place)
    }
}
