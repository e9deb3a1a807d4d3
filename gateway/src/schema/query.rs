//! The query root. Every field is nullable, so that an unavailable service nulls its own fields and no
//! others. The items of `nodes` are nullable for the same reason.

use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use futures_util::future::join_all;
use proto::auth;

use crate::{
    error::Error,
    schema::cursor::List,
    schema::loaders::{ListPage, MessageKey},
    version::Version,
};

use super::{
    Dialog, DialogConnection, DialogUnread, Message, Node, Scope, Unread, User, UserConnection,
    node::{self, NODES_MAX},
    page::{self, PAGE_DEFAULT},
    plan,
};

/// The query root.
pub struct Query;

/// Reads of the data. All fields require authentication. A field is null with an UNAVAILABLE error while
/// the service that answers it is unavailable; the other fields are not affected. A malformed id is
/// treated like an id that the caller may not see: the field is null.
#[Object]
impl Query {
    /// The user who sends the request.
    async fn me(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>, Error> {
        let scope = Scope::of(ctx);
        scope.loaders.users.load(scope.caller()?.user).await
    }

    /// The user with an id. Null if there is none.
    async fn user(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<User>>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        let Ok(id) = id.parse() else { return Ok(None) };
        scope.loaders.users.load(id).await
    }

    /// The users whose login or display name starts with a text, sorted by login.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn users(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The text, 2 to 32 characters; one is enough in Chinese, Japanese and Korean.")]
        search: String,
        #[graphql(desc = "The page size, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Returns the items after this cursor of the same search.")] after: Option<String>,
    ) -> Result<Option<UserConnection>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        let list = List::new("users", &search);
        let request = auth::SearchRequest {
            prefix: search.clone(),
            first: page::size("first", first, PAGE_DEFAULT)?,
            after_login: after.map(|cursor| list.position(&cursor)).transpose()?,
        };
        let has_previous = request.after_login.is_some();
        let reply = scope.peers().auth(scope.call()).search(request).await?.into_inner();
        let users = reply
            .users
            .into_iter()
            .map(|user| User::try_from(user).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let cursor = |user: &User| list.cursor(&user.login);
        Ok(Some(UserConnection::new(users, reply.has_next, has_previous, cursor)))
    }

    /// The dialog with an id. Null if there is none or the caller is not a participant.
    async fn dialog(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<Dialog>>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        let Ok(id) = id.parse() else { return Ok(None) };
        scope.loaders.dialogs.load(id).await
    }

    /// The caller's dialogs, newest activity first.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn dialogs(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The page size, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Returns the items after this cursor.")] after: Option<String>,
    ) -> Result<Option<DialogConnection>, Error> {
        let scope = Scope::of(ctx);
        let user = scope.caller()?.user;
        // The cursor before the size: the error of the first wrong argument is shown.
        let participants = plan::participants_first(&ctx.item.node);
        let page = ListPage::parse(user, first.unwrap_or(PAGE_DEFAULT), after.as_deref(), participants)?;
        page::size("first", first, PAGE_DEFAULT)?;
        let found = scope.loaders.lists.load(page).await?;
        let found = found.ok_or_else(|| Error::internal("a page was not loaded"))??;
        let parent = user.to_string();
        let list = List::new("dialogs", &parent);
        let cursor = |dialog: &Dialog| dialog.cursor(&list);
        let has_previous = page.after.is_some();
        Ok(Some(DialogConnection::new(found.dialogs.clone(), found.has_next, has_previous, cursor)))
    }

    /// The caller's counter of one dialog. Null if the caller is not a participant. Depends on the
    /// counter service only: it works while the dialog service is unavailable.
    async fn dialog_unread(&self, ctx: &Context<'_>, dialog_id: ID) -> Result<Option<DialogUnread>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        let Ok(id) = dialog_id.parse() else { return Ok(None) };
        scope.loaders.rows.load(id).await
    }

    /// The message with an `id` or a `transactionId`, of which exactly one must be given. Null if there
    /// is none or the caller may not see it.
    async fn message(
        &self,
        ctx: &Context<'_>,
        id: Option<ID>,
        transaction_id: Option<ID>,
    ) -> Result<Option<Arc<Message>>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        let key = match (id, transaction_id) {
            (Some(id), None) => id.parse().map(MessageKey::Id),
            (None, Some(id)) => id.parse().map(MessageKey::Transaction),
            _ => return Err(Error::input("give exactly one of `id` and `transactionId`")),
        };
        let Ok(key) = key else { return Ok(None) };
        scope.loaders.messages.load(key).await
    }

    /// The user, dialog or message with an id. Null if there is none or the caller may not see it. Null
    /// with an UNAVAILABLE error while a service is unavailable and no other service has the object.
    async fn node(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Node>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        node::find(&scope.loaders, &id).await
    }

    /// The objects with these ids, in the order of the ids. An item is null where `node` is null.
    #[graphql(complexity = "page::list_cost(ids.len().min(NODES_MAX), child_complexity)")]
    async fn nodes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The ids, at most 100.")] ids: Vec<ID>,
    ) -> Result<Vec<Option<Result<Node, Error>>>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        if ids.len() > NODES_MAX {
            return Err(Error::input(format!("`ids` must have at most {NODES_MAX} items")));
        }
        let found = join_all(ids.iter().map(|id| node::find(&scope.loaders, id))).await;
        // A failed item is null and has its own error: the other items are not affected.
        Ok(found.into_iter().map(Result::transpose).collect())
    }

    /// The caller's counters. They are at least as new as every frame and response that this gateway has
    /// sent to the caller.
    async fn unread(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "A version that the client received from another gateway. The result is at least as new."
        )]
        at_least: Option<String>,
    ) -> Result<Option<Arc<Unread>>, Error> {
        let scope = Scope::of(ctx);
        scope.caller()?;
        let at_least = at_least.map(|text| text.parse::<Version>()).transpose();
        let at_least = at_least.map_err(|_| Error::input("`atLeast` is not a version"))?;
        let unread = scope.loaders.unread.load(at_least).await?;
        unread.ok_or_else(|| Error::internal("counters were not loaded"))?.map(Some)
    }

    #[graphql(entity)]
    async fn user_entity(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<User>>, Error> {
        self.user(ctx, id).await
    }

    #[graphql(entity)]
    async fn dialog_entity(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<Dialog>>, Error> {
        self.dialog(ctx, id).await
    }

    #[graphql(entity)]
    async fn message_entity(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<Message>>, Error> {
        self.message(ctx, Some(id), None).await
    }
}
