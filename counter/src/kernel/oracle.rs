//! Oracle: computes the expected dialogs from the complete list of inputs, each number by its definition
//! and without intermediate state. It shares no rule with the kernel.

use std::collections::BTreeSet;

use proto::{DialogId, UserId};

use super::{
    Change, Dialog, FAILED_BEFORE, Input, Member, Membership, State,
    applied::{Applied, Missing},
    ledger::{Entry, EntryState, Message, VoidReason},
};

/// Returns the dialogs after these inputs. Versions of users are not computed.
pub(super) fn expected(history: &[Input]) -> State {
    let mut state = State::default();
    let dialogs: BTreeSet<DialogId> =
        history.iter().filter_map(|input| dialog_of(input).map(|(dialog_id, ..)| dialog_id)).collect();
    for dialog_id in dialogs {
        let events: Vec<(Option<i64>, &Change)> = history
            .iter()
            .filter_map(dialog_of)
            .filter(|(dialog, ..)| *dialog == dialog_id)
            .map(|(_, version, change)| (version, change))
            .collect();
        state.dialogs.insert(dialog_id, dialog(&events));
    }
    state
}

fn dialog_of(input: &Input) -> Option<(DialogId, Option<i64>, &Change)> {
    match input {
        Input::Registered(_) => None,
        Input::Dialog { dialog_id, version, change } => Some((*dialog_id, *version, change)),
    }
}

fn dialog(events: &[(Option<i64>, &Change)]) -> Dialog {
    let mut dialog = Dialog::default();
    let messages: Vec<(&Message, &Change)> =
        events.iter().filter_map(|(_, change)| message(change).map(|message| (message, *change))).collect();
    for (first, _) in &messages {
        dialog.ledger.entry(first.seq).or_insert_with(|| {
            let changes: Vec<&Change> =
                messages.iter().filter(|(each, _)| *each == *first).map(|(_, change)| *change).collect();
            Entry { message_id: first.id, author_id: first.author_id, state: entry_state(&changes) }
        });
    }
    let users: BTreeSet<UserId> = events.iter().filter_map(|(_, change)| user(change)).collect();
    for user_id in users {
        let member = member(user_id, events, &dialog);
        dialog.members.insert(user_id, member);
    }
    dialog.applied = applied(events, &dialog);
    dialog
}

fn message(change: &Change) -> Option<&Message> {
    match change {
        Change::Sent(message, _)
        | Change::Refused(message, _)
        | Change::Deleted(message)
        | Change::Failed(message) => Some(message),
        _ => None,
    }
}

fn user(change: &Change) -> Option<UserId> {
    match change {
        Change::Joined { user_id, .. } | Change::Left { user_id, .. } => Some(*user_id),
        Change::Read { user_id, up_to } if *up_to > 0 => Some(*user_id),
        _ => None,
    }
}

/// Void if any change of the message makes it void, for the reason of the first such change. A refusal
/// counts only as the first change: a message counted once is not refused later.
fn entry_state(changes: &[&Change]) -> EntryState {
    for (index, change) in changes.iter().enumerate() {
        match change {
            Change::Refused(_, reason) if index == 0 => {
                return EntryState::Void(VoidReason::Refused(reason.clone()));
            }
            Change::Deleted(_) => return EntryState::Void(VoidReason::Deleted),
            Change::Failed(_) => return EntryState::Void(VoidReason::Refused(FAILED_BEFORE.to_owned())),
            _ => {}
        }
    }
    EntryState::Counted
}

fn member(user_id: UserId, events: &[(Option<i64>, &Change)], dialog: &Dialog) -> Member {
    let mut member = Member::default();
    for (_, change) in events {
        match change {
            Change::Joined { user_id: other, version, joined_seq }
                if *other == user_id && *version > member.version =>
            {
                member.version = *version;
                member.membership = Membership::Joined(*joined_seq);
            }
            Change::Left { user_id: other, version } if *other == user_id && *version > member.version => {
                member.version = *version;
                member.membership = Membership::Left;
            }
            Change::Read { user_id: other, up_to } if *other == user_id => {
                member.read_seq = member.read_seq.max(*up_to)
            }
            _ => {}
        }
    }
    let is_own = |seq: &i64| dialog.ledger.get(seq).is_some_and(|entry| entry.author_id == user_id);
    member.read_seq += (member.read_seq + 1..).take_while(is_own).count() as i64;
    if let Membership::Joined(joined_seq) = member.membership {
        for (seq, entry) in &dialog.ledger {
            let by_other = entry.author_id != user_id && entry.state == EntryState::Counted;
            member.unread += i64::from(by_other && *seq > joined_seq && *seq > member.read_seq);
        }
    }
    member
}

fn applied(events: &[(Option<i64>, &Change)], dialog: &Dialog) -> Applied {
    let mut missing = BTreeSet::new();
    let mut newest = 0;
    let mut last_at_us = 0;
    for (index, (version, change)) in events.iter().enumerate() {
        if let Some(version) = version {
            missing.extend(newest + 1..*version);
            missing.remove(version);
            newest = newest.max(*version);
        }
        if let Change::Repaired(head) = change {
            missing.retain(|version| version > head);
        }
        if let Change::Sent(message, at_us) = change {
            let same_message = |each: &&Change| self::message(each).is_some_and(|other| other == message);
            let so_far: Vec<&Change> =
                events[..=index].iter().map(|(_, change)| *change).filter(same_message).collect();
            let refused = matches!(entry_state(&so_far), EntryState::Void(VoidReason::Refused(_)));
            if !refused && dialog.ledger[&message.seq].message_id == message.id {
                last_at_us = last_at_us.max(*at_us);
            }
        }
    }
    let mut applied = Applied { version: newest, last_at_us, ..Applied::default() };
    applied.last_seq = dialog.ledger.keys().max().copied().unwrap_or(0);
    applied.missing = Missing(ranges(&missing));
    applied
}

fn ranges(missing: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let from = missing.iter().filter(|version| !missing.contains(&(*version - 1)));
    let to = missing.iter().filter(|version| !missing.contains(&(*version + 1)));
    from.copied().zip(to.copied()).collect()
}
