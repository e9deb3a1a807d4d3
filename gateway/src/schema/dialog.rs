//! Conversations, as the one who asks sees them.

use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use proto::{DialogId, UserId, dialog};

use crate::{
    cursor::List,
    error::{Code, Error},
    loaders::{HistoryPage, ReadStatesPage},
};

use super::{
    DateTime, Message, MessageConnection, ReadState, Scope, User, UserConnection,
    page::{self, PAGE_DEFAULT},
};

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// Which it is.
    pub id: DialogId,
    title: Option<String>,
    direct: bool,
    participants: Vec<UserId>,
    created_at_us: i64,
    /// When something was last said in it: what lists of dialogs are sorted by.
    pub last_activity_us: i64,
    last_message: Option<Message>,
}

impl TryFrom<dialog::Dialog> for Dialog {
    type Error = Error;

    fn try_from(dialog: dialog::Dialog) -> Result<Self, Error> {
        Ok(Self {
            id: DialogId::parse(&dialog.id)?,
            title: dialog.title,
            direct: dialog.direct,
            participants: UserId::parse_all(&dialog.participant_ids)?,
            created_at_us: dialog.created_at_us,
            last_activity_us: dialog.last_activity_us,
            last_message: dialog.last_message.map(Message::try_from).transpose()?,
        })
    }
}

/// A conversation between two people, or of a group. Only its participants find it.
#[Object]
impl Dialog {
    /// Never changes.
    async fn id(&self) -> ID {
        ID(self.id.to_string())
    }

    /// What a group is called: 1 to 64 characters. Null where it has no title.
    async fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Whether this is the one dialog of two people. Nobody joins or leaves it.
    async fn direct(&self) -> bool {
        self.direct
    }

    /// Who takes part now, sorted by id: 2 to 1,000. Costs 40, for as many kB.
    #[graphql(complexity = 40)]
    async fn participant_ids(&self) -> Vec<ID> {
        self.participants.iter().map(|id| ID(id.to_string())).collect()
    }

    /// Who takes part now, by id. Null with an UNAVAILABLE error while names cannot be had; `participantIds` is always
    /// there.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn participants(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Those after this cursor.")] after: Option<String>,
    ) -> Result<Option<UserConnection>, Error> {
        let parent = self.id.to_string();
        let list = List::new("participants", &parent);
        let size = usize::try_from(page::size("first", first, PAGE_DEFAULT)?).unwrap_or_default();
        let after = after.map(|cursor| list.position::<UserId>(&cursor)).transpose()?;
        let begin = after.map_or(0, |after| self.participants.partition_point(|id| *id <= after));
        let rest = self.participants.get(begin..).unwrap_or_default();
        let users = Scope::of(ctx).loaders.users.load_all(rest.iter().take(size).copied()).await?;
        let cursor = |user: &User| list.cursor(&user.id);
        Ok(Some(UserConnection::new(users, rest.len() > size, begin > 0, cursor)))
    }

    /// When it was made.
    async fn created_at(&self) -> DateTime {
        DateTime::from_microseconds(self.created_at_us)
    }

    /// When something was last said in it, or it was made.
    async fn last_activity_at(&self) -> DateTime {
        DateTime::from_microseconds(self.last_activity_us)
    }

    /// The newest message that the caller may see. Null where there is none.
    async fn last_message(&self) -> Option<&Message> {
        self.last_message.as_ref()
    }

    /// How many messages the caller has not read. Never older than what this gateway has pushed or answered to the
    /// caller. Null with an UNAVAILABLE error while the counters are away, and without one where they have not yet seen
    /// the caller join.
    async fn unread_count(&self, ctx: &Context<'_>) -> Result<Option<i64>, Error> {
        let row = Scope::of(ctx).loaders.rows.load(self.id).await?;
        Ok(row.map(|row| row.unread))
    }

    /// Who has read up to where, by user id. Null with an UNAVAILABLE error while the counters are away.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn read_states(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Those after this one: the `userId` of the last that was read.")] after: Option<
            String,
        >,
    ) -> Result<Option<Vec<ReadState>>, Error> {
        let first = page::size("first", first, PAGE_DEFAULT)?;
        let after =
            after.map(|id| id.parse()).transpose().map_err(|_| Error::input("`after` is not a `userId`"))?;
        let page = ReadStatesPage { dialog: self.id, first, after };
        let states = Scope::of(ctx).loaders.read_states.load(page).await?;
        Ok(Some(states.unwrap_or_default()))
    }

    /// What was said, oldest first; without arguments the newest 20. `first` with `after`, or `last` with `before`.
    #[graphql(complexity = "page::cost(first.or(last), PAGE_DEFAULT, child_complexity)")]
    async fn messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the beginning, or after `after`: 1 to 100.")] first: Option<i32>,
        #[graphql(desc = "Those after this cursor; only with `first`.")] after: Option<String>,
        #[graphql(desc = "How many from the end, or before `before`: 1 to 100.")] last: Option<i32>,
        #[graphql(desc = "Those before this cursor; only with `last`.")] before: Option<String>,
    ) -> Result<MessageConnection, Error> {
        let parent = self.id.to_string();
        let list = List::new("messages", &parent);
        let scope = Scope::of(ctx);
        // The one field that another service answers and that must not be null.
        let page = history_page(self.id, &list, first, after, last, before)
            .inspect_err(|_| scope.lost.failed(ctx))?;
        let history =
            scope.loaders.history.load(page).await.and_then(|history| {
                history.ok_or_else(|| Error::new(Code::NotFound, "there is no such dialog"))
            });
        let history = history.inspect_err(|_| scope.lost.failed(ctx))?;
        let messages = history.messages.iter().map(Arc::clone).collect();
        let cursor = |message: &Message| list.cursor(&message.seq.to_string());
        Ok(MessageConnection::new(messages, history.has_next, history.has_previous, cursor))
    }
}

/// Which page of a dialog's history is meant.
fn history_page(
    dialog: DialogId,
    list: &List<'_>,
    first: Option<i32>,
    after: Option<String>,
    last: Option<i32>,
    before: Option<String>,
) -> Result<HistoryPage, Error> {
    let seq = |cursor: Option<String>| cursor.map(|cursor| list.position::<i64>(&cursor)).transpose();
    match (first, last) {
        (Some(_), Some(_)) => Err(Error::input("`first` and `last` exclude each other")),
        (Some(_), None) if before.is_some() => Err(Error::input("`before` goes with `last`")),
        (Some(_), None) => Ok(HistoryPage::Forward {
            dialog,
            first: page::size("first", first, PAGE_DEFAULT)?,
            after: seq(after)?,
        }),
        (None, _) if after.is_some() => Err(Error::input("`after` goes with `first`")),
        (None, _) => Ok(HistoryPage::Backward {
            dialog,
            last: page::size("last", last, PAGE_DEFAULT)?,
            before: seq(before)?,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_history_goes_one_way() {
        let (dialog, other) = (DialogId::now(), DialogId::now());
        let (parent, foreign) = (dialog.to_string(), other.to_string());
        let list = List::new("messages", &parent);
        let (cursor, strange) = (list.cursor("7"), List::new("messages", &foreign).cursor("7"));
        let page = |first, after: Option<&str>, last, before: Option<&str>| {
            history_page(dialog, &list, first, after.map(Into::into), last, before.map(Into::into))
        };
        assert_eq!(
            page(None, None, None, None),
            Ok(HistoryPage::Backward { dialog, last: 20, before: None })
        );
        let forward = HistoryPage::Forward { dialog, first: 5, after: Some(7) };
        assert_eq!(page(Some(5), Some(&cursor), None, None), Ok(forward));
        let backward = HistoryPage::Backward { dialog, last: 5, before: Some(7) };
        assert_eq!(page(None, None, Some(5), Some(&cursor)), Ok(backward));
        for refused in [
            page(Some(5), None, Some(5), None),
            page(Some(5), None, None, Some(&cursor)),
            page(None, Some(&cursor), Some(5), None),
            page(None, Some(&cursor), None, None),
            page(Some(0), None, None, None),
            page(None, None, Some(101), None),
            page(Some(5), Some(&strange), None, None),
            page(Some(5), Some("7"), None, None),
        ] {
            assert_eq!(refused.expect_err("refused").code(), Code::BadUserInput);
        }
    }
}
