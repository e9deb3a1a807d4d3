//! Properties of the model: the invariants of ARCHITECTURE.md, by their numbers, and situations that must
//! occur, so that the invariants are not kept for want of trouble.

use std::collections::BTreeMap;

use counter::{
    kernel::ledger::EntryState,
    rules::{Unread, Version},
};
use dialog::rules::Status;
use gateway::fuzzing::unread::frame::Kind;
use proto::DialogId;
use stateright::Property;

use crate::{
    bounds::{Bounds, Process},
    dialog::{FIRST_VERSION, Message},
    ids,
    system::{State, System},
};

/// I1, after every transaction.
pub const COUNTS: &str = "I1 a count is the number of counted messages above the pointers";
/// I4, at rest.
pub const LEDGER_AT_REST: &str = "I4 at rest a committed message counts, a failed or deleted one does not";
/// I4, from the moment at which a message fails.
pub const FAILED_IS_VOID: &str = "I4 a failed message is void and no reply contradicts its status";
/// I8, at any time.
pub const CACHE: &str = "I8 the cache at a version equals the database at that version";
/// I9, at any time.
pub const DEVICE: &str = "I9 the device at a version equals the server at that version";
/// I9, when everything is delivered.
pub const DEVICE_AT_REST: &str = "I9 at rest the device has the newest version";
/// I10, at any time.
pub const KEYS: &str = "I10 a client key is one message and one count";
/// I11, at any time that the counter is reachable.
pub const ONE_SWEEP: &str = "I11 one sweep settles an overdue message";
/// I11, at rest.
pub const NONE_PENDING: &str = "I11 at rest no message is pending";
/// I11, at the end of every history.
pub const SETTLED: &str = "I11 every message is settled in the end";
/// I13, in the ledger's view of the log.
pub const NO_GAP: &str = "I13 no version of a dialog is missing";

/// Returns the properties of a model with these bounds.
pub fn of(bounds: &Bounds) -> Vec<Property<System>> {
    let mut properties = vec![
        Property::always(COUNTS, |_, state: &State| counts_are_defined(state)),
        Property::always(KEYS, |_, state: &State| keys_are_unique(state)),
        Property::always(NO_GAP, |_, state: &State| !state.counter.unread().stale),
    ];
    properties.extend(bounds.crashes.iter().map(|process| of_crash(*process)));
    if bounds.crashes.contains(&Process::Dialog) {
        let has_repeated = |_: &System, state: &State| state.counter.has_repeated;
        properties.push(Property::sometimes("an event is delivered twice", has_repeated));
    }
    if bounds.replies {
        properties.extend(of_replies());
    }
    if bounds.refusals > 0 {
        properties.extend(of_refusals());
    }
    if bounds.refusals.min(bounds.deletions) > 0 && bounds.optional_steps > 1 {
        properties.push(Property::sometimes("a failed message is deleted", |_, state: &State| {
            messages(state).any(|message| message.status == Status::Failed && message.is_deleted)
        }));
    }
    if bounds.loads > 0 {
        properties.push(Property::always(CACHE, |_, state: &State| {
            state
                .cache
                .unread()
                .is_none_or(|cached| is_counted(state, cached.version, &rows(&cached), cached.total))
        }));
        properties.push(Property::sometimes("the cache follows a change", |_, state: &State| {
            let cached = state.cache.unread();
            cached.is_some_and(|cached| cached == *state.counter.unread() && state.counter.history.len() > 2)
        }));
    }
    if bounds.connections > 0 {
        properties.extend(of_devices());
    }
    properties
}

fn of_crash(process: Process) -> Property<System> {
    match process {
        Process::Dialog => {
            Property::sometimes("dialog crashes", |_, state: &State| state.crashed.contains(&Process::Dialog))
        }
        Process::Counter => Property::sometimes("counter crashes", |_, state: &State| {
            state.crashed.contains(&Process::Counter)
        }),
        Process::Gateway => Property::sometimes("a gateway crashes", |_, state: &State| {
            state.crashed.contains(&Process::Gateway)
        }),
    }
}

fn of_replies() -> [Property<System>; 6] {
    [
        Property::always(LEDGER_AT_REST, |model: &System, state: &State| {
            !model.is_at_rest(state) || messages(state).all(|message| agrees_at_rest(state, message))
        }),
        Property::always(FAILED_IS_VOID, |_, state: &State| {
            !state.dialog.is_contradicted && messages(state).all(|message| agrees(state, message))
        }),
        Property::always(ONE_SWEEP, |model: &System, state: &State| model.one_sweep_settles(state)),
        Property::always(NONE_PENDING, |model: &System, state: &State| {
            !model.is_at_rest(state) || messages(state).all(|message| message.status != Status::Pending)
        }),
        Property::eventually(SETTLED, |model: &System, state: &State| {
            state.dialog.messages.len() >= model.bounds.messages
                && messages(state).all(|message| message.status != Status::Pending)
        }),
        Property::sometimes("a settlement counts a message before its event arrives", |_, state: &State| {
            messages(state).any(|message| {
                is_before_events(state, message) && entry(state, message) == Some(&EntryState::Counted)
            })
        }),
    ]
}

fn of_refusals() -> [Property<System>; 2] {
    [
        Property::sometimes("a message fails", |_, state: &State| {
            messages(state).any(|message| message.status == Status::Failed)
        }),
        Property::sometimes("a settlement refuses a message before its event arrives", |_, state: &State| {
            messages(state)
                .any(|message| is_before_events(state, message) && message.status == Status::Failed)
        }),
    ]
}

fn of_devices() -> [Property<System>; 5] {
    [
        Property::always(DEVICE, |_, state: &State| {
            let device = &state.device;
            device.version.is_none_or(|version| is_counted(state, version, &device.rows, device.total))
        }),
        Property::always(DEVICE_AT_REST, |model: &System, state: &State| {
            !model.is_at_rest(state)
                || !state.gateway.is_at_rest(&state.log)
                || state.device.version == Some(state.counter.unread().version)
        }),
        Property::sometimes("a change is delivered twice", |_, state: &State| state.gateway.has_repeated()),
        Property::sometimes("a device resumes and is current", |_, state: &State| {
            state.device.connections > 1 && state.device.first_kind == Some(Kind::Current)
        }),
        Property::sometimes("a device resumes from a snapshot and follows", |_, state: &State| {
            state.device.connections > 1
                && state.device.first_kind == Some(Kind::Snapshot)
                && state.gateway.is_at_rest(&state.log)
        }),
    ]
}

fn messages(state: &State) -> impl Iterator<Item = &Message> {
    state.dialog.messages.iter()
}

fn entry<'a>(state: &'a State, message: &Message) -> Option<&'a EntryState> {
    state.counter.entry(message.dialog, message.seq)
}

/// Compares every count with its definition. Memberships do not change in the model.
fn counts_are_defined(state: &State) -> bool {
    state.counter.state.dialogs.values().all(|dialog| {
        dialog.members.iter().all(|(user_id, member)| {
            let unread = dialog.ledger.iter().filter(|(seq, entry)| {
                entry.state == EntryState::Counted && **seq > member.read_seq && entry.author_id != *user_id
            });
            unread.count() as i64 == member.unread
        })
    })
}

fn agrees_at_rest(state: &State, message: &Message) -> bool {
    let is_counted = entry(state, message) == Some(&EntryState::Counted);
    match message.status {
        Status::Pending => true,
        Status::Committed => is_counted != message.is_deleted,
        Status::Failed => !is_counted && entry(state, message).is_some(),
    }
}

/// Compares a settled message with its entry, at any time: the entry was written before the reply.
fn agrees(state: &State, message: &Message) -> bool {
    let entry = entry(state, message);
    match message.status {
        Status::Pending => true,
        Status::Committed => entry.is_some_and(|entry| entry.refusal().is_none()),
        Status::Failed => entry.is_some_and(|entry| entry.refusal().is_some()),
    }
}

fn keys_are_unique(state: &State) -> bool {
    let mut messages_of = BTreeMap::<usize, usize>::new();
    messages(state).for_each(|message| *messages_of.entry(message.key).or_default() += 1);
    let mut entries_of = BTreeMap::new();
    for entry in state.counter.state.dialogs.values().flat_map(|dialog| dialog.ledger.values()) {
        *entries_of.entry(entry.message_id).or_insert(0) += 1;
    }
    messages_of.values().all(|messages| *messages == 1) && entries_of.values().all(|entries| *entries == 1)
}

/// Returns true if the counter has applied no event of the message's dialog.
fn is_before_events(state: &State, message: &Message) -> bool {
    state.counter.state.dialogs[&ids::dialog(message.dialog)].applied.version == FIRST_VERSION
}

/// Returns true if the reader had these counts at this version. `last_seq` is advisory: it is not compared.
fn is_counted(state: &State, version: Version, found: &BTreeMap<DialogId, (i64, i64)>, total: i64) -> bool {
    let expected = state.counter.history.iter().find(|unread| unread.version == version);
    expected.is_some_and(|expected| rows(expected) == *found && expected.total == total)
}

fn rows(unread: &Unread) -> BTreeMap<DialogId, (i64, i64)> {
    unread.rows.iter().map(|row| (row.dialog_id, (row.unread, row.read_seq))).collect()
}
