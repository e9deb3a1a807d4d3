//! State of a dialog at the dialog service, loaded in pages without a lock.

use std::{collections::BTreeMap, time::Duration};

use access::ServiceToken;
use proto::{
    DialogId, Peer, UserId,
    dialog::{ChangesSinceReply, ChangesSinceRequest, DialogVersionsRequest, dialogs_client::DialogsClient},
};
use telemetry::Call;
use tokio::time::Instant;

use crate::{
    Error, event,
    kernel::{Change, Membership, ledger::Message},
};

/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of changes in one call.
pub(crate) const CHANGES_MAX: i32 = 1_000;

/// State of a dialog at version `head`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// Version of the dialog; 0 if there is none.
    pub(crate) head: i64,
    /// Messages by `seq`.
    pub(crate) messages: BTreeMap<i64, SourceMessage>,
    /// Current and former participants.
    pub(crate) members: BTreeMap<UserId, SourceMember>,
}

/// Message of the dialog service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceMessage {
    /// Version of the dialog at the last change of the message.
    pub(crate) version: i64,
    pub(crate) message: Message,
    pub(crate) settlement: Settlement,
    /// Time in microseconds since the Unix epoch.
    pub(crate) at_us: i64,
    /// Seq up to which the author had read; 0 if not stated.
    pub(crate) read_up_to: i64,
}

/// Settlement of a message at the dialog service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The reply of the counter has not arrived.
    Pending { deleted: bool },
    /// The counter has counted it, or found it deleted.
    Committed { deleted: bool },
    /// The counter has refused it.
    Failed,
}

/// Participant, or former one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceMember {
    /// Version of the membership.
    pub(crate) version: i64,
    /// [`Membership::Joined`] or [`Membership::Left`].
    pub(crate) membership: Membership,
}

/// Row of the dialog service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceRow {
    Message(SourceMessage),
    Member(UserId, SourceMember),
}

impl SourceMessage {
    /// Returns the changes that lead to this state, without the read of the author.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let sent = Change::Sent(self.message, self.at_us);
        match self.settlement {
            Settlement::Failed => vec![Change::Failed(self.message)],
            // Its saga still waits for a reply, so it is sent too; deleted first, so that it never counts.
            Settlement::Pending { deleted: true } => vec![Change::Deleted(self.message), sent],
            Settlement::Committed { deleted: true } => vec![Change::Deleted(self.message)],
            Settlement::Pending { deleted: false } | Settlement::Committed { deleted: false } => vec![sent],
        }
    }
}

impl SourceMember {
    /// Returns the change that leads to this state.
    pub(crate) fn change(&self, user_id: UserId) -> Change {
        let version = self.version;
        match self.membership {
            Membership::Joined(joined_seq) => Change::Joined { user_id, version, joined_seq },
            Membership::Left | Membership::Unknown => Change::Left { user_id, version },
        }
    }
}

impl Source {
    /// Loads the state of a dialog.
    ///
    /// # Errors
    /// [`Error::Dialog`]; [`Error::InvalidEvent`] if a row is invalid.
    pub(crate) async fn load(dialog: &Peer, token: &ServiceToken, id: DialogId) -> Result<Self, Error> {
        let mut source = Self::default();
        source.read_on(dialog, token, id).await?;
        Ok(source)
    }

    /// Reads what has changed since `head`.
    ///
    /// A row that changes between two pages is read again: pages are ordered by version, and a change gives
    /// a row the newest one. So the rows at the end are those of the last page's head.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub(crate) async fn read_on(
        &mut self,
        dialog: &Peer,
        token: &ServiceToken,
        id: DialogId,
    ) -> Result<(), Error> {
        let mut since = self.head;
        loop {
            let reply = changes_since(dialog, service_call(token), id, since).await?;
            let is_last = reply.changes.len() < CHANGES_MAX as usize;
            for change in &reply.changes {
                self.insert(event::row(change)?);
            }
            self.head = reply.head;
            if is_last {
                return Ok(());
            }
            let newest = reply.changes.iter().map(|change| change.version).max().unwrap_or(since);
            if newest <= since {
                return Err(event::InvalidEvent("a full page of changes must advance the version").into());
            }
            since = newest;
        }
    }

    fn insert(&mut self, row: SourceRow) {
        match row {
            SourceRow::Message(message) => {
                self.messages.insert(message.message.seq, message);
            }
            SourceRow::Member(user_id, member) => {
                self.members.insert(user_id, member);
            }
        }
    }
}

/// Creates a call to another service, on behalf of no user.
pub(crate) fn service_call(token: &ServiceToken) -> Call {
    Call::new().with_authorization(&token.header()).with_deadline(Instant::now() + CALL_TIMEOUT)
}

/// Calls `ChangesSince` of the dialog service for one page.
///
/// # Errors
/// [`Error::Dialog`].
pub(crate) async fn changes_since(
    dialog: &Peer,
    call: Call,
    id: DialogId,
    since: i64,
) -> Result<ChangesSinceReply, Error> {
    let request = ChangesSinceRequest { dialog_id: id.bytes(), since, limit: CHANGES_MAX };
    let mut client = DialogsClient::with_interceptor(dialog.clone(), call)
        .max_decoding_message_size(proto::RESPONSE_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    Ok(client.changes_since(request).await.map_err(Error::Dialog)?.into_inner())
}

/// Calls `DialogVersions` of the dialog service: at most `limit` dialogs after `after`, by id.
///
/// # Errors
/// [`Error::Dialog`]; [`Error::Invalid`] if an id is malformed.
pub(crate) async fn versions(
    dialog: &Peer,
    token: &ServiceToken,
    after: Option<DialogId>,
    limit: i32,
) -> Result<Vec<(DialogId, i64)>, Error> {
    let request = DialogVersionsRequest { after_id: after.map(DialogId::bytes), limit };
    let mut client = DialogsClient::with_interceptor(dialog.clone(), service_call(token))
        .max_decoding_message_size(proto::RESPONSE_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    let reply = client.dialog_versions(request).await.map_err(Error::Dialog)?.into_inner();
    reply.dialogs.iter().map(|each| Ok((DialogId::parse(&each.dialog_id)?, each.version))).collect()
}
