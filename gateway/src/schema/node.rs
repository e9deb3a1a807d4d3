//! Object identification of the Relay server specification: the interface [`Node`], and the search for the
//! object with an id.
//!
//! An id is a UUID without the kind of its object. It is therefore looked up as a dialog, as a message and
//! as a user, concurrently and through the loaders: any number of ids of one operation needs one call per
//! RPC.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use async_graphql::{ID, Interface};
use futures_util::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, maybe_done},
};
use proto::{DialogId, MessageId, UserId};

use crate::{
    error::Error,
    schema::loaders::{Loaders, MessageKey},
};

use super::{Dialog, Message, User};

/// The maximum number of ids of one `nodes` field.
pub const NODES_MAX: usize = 100;

/// An object with an id. The ids of all kinds of objects are distinct.
#[derive(Interface, Debug)]
#[graphql(field(name = "id", ty = "ID", desc = "Unique and permanent."))]
pub enum Node {
    /// A user.
    User(Arc<User>),
    /// A dialog that the caller takes part in.
    Dialog(Arc<Dialog>),
    /// A message that the caller may see.
    Message(Arc<Message>),
}

/// Returns the object with an id. `None` if the id is malformed or unknown, or if the caller may not see
/// the object.
///
/// Returns as soon as one service has the object, so that an unavailable or slow service does not delay
/// the objects of the others.
///
/// # Errors
/// The first error of a service if no other service has the object.
pub async fn find(loaders: &Loaders, id: &str) -> Result<Option<Node>, Error> {
    let Ok(dialog) = id.parse::<DialogId>() else { return Ok(None) };
    let message = MessageKey::Id(MessageId::new(dialog.uuid()));
    let user = UserId::new(dialog.uuid());
    first_found([
        loaders.dialogs.load(dialog).map_ok(|found| found.map(Node::Dialog)).boxed(),
        loaders.messages.load(message).map_ok(|found| found.map(Node::Message)).boxed(),
        loaders.users.load(user).map_ok(|found| found.map(Node::User)).boxed(),
    ])
    .await
}

/// The search for an object of one kind.
type Search<'a> = BoxFuture<'a, Result<Option<Node>, Error>>;

/// Runs the searches until one of them finds the object.
///
/// # Errors
/// The error of the first search that failed if none finds it.
async fn first_found(searches: [Search<'_>; 3]) -> Result<Option<Node>, Error> {
    let mut searches = searches.map(maybe_done);
    poll_fn(move |context| {
        let mut is_pending = false;
        // Every search is polled, also after one has succeeded. A loader's batch that is not polled after
        // its dispatch would stay open: the next key would send it without waiting for further keys.
        for search in &mut searches {
            is_pending |= search.poll_unpin(context).is_pending();
        }
        let found = searches.iter_mut().find_map(|search| match Pin::new(search).output_mut() {
            Some(Ok(node)) => node.take(),
            _ => None,
        });
        if found.is_some() {
            return Poll::Ready(Ok(found));
        }
        if is_pending {
            return Poll::Pending;
        }
        let failure =
            searches.iter_mut().find_map(|search| Pin::new(search).take_output().and_then(Result::err));
        Poll::Ready(failure.map_or(Ok(None), Err))
    })
    .await
}
