//! The subscription root. The resolvers do no I/O. Executed at the start of a subscription, they report
//! which hub stream it needs; executed for a frame, they convert the frame into one result (see
//! [`crate::subscription`]).

use std::sync::Arc;

use async_graphql::{Context, Enum, ID, Object, SimpleObject};
use futures_util::stream::{self, Iter};
use proto::dialog::Status;

use super::{Dialog, DialogUnread, Message, ReadState, Scope, page};
use crate::{
    error::{Code, Error},
    hub::{dialogs, messages, unread},
    subscription::resolver_input::{Frame, ResolverInput, Target},
    version::Version,
};

/// The stream that a resolver returns: one result for a frame, none at the start of a subscription.
type AtMostOne<T> = Iter<std::option::IntoIter<T>>;

/// The kind of a frame of `unread`.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadEventKind {
    /// The whole state, which replaces the client's state: the dialogs that have unread messages, newest
    /// activity first, at most 1,000. `truncated` is true if there are more.
    Snapshot,
    /// The rows that changed since the previous frame, including rows that became zero, dialogs that the
    /// caller joined and dialogs that the caller left. One frame may merge several changes.
    Change,
    /// The first frame if `since` is the newest version: nothing has changed.
    Current,
}

/// A frame of `unread`. All numbers are absolute values, never differences.
#[derive(SimpleObject, Debug)]
pub struct UnreadEvent {
    /// The kind of the frame.
    kind: UnreadEventKind,
    /// The version after this frame, `epoch-number`. Pass it as `since` to resume from here.
    version: String,
    /// The version of the previous frame of this stream. Null in the first frame.
    previous_version: Option<String>,
    /// The number of unread messages in all of the caller's dialogs. Exact, even if rows are omitted.
    total: i64,
    /// All rows in a SNAPSHOT, the changed rows in a CHANGE, none in CURRENT.
    #[graphql(complexity = "page::list_cost(unread::ROWS_MAX, child_complexity)")]
    changed: Vec<DialogUnread>,
    /// True if a SNAPSHOT omits rows.
    truncated: bool,
    /// True if `total` may be wrong, because the counter service misses events of one of the caller's
    /// dialogs. It fetches them; a frame with `stale: false` follows.
    stale: Option<bool>,
}

/// The kind of a frame of `dialogs`.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialogEventKind {
    /// The first frame, and the next one whenever frames may have been lost: load the query `dialogs`.
    /// Has no dialog.
    Reset,
    /// The caller takes part in a dialog from now on: the caller created it or was added.
    Joined,
    /// The caller left a dialog, on any device. `dialog` is null.
    Left,
    /// A group has another title.
    Renamed,
}

/// A frame of `dialogs`: a change of the caller's list of dialogs.
#[derive(Debug)]
pub struct DialogEvent(dialogs::Frame);

/// A frame of `dialogs`: a change of the caller's list of dialogs. One frame may merge several changes of
/// a dialog.
#[Object]
impl DialogEvent {
    /// The kind of the frame.
    async fn kind(&self) -> DialogEventKind {
        match self.0.kind {
            dialogs::Kind::Reset => DialogEventKind::Reset,
            dialogs::Kind::Joined => DialogEventKind::Joined,
            dialogs::Kind::Left => DialogEventKind::Left,
            dialogs::Kind::Renamed => DialogEventKind::Renamed,
        }
    }

    /// The id of the dialog. Null in RESET.
    async fn dialog_id(&self) -> Option<ID> {
        self.0.dialog.map(ID::from)
    }

    /// The dialog. Null in RESET and LEFT, and if the caller does not take part in it any more. Null with an
    /// UNAVAILABLE error while the dialog service is unavailable.
    async fn dialog(&self, ctx: &Context<'_>) -> Result<Option<Arc<Dialog>>, Error> {
        match self.0.dialog.filter(|_| self.0.kind != dialogs::Kind::Left) {
            Some(dialog) => Scope::of(ctx).loaders.dialogs.load(dialog).await,
            None => Ok(None),
        }
    }
}

/// The kind of a frame of `messages`.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageEventKind {
    /// A message was stored.
    Sent,
    /// A message was counted.
    Committed,
    /// The counter service refused a message. Only its author receives the text and the reason.
    Failed,
    /// A message was deleted by its author.
    Deleted,
    /// Too many changes to replay: reload the history. Has no message.
    Reset,
    /// The first frame if nothing is replayed. Has the version to resume from and no message.
    Current,
}

/// A frame of `messages`: the newest state of one message and its latest event. One frame may merge
/// several events of a message.
#[derive(SimpleObject, Debug)]
pub struct MessageEvent {
    /// The kind of the frame.
    kind: MessageEventKind,
    /// The version of the dialog, `epoch-number`. Pass it as `since` to resume from here.
    version: String,
    /// The message. Null in RESET and CURRENT.
    message: Option<Message>,
}

/// The subscription root.
pub struct Subscription;

/// Streams over WebSocket or HTTP. All of them require authentication. A stream starts with the current
/// state (`dialogs` with RESET) and then sends every change. If a client reads slowly, its frames are
/// merged, so that it skips to the newest state. A client that lost its connection resumes `unread` and
/// `messages` with `since`.
#[async_graphql::Subscription]
impl Subscription {
    /// The caller's counters: the current state, then every change.
    async fn unread(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "The version of the client's state. The first frame is CURRENT if it is the newest \
            version, otherwise a SNAPSHOT."
        )]
        since: Option<String>,
    ) -> Result<AtMostOne<UnreadEvent>, Error> {
        Scope::of(ctx).caller()?;
        // A text that is no version is not the newest one: the first frame is a SNAPSHOT.
        let since = since.and_then(|text| text.parse().ok());
        let frame = ResolverInput::frame_for(ctx, Target::Unread { since })?;
        at_most_one(frame.as_deref().map(UnreadEvent::try_from))
    }

    /// The caller's list of dialogs: RESET, then a frame for every dialog that the caller joins or leaves
    /// and for every new title.
    async fn dialogs(&self, ctx: &Context<'_>) -> Result<AtMostOne<DialogEvent>, Error> {
        Scope::of(ctx).caller()?;
        let frame = ResolverInput::frame_for(ctx, Target::Dialogs)?;
        at_most_one(frame.as_deref().map(|frame| match frame {
            Frame::DialogChange(frame) => Ok(DialogEvent(*frame)),
            _ => Err(other_stream()),
        }))
    }

    /// The messages of a dialog: those that changed after `since`, then every change. The stream ends
    /// when the caller leaves the dialog.
    async fn messages(
        &self,
        ctx: &Context<'_>,
        dialog_id: ID,
        #[graphql(
            desc = "The version of the last received frame, or \"0\" to replay from the start. Without it, \
            nothing is replayed."
        )]
        since: Option<String>,
    ) -> Result<AtMostOne<MessageEvent>, Error> {
        Scope::of(ctx).caller()?;
        let dialog = dialog_id.parse().map_err(|_| no_such_dialog())?;
        let since = since.as_deref().map(parse_dialog_version).transpose()?;
        let frame = ResolverInput::frame_for(ctx, Target::Messages { dialog, since })?;
        at_most_one(frame.as_deref().map(MessageEvent::try_from))
    }

    /// The read receipts of a dialog: those of all participants, then every change. The stream ends when
    /// the caller leaves the dialog.
    async fn read_states(&self, ctx: &Context<'_>, dialog_id: ID) -> Result<AtMostOne<ReadState>, Error> {
        Scope::of(ctx).caller()?;
        let dialog = dialog_id.parse().map_err(|_| no_such_dialog())?;
        let frame = ResolverInput::frame_for(ctx, Target::ReadStates { dialog })?;
        at_most_one(frame.as_deref().map(|frame| match frame {
            Frame::ReadState(_, state) => Ok(ReadState { user: state.user, read_seq: state.read_seq }),
            _ => Err(other_stream()),
        }))
    }
}

fn at_most_one<T>(result: Option<Result<T, Error>>) -> Result<AtMostOne<T>, Error> {
    Ok(stream::iter(result.transpose()?))
}

/// A malformed id is NOT_FOUND, the same as the id of a dialog that the caller may not see.
fn no_such_dialog() -> Error {
    Error::new(Code::NotFound, "there is no such dialog")
}

fn other_stream() -> Error {
    Error::internal("frame of another stream")
}

/// Parses the `since` of `messages`. `"0"` is a version before all others, in every epoch.
fn parse_dialog_version(text: &str) -> Result<Version, Error> {
    if text == "0" {
        return Ok(Version::new(0, 0));
    }
    text.parse().map_err(|_| Error::input("`since` is not a version"))
}

impl TryFrom<&Frame> for UnreadEvent {
    type Error = Error;

    fn try_from(frame: &Frame) -> Result<Self, Error> {
        let Frame::Unread(frame) = frame else { return Err(other_stream()) };
        let row = |row: &unread::frame::Row| DialogUnread {
            dialog: row.dialog,
            unread: row.unread,
            read_seq: row.read_seq,
            last_seq: row.last_seq,
            stale: row.stale,
        };
        Ok(Self {
            kind: match frame.kind {
                unread::frame::Kind::Snapshot => UnreadEventKind::Snapshot,
                unread::frame::Kind::Change => UnreadEventKind::Change,
                unread::frame::Kind::Current => UnreadEventKind::Current,
            },
            version: frame.version.to_string(),
            previous_version: frame.previous.map(|version| version.to_string()),
            total: frame.total,
            changed: frame.rows.iter().map(row).collect(),
            truncated: frame.truncated,
            stale: Some(frame.stale),
        })
    }
}

impl TryFrom<&Frame> for MessageEvent {
    type Error = Error;

    /// Removes the reason, and the text of a failed message, for readers other than the author.
    fn try_from(frame: &Frame) -> Result<Self, Error> {
        use messages::frame::Kind;
        let Frame::Message(_, frame) = frame else { return Err(other_stream()) };
        let message = frame.message.as_deref().map(|message| {
            let mut message = message.clone();
            if !frame.author {
                message.failure_reason = None;
                if message.status() == Status::Failed {
                    message.text.clear();
                }
            }
            Message::try_from(message)
        });
        Ok(Self {
            kind: match frame.kind {
                Kind::Sent => MessageEventKind::Sent,
                Kind::Committed => MessageEventKind::Committed,
                Kind::Failed => MessageEventKind::Failed,
                Kind::Deleted => MessageEventKind::Deleted,
                Kind::Reset => MessageEventKind::Reset,
                Kind::Current => MessageEventKind::Current,
            },
            version: frame.version.to_string(),
            message: message.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::{DialogId, MessageId, TransactionId, UserId, dialog};

    use super::*;

    #[test]
    fn only_the_author_reads_text_and_reason_of_a_failed_message() {
        let author = UserId::now();
        let mut message = dialog::Message {
            id: MessageId::now().bytes(),
            dialog_id: DialogId::now().bytes(),
            sender_id: author.bytes(),
            transaction_id: TransactionId::now().bytes(),
            text: "words".to_owned(),
            failure_reason: Some("full".to_owned()),
            ..dialog::Message::default()
        };
        message.set_status(Status::Failed);
        let message = Arc::new(message);
        for (reader, text, reason) in [(author, "words", Some("full")), (UserId::now(), "", None)] {
            let version = Version::new(1, 1);
            let frame = messages::frame::Frame::with_message(
                messages::frame::Kind::Failed,
                version,
                message.clone(),
                reader,
            );
            let event = MessageEvent::try_from(&Frame::Message(DialogId::now(), frame)).expect("an event");
            let shown = event.message.expect("a message");
            assert_eq!((shown.text.as_str(), shown.failure_reason.as_deref()), (text, reason));
        }
    }

    #[test]
    fn a_dialog_version_is_epoch_and_number_or_0() {
        assert_eq!(parse_dialog_version("0"), Ok(Version::new(0, 0)));
        assert_eq!(parse_dialog_version("3-7"), Ok(Version::new(3, 7)));
        for text in ["", "00", "-1", "7", "x"] {
            assert!(parse_dialog_version(text).is_err(), "{text}");
        }
    }
}
