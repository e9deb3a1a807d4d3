//! Comparison of the stored state of a dialog with its source.

use proto::{DialogId, UserId};

use super::{Drift, Source, Subject, source::Settlement};
use crate::kernel::{
    Dialog, Member, Membership,
    ledger::{EntryState, VoidReason},
};

/// Result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) drift: Vec<Drift>,
    /// Number of rows of the source whose last change the counter has not applied yet.
    pub(crate) in_flight: usize,
}

/// Compares the stored state with a source that was loaded after it.
///
/// Only those rows of the source are compared whose last change was applied. The counter learns of two
/// changes before their events: of messages that dialog has it settle, and of members who leave. Both are
/// rows that the source has too, with a version that was not applied.
pub(crate) fn compare(dialog_id: DialogId, source: &Source, stored: &Dialog) -> Comparison {
    let mut comparison = Comparison::default();
    let mut found = |subject, was: String, expected: String| {
        comparison.drift.push(Drift { dialog_id, subject, stored: was, expected });
    };
    let mut in_flight = 0;
    for (user_id, member) in &stored.members {
        let counted = member.unread_messages(*user_id, &stored.ledger).count() as i64;
        if member.unread != counted {
            found(Subject::Count(*user_id), member.unread.to_string(), counted.to_string());
        }
        let is_member = member.membership != Membership::Unknown;
        if is_member && !source.members.contains_key(user_id) {
            found(Subject::Membership(*user_id), membership_text(member), ABSENT.to_owned());
        }
    }
    for (seq, message) in &source.messages {
        let entry = stored.ledger.get(seq);
        let is_other = entry.is_some_and(|entry| entry.message_id != message.message.id);
        if !stored.applied.has_applied(message.version) && !is_other {
            in_flight += 1;
            continue;
        }
        let expected = expected_states(message.settlement);
        if is_other || !entry.is_some_and(|entry| expected.contains(&state_text(&entry.state))) {
            let was = match entry {
                Some(entry) if is_other => format!("message {}", entry.message_id),
                Some(entry) => state_text(&entry.state).to_owned(),
                None => ABSENT.to_owned(),
            };
            found(Subject::Message(*seq), was, expected.join(" or "));
        }
    }
    for (seq, entry) in &stored.ledger {
        if !source.messages.contains_key(seq) {
            found(Subject::Message(*seq), state_text(&entry.state).to_owned(), ABSENT.to_owned());
        }
    }
    for (user_id, member) in &source.members {
        let default = Member::default();
        let known = stored.members.get(user_id).unwrap_or(&default);
        if !stored.applied.has_applied(member.version) {
            in_flight += 1;
        } else if (known.version, known.membership) != (member.version, member.membership) {
            let expected = text_of(member.membership, member.version);
            found(Subject::Membership(*user_id), membership_text(known), expected);
        }
    }
    comparison.in_flight = in_flight;
    comparison
}

/// Drift in place of a value that is not there.
const ABSENT: &str = "absent";

/// Returns the texts of the states that the entry of a message with this settlement may have.
fn expected_states(settlement: Settlement) -> &'static [&'static str] {
    match settlement {
        Settlement::Pending { deleted: false } => &["counted", "refused"],
        Settlement::Committed { deleted: false } => &["counted"],
        Settlement::Pending { deleted: true } | Settlement::Failed => &["refused", "deleted"],
        Settlement::Committed { deleted: true } => &["deleted"],
    }
}

fn state_text(state: &EntryState) -> &'static str {
    match state {
        EntryState::Counted => "counted",
        EntryState::Void(VoidReason::Refused(_)) => "refused",
        EntryState::Void(VoidReason::Deleted) => "deleted",
    }
}

fn membership_text(member: &Member) -> String {
    text_of(member.membership, member.version)
}

fn text_of(membership: Membership, version: i64) -> String {
    match membership {
        Membership::Unknown => ABSENT.to_owned(),
        Membership::Joined(joined_seq) => format!("joined after {joined_seq} in version {version}"),
        Membership::Left => format!("left in version {version}"),
    }
}

/// Compares the versions up to which events were applied; `None` if they agree.
pub(crate) fn events_drift(dialog_id: DialogId, head: i64, stored: &Dialog) -> Option<Drift> {
    let applied = &stored.applied;
    if applied.version >= head && applied.missing.is_empty() {
        return None;
    }
    let missing = if applied.missing.is_empty() { "" } else { ", with gaps" };
    let stored = format!("version {}{missing}", applied.version);
    Some(Drift { dialog_id, subject: Subject::Events, stored, expected: format!("version {head}") })
}

/// Returns a drift of the cached total of a user.
pub(crate) fn cache_drift(dialog_id: DialogId, user_id: UserId, cached: i64, stored: i64) -> Drift {
    let subject = Subject::Cache(user_id);
    Drift { dialog_id, subject, stored: cached.to_string(), expected: stored.to_string() }
}
