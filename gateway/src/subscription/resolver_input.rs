//! What the resolvers of subscriptions are given: a probe, into which they write what is subscribed to, or one frame,
//! which they turn into one result. So they do no I/O, and whatever is valid GraphQL works on every stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_graphql::Context;
use async_graphql_parser::types::{ExecutableDocument, Selection, SelectionSet};
use proto::DialogId;

use crate::{
    error::Error,
    hub::{messages, read_states, unread},
    version::Version,
};

/// What an operation subscribes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The caller's counters.
    Unread {
        /// The version that the caller has.
        since: Option<Version>,
    },
    /// The messages of a dialog.
    Messages {
        /// Of which dialog.
        dialog: DialogId,
        /// The version that the caller has; number 0: from the beginning.
        since: Option<Version>,
    },
    /// The read states of a dialog.
    ReadStates {
        /// Of which dialog.
        dialog: DialogId,
    },
}

impl Start {
    /// After the result with this cursor, where nothing else is said.
    ///
    /// # Errors
    /// BAD_USER_INPUT where it is no version.
    pub fn after(mut self, cursor: Option<&str>) -> Result<Self, Error> {
        if let (
            Self::Unread { since: since @ None } | Self::Messages { since: since @ None, .. },
            Some(cursor),
        ) = (&mut self, cursor)
        {
            let version = cursor.parse().map_err(|_| Error::input("`Last-Event-ID` is not a version"))?;
            *since = Some(version);
        }
        Ok(self)
    }
}

/// A frame of a hub.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Of the caller's counters.
    Unread(unread::frame::Frame),
    /// Of the messages of a dialog.
    Message(DialogId, messages::frame::Frame),
    /// Of the read states of a dialog.
    ReadState(DialogId, read_states::ReadState),
}

impl Frame {
    /// The version to resume from after it.
    pub fn cursor(&self) -> Option<Version> {
        match self {
            Self::Unread(frame) => Some(frame.version),
            Self::Message(_, frame) => Some(frame.version),
            Self::ReadState(..) => None,
        }
    }
}

/// What the resolvers are given, in the request's data.
#[derive(Debug, Clone)]
pub enum ResolverInput {
    /// To be told what is subscribed to.
    Probe(Started),
    /// To be turned into a result.
    Frame(Arc<Frame>),
}

/// What a probe was told.
#[derive(Debug, Clone, Default)]
pub struct Started(Arc<Mutex<Vec<Start>>>);

impl Started {
    /// What was written until now.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Start>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolverInput {
    /// A probe, and where it writes.
    pub fn probe() -> (Self, Started) {
        let started = Started::default();
        (Self::Probe(started.clone()), started)
    }

    /// One frame.
    pub fn frame(frame: Frame) -> Self {
        Self::Frame(Arc::new(frame))
    }

    /// For a resolver: tells a probe what is subscribed to, or gives the frame.
    ///
    /// # Errors
    /// INTERNAL where a subscription is executed like a query.
    pub fn begin(ctx: &Context<'_>, start: Start) -> Result<Option<Arc<Frame>>, Error> {
        match ctx.data::<Self>() {
            Ok(Self::Probe(started)) => {
                started.lock().push(start);
                Ok(None)
            }
            Ok(Self::Frame(frame)) => Ok(Some(frame.clone())),
            Err(_) => Err(Error::internal("a subscription without a feed")),
        }
    }
}

/// The fields that show what is in a frame, and nothing that depends on whose token asks for more.
const OF_FRAMES: &[&str] = &[
    "__typename",
    "changed",
    "createdAt",
    "deletedAt",
    "dialogId",
    "failureReason",
    "id",
    "kind",
    "lastSeq",
    "message",
    "messages",
    "previousVersion",
    "readSeq",
    "readStates",
    "senderId",
    "seq",
    "status",
    "text",
    "total",
    "transactionId",
    "truncated",
    "unread",
    "userId",
    "version",
];

/// Whether an operation asks for anything that is not in the frames themselves, as `sender` or `dialog`. Its results are
/// shared by the same person's sockets only.
pub fn looks_beyond(document: &ExecutableDocument) -> bool {
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
    operations.chain(fragments).any(selects_beyond)
}

fn selects_beyond(set: &SelectionSet) -> bool {
    set.items.iter().any(|selection| match &selection.node {
        Selection::Field(field) => {
            !OF_FRAMES.contains(&field.node.name.node.as_str())
                || selects_beyond(&field.node.selection_set.node)
        }
        Selection::FragmentSpread(_) => false,
        Selection::InlineFragment(fragment) => selects_beyond(&fragment.node.selection_set.node),
    })
}

#[cfg(test)]
mod tests {
    use async_graphql_parser::parse_query;

    use super::*;

    #[test]
    fn a_cursor_counts_where_the_operation_says_nothing_else() {
        let (dialog, own, other) = (DialogId::now(), Version::new(1, 4), Some(Version::new(1, 2)));
        let started = |start: Start, cursor| start.after(cursor);
        for (start, resumed) in [
            (Start::Unread { since: None }, Start::Unread { since: Some(own) }),
            (Start::Unread { since: other }, Start::Unread { since: other }),
            (Start::Messages { dialog, since: None }, Start::Messages { dialog, since: Some(own) }),
            (Start::Messages { dialog, since: other }, Start::Messages { dialog, since: other }),
            (Start::ReadStates { dialog }, Start::ReadStates { dialog }),
        ] {
            assert_eq!(started(start.clone(), None), Ok(start.clone()));
            assert_eq!(started(start, Some("1-4")), Ok(resumed));
        }
        let strange = started(Start::Unread { since: None }, Some("yesterday")).expect_err("refused");
        assert_eq!(strange.code(), crate::error::Code::BadUserInput);
        assert!(
            started(Start::ReadStates { dialog }, Some("yesterday")).is_ok(),
            "there is nothing to resume"
        );
    }

    #[test]
    fn only_what_is_in_the_frames_is_shared_between_people() {
        for (text, beyond) in [
            ("subscription { messages(dialogId: 1) { kind message { id text senderId status } } }", false),
            (
                "subscription { m: messages(dialogId: 1) { ...F } } fragment F on MessageEvent { version }",
                false,
            ),
            ("subscription { messages(dialogId: 1) { message { sender { id } } } }", true),
            ("subscription { messages(dialogId: 1) { message { text: sender { id } } } }", true),
            (
                "subscription { messages(dialogId: 1) { ...F } } fragment F on MessageEvent { message { ... { sender { id } } } }",
                true,
            ),
            ("subscription { readStates(dialogId: 1) { userId readSeq } }", false),
            ("subscription { readStates(dialogId: 1) { user { name } } }", true),
            ("subscription { messages(dialogId: 1) { message { anythingNew } } }", true),
        ] {
            assert_eq!(looks_beyond(&parse_query(text).expect(text)), beyond, "{text}");
        }
    }
}
