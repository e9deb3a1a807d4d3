//! Plans: queries that the gateway answers as a whole, instead of one future per field and row.
//!
//! A plan is made once per normalized document. It loads the keys of a whole page at a time, through the
//! loaders of the operation, and writes the answer as JSON. A plan answers only queries without an error. For
//! any other it gives up, and the resolvers repeat the query: they find what the plan has asked for in the
//! loaders, so no call is made twice, and their errors are the only ones.

mod loads;
mod selection;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use async_graphql::Variables;
use async_graphql_parser::types::{DocumentOperations, ExecutableDocument, Field, OperationType};
use futures_util::future::try_join_all;

use super::{
    Dialog, DialogUnread, Message, Scope, Unread, User,
    loaders::{DialogPage, ListPage, MessageKey},
    page::{self, PAGE_DEFAULT},
};
use crate::error::Error;
use loads::Loads;
use selection::{Argument, ConnectionField, DialogField, QueryField, Selection, UnreadField};
use writer::Writer;

/// Plan of a query.
#[derive(Debug)]
pub struct Plan(Selection<QueryField>);

/// Error: the resolvers must execute the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unplanned;

impl From<Error> for Unplanned {
    fn from(_: Error) -> Self {
        Self
    }
}

/// Value of a field of the query root.
enum Root {
    User(Option<Arc<User>>),
    Dialog(Option<Arc<Dialog>>),
    Dialogs(Arc<DialogPage>, ListPage),
    Row(Option<DialogUnread>),
    Message(Option<Arc<Message>>),
    Unread(Arc<Unread>),
}

impl Plan {
    /// Returns the plan of a normalized document. `None` for a mutation, a subscription, and a query with a
    /// field that only the resolvers answer.
    pub fn of(document: &ExecutableDocument) -> Option<Self> {
        let DocumentOperations::Single(operation) = &document.operations else { return None };
        let operation = &operation.node;
        if operation.ty != OperationType::Query {
            return None;
        }
        Selection::parse(&operation.selection_set.node).map(Self)
    }

    /// Returns true if the answer is the same for every request: the query has no field but `__typename`.
    pub fn is_constant(&self) -> bool {
        self.0.fields().next().is_none()
    }

    /// Returns the answer of a constant query, as JSON.
    pub fn constant(&self) -> Vec<u8> {
        Writer::new(&Loads::default(), &Variables::default()).answer(&self.0, &[]).unwrap_or_default()
    }

    /// Answers the query for the caller of a scope. Returns the whole response as JSON.
    ///
    /// # Errors
    /// [`Unplanned`] if any part of the query fails.
    pub async fn answer(&self, scope: &Scope, variables: &Variables) -> Result<Vec<u8>, Unplanned> {
        let loads = Loads::default();
        let roots = self.0.fields().map(|field| loads.root(scope, variables, field));
        let roots = try_join_all(roots).await?;
        Writer::new(&loads, variables).answer(&self.0, &roots)
    }
}

/// Returns the number of participants that each dialog of a field `dialogs` needs. `None` for all.
pub(super) fn participants_first(field: &Field) -> Option<i32> {
    Selection::<ConnectionField<DialogField>>::below(field)?.participants_first(&Variables::default())
}

impl Loads {
    /// Loads a field of the query root with everything below it.
    async fn root(
        &self,
        scope: &Scope,
        variables: &Variables,
        field: &QueryField,
    ) -> Result<Root, Unplanned> {
        let user = scope.caller()?.user;
        let loaders = &scope.loaders;
        Ok(match field {
            QueryField::Me(_) => Root::User(loaders.users.load(user).await?),
            QueryField::User { id, .. } => match parsed(id, variables)? {
                Some(id) => Root::User(loaders.users.load(id).await?),
                None => Root::User(None),
            },
            QueryField::Dialog { id, fields } => {
                let Some(id) = parsed(id, variables)? else { return Ok(Root::Dialog(None)) };
                let dialog = loaders.dialogs.load(id).await?;
                if let Some(dialog) = &dialog {
                    self.dialogs(scope, variables, fields, std::slice::from_ref(dialog)).await?;
                }
                Root::Dialog(dialog)
            }
            QueryField::Dialogs { first, after, page } => {
                let first = page::size("first", first.int(variables)?, PAGE_DEFAULT)?;
                let participants = page.participants_first(variables);
                let list = ListPage::parse(user, first, after.text(variables)?, participants)?;
                let found = loaders.lists.load(list).await?.ok_or(Unplanned)??;
                let below = page.nodes();
                let below = below.map(|fields| self.dialogs(scope, variables, fields, &found.dialogs));
                try_join_all(below).await?;
                Root::Dialogs(found, list)
            }
            QueryField::DialogUnread { dialog_id, fields } => {
                let Some(id) = parsed(dialog_id, variables)? else { return Ok(Root::Row(None)) };
                let row = loaders.rows.load(id).await?;
                self.dialogs_of_rows(scope, variables, fields, row.as_slice()).await?;
                Root::Row(row)
            }
            QueryField::Message { id, transaction_id, fields } => {
                let key = match (id.is_absent(variables), transaction_id.is_absent(variables)) {
                    (false, true) => parsed(id, variables)?.map(MessageKey::Id),
                    (true, false) => parsed(transaction_id, variables)?.map(MessageKey::Transaction),
                    _ => return Err(Unplanned),
                };
                let Some(key) = key else { return Ok(Root::Message(None)) };
                let message = loaders.messages.load(key).await?;
                self.senders(scope, fields, message.iter().map(|message| &**message)).await?;
                Root::Message(message)
            }
            QueryField::Unread { at_least, fields } => {
                let at_least = at_least.text(variables)?.map(str::parse).transpose();
                let unread = loaders.unread.load(at_least.map_err(|_| Unplanned)?).await?;
                let unread = unread.ok_or(Unplanned)??;
                let below = fields.fields().filter_map(|field| match field {
                    UnreadField::Dialogs { first, fields } => Some(async {
                        let rows = unread.first(first.int(variables)?)?;
                        self.dialogs_of_rows(scope, variables, fields, rows).await
                    }),
                    UnreadField::Total | UnreadField::Version | UnreadField::Stale => None,
                });
                try_join_all(below).await?;
                Root::Unread(unread)
            }
        })
    }
}

/// Returns the id that an argument gives. `None` if it is malformed.
fn parsed<T: std::str::FromStr>(id: &Argument, variables: &Variables) -> Result<Option<T>, Unplanned> {
    Ok(id.text(variables)?.ok_or(Unplanned)?.parse().ok())
}
