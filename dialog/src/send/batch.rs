//! Batch of sends, stored by one transaction with the same number of statements for any number of
//! sends: claim the client keys, lock the dialogs, check the authors, then number and write the messages
//! that may be sent.
//!
//! Each step is a statement of its own, in this order, because a statement that waits for a lock sees
//! the other rows as they were before the wait: an author who left in the meantime would still be a
//! participant. Numbers are given after the refused sends are dropped, so refusals leave no gap
//! (docs/decisions/0020-group-commit.md).

use std::collections::{BTreeMap, BTreeSet};

use db::{Error, Tx};
use events::Headers;
use proto::{DialogId, MessageId, UserId, events::event::Kind};

use super::{NewMessage, message_sent};
use crate::{
    locked_dialog::LockedDialog,
    message::{Message, Status},
    store::{
        self,
        key::{self, NewClaim},
        message::{self, Author, Authorship},
    },
};

/// Send that waits to be stored.
#[derive(Debug)]
pub(super) struct Send {
    pub author: UserId,
    pub new: NewMessage,
    /// Headers of the request, for the event that follows from it.
    pub cause: Headers,
}

/// Outcome of one send.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Stored as PENDING.
    Stored(Message),
    /// The client key was used before; nothing is stored.
    Repeated,
    /// There is no such dialog, or the author does not take part in it; nothing is stored.
    NoDialog,
    /// `read_up_to` is not a message of the dialog; nothing is stored.
    NoReadMessage,
}

/// Stores sends and returns their outcomes, in order. No two of them may have the same author and client
/// key.
pub(super) async fn store(tx: &mut Tx, sends: &[Send]) -> Result<Vec<Outcome>, Error> {
    // Lock order: the client keys before the dialogs, as in `create`, and both sorted.
    let repeated = claim_keys(tx, sends).await?;
    let is_new = |send: &&Send| !repeated.contains(&send.new.id);
    let ids: BTreeSet<DialogId> = sends.iter().filter(is_new).map(|send| send.new.dialog_id).collect();
    let mut dialogs = BTreeMap::new();
    let mut authors = BTreeMap::new();
    if !ids.is_empty() {
        dialogs = store::lock(tx, ids).await?;
        authors = message::authors(tx, sends.iter().filter(is_new).map(authorship)).await?;
    }
    let mut outcomes = Vec::with_capacity(sends.len());
    for send in sends {
        outcomes.push(if repeated.contains(&send.new.id) {
            Outcome::Repeated
        } else {
            number(send, authors.get(&send.new.id), &mut dialogs)
        });
    }
    let stored = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Stored(message) => Some(message),
        _ => None,
    });
    message::insert_all(tx, stored).await?;
    store::save_all(tx, dialogs.into_values()).await?;
    release_keys(tx, sends, &outcomes).await?;
    Ok(outcomes)
}

/// Claims the client keys of those sends that have one. Returns the ids of sends whose key was used
/// before.
async fn claim_keys(tx: &mut Tx, sends: &[Send]) -> Result<BTreeSet<MessageId>, Error> {
    let claims = sends.iter().filter_map(|send| {
        let NewMessage { id, dialog_id, text, client_key, .. } = &send.new;
        let key = client_key.as_ref()?;
        Some(NewClaim { author: send.author, key, id: *id, dialog_id: *dialog_id, hash: text.hash() })
    });
    let claims: Vec<NewClaim<'_>> = claims.collect();
    let claimed = key::claim_messages(tx, &claims).await?;
    Ok(claims.iter().map(|claim| claim.id).filter(|id| !claimed.contains(id)).collect())
}

fn authorship(send: &Send) -> Authorship {
    let NewMessage { id, dialog_id, read_up_to, .. } = send.new;
    Authorship { id, dialog_id, author_id: send.author, read_up_to }
}

/// Gives a message its numbers and records its event, if its author may send it.
fn number(send: &Send, author: Option<&Author>, dialogs: &mut BTreeMap<DialogId, LockedDialog>) -> Outcome {
    let new = &send.new;
    let (Some(author), Some(dialog)) = (author, dialogs.get_mut(&new.dialog_id)) else {
        return Outcome::NoDialog;
    };
    if new.read_up_to.is_some() && author.read_up_to == 0 {
        return Outcome::NoReadMessage;
    }
    dialog.head_seq += 1;
    // The maximum, because the database's clock can step back.
    dialog.last_activity_us = dialog.last_activity_us.max(author.now_us);
    let message = Message {
        id: new.id,
        dialog_id: new.dialog_id,
        seq: dialog.head_seq,
        author_id: send.author,
        text: new.text.as_str().to_owned(),
        status: Status::Pending,
        failure_reason: None,
        transaction_id: new.transaction_id,
        created_at_us: author.now_us,
        deleted_at_us: None,
        version: dialog.next_version(),
        read_up_to: author.read_up_to,
    };
    // The event id is the transaction id: the sweeper finds by it if the event is still in the outbox.
    let event = Kind::MessageSent(message_sent(&message));
    dialog.record_as(new.transaction_id.uuid(), event, &send.cause);
    Outcome::Stored(message)
}

/// Frees the client keys of refused sends, which store nothing.
async fn release_keys(tx: &mut Tx, sends: &[Send], outcomes: &[Outcome]) -> Result<(), Error> {
    let refused = sends.iter().zip(outcomes).filter_map(|(send, outcome)| match outcome {
        Outcome::NoDialog | Outcome::NoReadMessage => Some((send.author, send.new.client_key.as_ref()?)),
        Outcome::Stored(_) | Outcome::Repeated => None,
    });
    key::release_messages(tx, refused).await
}
