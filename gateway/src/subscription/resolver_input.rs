//! Input of the resolvers of subscription fields, in the data of their request.
//!
//! A probe records the [`Target`] of each executed field. A frame is the input of one result. The resolvers
//! themselves therefore do no I/O, and aliases, fragments and directives work as in a query.

use std::sync::Arc;

use async_graphql::Context;
use async_graphql_parser::types::{ExecutableDocument, Selection, SelectionSet};
use parking_lot::Mutex;
use proto::DialogId;

use crate::{
    error::Error,
    hub::{dialogs, messages, read_states, unread},
    version::Version,
};

/// Target of a subscription: its field, with the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The caller's unread counts.
    Unread {
        /// Version of the client's state.
        since: Option<Version>,
    },
    /// The caller's list of dialogs.
    Dialogs,
    /// The messages of a dialog.
    Messages {
        /// The dialog.
        dialog: DialogId,
        /// Version of the client's state. Number 0 replays from the start.
        since: Option<Version>,
    },
    /// The read states of a dialog.
    ReadStates {
        /// The dialog.
        dialog: DialogId,
    },
}

impl Target {
    /// Resumes after the result with this cursor, unless the operation itself has the argument `since`.
    ///
    /// # Errors
    /// BAD_USER_INPUT if the cursor of `messages` is not a version.
    pub fn resume_after(mut self, cursor: Option<&str>) -> Result<Self, Error> {
        match (&mut self, cursor) {
            // A cursor that is no version is not the newest one: the first frame is a SNAPSHOT.
            (Self::Unread { since: since @ None }, Some(cursor)) => *since = cursor.parse().ok(),
            (Self::Messages { since: since @ None, .. }, Some(cursor)) => {
                let version = cursor.parse().map_err(|_| Error::input("`Last-Event-ID` is not a version"))?;
                *since = Some(version);
            }
            _ => {}
        }
        Ok(self)
    }
}

/// Frame of a hub.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Frame of the caller's unread counts.
    Unread(unread::frame::Frame),
    /// Frame of the caller's list of dialogs.
    DialogChange(dialogs::Frame),
    /// Frame of the messages of a dialog.
    Message(DialogId, messages::frame::Frame),
    /// Frame of the read states of a dialog.
    ReadState(DialogId, read_states::ReadState),
}

impl Frame {
    /// Returns how many times smaller this frame is than the largest one, on which the cost of its operation
    /// is based.
    pub fn share_of_largest(&self) -> usize {
        match self {
            Self::Unread(frame) => unread::ROWS_MAX / frame.rows.len().clamp(1, unread::ROWS_MAX),
            Self::DialogChange(_) | Self::Message(..) | Self::ReadState(..) => 1,
        }
    }

    /// Returns the version to resume from after this frame. `None` if its stream cannot be resumed.
    pub fn cursor(&self) -> Option<Version> {
        match self {
            Self::Unread(frame) => Some(frame.version),
            Self::Message(_, frame) => Some(frame.version),
            Self::DialogChange(_) | Self::ReadState(..) => None,
        }
    }
}

/// Input of a subscription's resolvers, in the request's data.
#[derive(Debug, Clone)]
pub enum ResolverInput {
    /// The resolver records its target.
    Probe(Probe),
    /// The resolver returns this frame.
    Frame(Arc<Frame>),
}

/// Targets that the resolvers of one execution recorded. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Probe(Arc<Mutex<Vec<Target>>>);

impl Probe {
    /// Removes and returns the recorded targets.
    pub fn take_targets(&self) -> Vec<Target> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl ResolverInput {
    /// Creates the input for one frame.
    pub fn frame(frame: Frame) -> Self {
        Self::Frame(Arc::new(frame))
    }

    /// Called by a resolver: returns the frame, or records the target in a probe and returns `None`.
    ///
    /// # Errors
    /// INTERNAL if the request has no input.
    pub fn frame_for(ctx: &Context<'_>, target: Target) -> Result<Option<Arc<Frame>>, Error> {
        match ctx.data::<Self>() {
            Ok(Self::Probe(probe)) => {
                probe.0.lock().push(target);
                Ok(None)
            }
            Ok(Self::Frame(frame)) => Ok(Some(frame.clone())),
            Err(_) => Err(Error::internal("a subscription was executed without input")),
        }
    }
}

/// Fields that a frame answers. The other fields call services with the caller's token. A new field
/// counts as one of the others until it is listed here: sharing its results between users could reveal
/// them.
const FRAME_FIELDS: &[&str] = &[
    "__typename",
    "changed",
    "createdAt",
    "deletedAt",
    "dialogs",
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

/// Returns true if an operation selects a field that calls services, for example `sender` or `dialog`.
/// The results of such an operation are not shared between streams.
pub fn calls_services(document: &ExecutableDocument) -> bool {
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
    operations.chain(fragments).any(selects_service_fields)
}

fn selects_service_fields(set: &SelectionSet) -> bool {
    set.items.iter().any(|selection| match &selection.node {
        Selection::Field(field) => {
            !FRAME_FIELDS.contains(&field.node.name.node.as_str())
                || selects_service_fields(&field.node.selection_set.node)
        }
        Selection::FragmentSpread(_) => false,
        Selection::InlineFragment(fragment) => selects_service_fields(&fragment.node.selection_set.node),
    })
}

#[cfg(test)]
mod tests {
    use async_graphql_parser::parse_query;

    use super::*;

    #[test]
    fn the_cursor_is_used_unless_the_operation_has_since() {
        let dialog = DialogId::now();
        let cursor = Version::new(1, 4);
        let other = Some(Version::new(1, 2));
        for (target, resumed) in [
            (Target::Unread { since: None }, Target::Unread { since: Some(cursor) }),
            (Target::Unread { since: other }, Target::Unread { since: other }),
            (Target::Messages { dialog, since: None }, Target::Messages { dialog, since: Some(cursor) }),
            (Target::Messages { dialog, since: other }, Target::Messages { dialog, since: other }),
            (Target::ReadStates { dialog }, Target::ReadStates { dialog }),
        ] {
            assert_eq!(target.clone().resume_after(None), Ok(target.clone()));
            assert_eq!(target.resume_after(Some("1-4")), Ok(resumed));
        }
        for strange in ["yesterday", "", "0", "01-0"] {
            let snapshot = Target::Unread { since: None };
            assert_eq!(snapshot.clone().resume_after(Some(strange)), Ok(snapshot), "{strange}");
        }
        let messages = Target::Messages { dialog, since: None };
        let error = messages.resume_after(Some("yesterday")).expect_err("not a version");
        assert_eq!(error.code(), crate::error::Code::BadUserInput);
        assert!(
            Target::ReadStates { dialog }.resume_after(Some("yesterday")).is_ok(),
            "this stream cannot be resumed"
        );
    }

    #[test]
    fn only_operations_that_frames_answer_are_shared_between_users() {
        for (text, expected) in [
            ("subscription { messages(dialogId: 1) { kind message { id text senderId status } } }", false),
            (
                "subscription { m: messages(dialogId: 1) { ...F } } fragment F on MessageEvent { version }",
                false,
            ),
            ("subscription { messages(dialogId: 1) { message { sender { id } } } }", true),
            ("subscription { messages(dialogId: 1) { message { text: sender { id } } } }", true),
            (
                "subscription { messages(dialogId: 1) { ...F } } \
                 fragment F on MessageEvent { message { ... { sender { id } } } }",
                true,
            ),
            ("subscription { readStates(dialogId: 1) { userId readSeq } }", false),
            ("subscription { readStates(dialogId: 1) { user { name } } }", true),
            ("subscription { dialogs { kind dialogId } }", false),
            ("subscription { dialogs { kind dialog { id } } }", true),
            ("subscription { messages(dialogId: 1) { message { anythingNew } } }", true),
        ] {
            assert_eq!(calls_services(&parse_query(text).expect(text)), expected, "{text}");
        }
    }
}
