//! What the counters must be, worked out the long way: from everything that ever came, from the beginning, each number by
//! its definition. It shares no rule with the kernel.

use std::collections::BTreeSet;

use proto::{DialogId, UserId};

use super::{
    Change, Dialog, FAILED_BEFORE, Input, Member, Membership, State,
    applied::{Applied, Missing},
    ledger::{Entry, Message, Standing, Why},
};

/// The dialogs after these events.
pub(super) fn expected(history: &[Input]) -> State {
    let mut state = State::default();
    let dialogs: BTreeSet<DialogId> =
        history.iter().filter_map(|input| of(input).map(|(dialog_id, ..)| dialog_id)).collect();
    for dialog_id in dialogs {
        let events: Vec<(Option<i64>, &Change)> = history
            .iter()
            .filter_map(of)
            .filter(|(dialog, ..)| *dialog == dialog_id)
            .map(|(_, version, change)| (version, change))
            .collect();
        state.dialogs.insert(dialog_id, dialog(&events));
    }
    state
}

fn of(input: &Input) -> Option<(DialogId, Option<i64>, &Change)> {
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
            let fate: Vec<&Change> =
                messages.iter().filter(|(each, _)| *each == *first).map(|(_, change)| *change).collect();
            Entry { message_id: first.id, author_id: first.author_id, standing: standing(&fate) }
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

/// Void where anything ever made it void; the first thing that did is the reason.
fn standing(fate: &[&Change]) -> Standing {
    for (at, change) in fate.iter().enumerate() {
        match change {
            Change::Refused(_, reason) if at == 0 => return Standing::Void(Why::Refused(reason.clone())),
            Change::Deleted(_) => return Standing::Void(Why::Deleted),
            Change::Failed(_) => return Standing::Void(Why::Refused(FAILED_BEFORE.to_owned())),
            _ => {}
        }
    }
    Standing::Counted
}

fn member(user_id: UserId, events: &[(Option<i64>, &Change)], dialog: &Dialog) -> Member {
    let mut member = Member::default();
    for (_, change) in events {
        match change {
            Change::Joined { user_id: who, version, joined_seq }
                if *who == user_id && *version > member.version =>
            {
                (member.version, member.membership) = (*version, Membership::Joined(*joined_seq));
            }
            Change::Left { user_id: who, version } if *who == user_id && *version > member.version => {
                (member.version, member.membership) = (*version, Membership::Left);
            }
            Change::Read { user_id: who, up_to } if *who == user_id => {
                member.read_seq = member.read_seq.max(*up_to)
            }
            _ => {}
        }
    }
    if let Membership::Joined(joined_seq) = member.membership {
        for (seq, entry) in &dialog.ledger {
            let theirs = entry.author_id != user_id && entry.standing == Standing::Counted;
            member.unread += i64::from(theirs && *seq > joined_seq && *seq > member.read_seq);
        }
    }
    member
}

fn applied(events: &[(Option<i64>, &Change)], dialog: &Dialog) -> Applied {
    let mut missing = BTreeSet::new();
    let (mut newest, mut last_at_us) = (0, 0);
    for (at, (version, change)) in events.iter().enumerate() {
        if let Some(version) = version {
            missing.extend(newest + 1..*version);
            missing.remove(version);
            newest = newest.max(*version);
        }
        if let Change::Repaired(head) = change {
            missing.retain(|version| version > head);
        }
        if let Change::Sent(message, at_us) = change {
            let of_this = |each: &&Change| self::message(each).is_some_and(|other| other == message);
            let so_far: Vec<&Change> =
                events[..=at].iter().map(|(_, change)| *change).filter(of_this).collect();
            let refused = matches!(standing(&so_far), Standing::Void(Why::Refused(_)));
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
