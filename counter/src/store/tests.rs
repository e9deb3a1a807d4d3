//! Comparison of store and kernel: random histories run through both, and state, effects and outbox are
//! compared after every transaction. Many histories share a database, so that transactions hold many
//! dialogs and users.

use std::collections::BTreeMap;

use db::{Dialect, Tx, query};
use events::Headers;
use proto::{DialogId, UserId, events::event::Kind};
use testkit::TestDb;

use super::{Epoch, dialog_state, transact};
use crate::{
    MIGRATIONS,
    kernel::{
        self, Change, Effects, Input, State,
        history::{self, REFUSED_AUTHOR},
    },
    publish,
};

/// Epoch of the published versions.
const EPOCH: Epoch = Epoch { number: 1, is_cut: false };
/// Number of histories that run on every kind of database.
const HISTORIES: u64 = 2_000;
/// Number of histories that share a database.
pub(super) const GROUP: u64 = 50;

/// Creates an empty database of every kind with all tables.
pub(crate) async fn databases() -> Vec<TestDb> {
    testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &MIGRATIONS]).await
}

/// Creates databases with a constraint that refuses to count messages of [`REFUSED_AUTHOR`].
pub(super) async fn databases_with_refusals() -> Vec<TestDb> {
    let databases = databases().await;
    for test in &databases {
        let mut tx = test.db.begin().await.unwrap();
        let rule = match tx.dialect() {
            Dialect::Sqlite => {
                "create trigger refused_author before insert on ledger
                 when new.state = 'counted' and new.author_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
                 begin select raise(abort, 'refused_author'); end"
            }
            Dialect::Postgres => {
                "alter table ledger add constraint refused_author
                 check (state <> 'counted' or author_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff')"
            }
        };
        query(rule).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    databases
}

#[test]
fn two_thousand_histories_give_the_same_state_as_the_kernel() {
    let groups: Vec<u64> = (0..HISTORIES / GROUP).collect();
    let halves: Vec<Vec<u64>> = groups.chunks(groups.len().div_ceil(2)).map(<[u64]>::to_vec).collect();
    let halves = halves.into_iter().map(|groups| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for group in groups {
                    for test in databases_with_refusals().await {
                        let compared = compare(&test, group * GROUP..(group + 1) * GROUP).await;
                        compared.unwrap_or_else(|difference| panic!("{difference}"));
                    }
                }
            });
        })
    });
    for half in halves.collect::<Vec<_>>() {
        half.join().unwrap();
    }
}

/// Runs histories concurrently: their first transactions as one transaction, then their second ones, and
/// so on. Fails at the first difference from the kernel.
pub(super) async fn compare(test: &TestDb, seeds: std::ops::Range<u64>) -> Result<(), String> {
    let histories: Vec<Vec<Vec<Input>>> =
        seeds.clone().map(|seed| history::random(seed, seed + 1).transactions).collect();
    let longest = histories.iter().map(Vec::len).max().unwrap_or(0);
    let mut state = State::default();
    let mut last_outbox_id = 0;
    for round in 0..longest {
        let inputs: Vec<Input> =
            histories.iter().filter_map(|history| history.get(round)).flatten().cloned().collect();
        // Every eighth transaction is repeated: kernel and tables must treat the repetition alike.
        let times = if round % 8 == 0 { 2 } else { 1 };
        for _ in 0..times {
            let context = format!("{}, seeds {seeds:?}, transaction {round}", test.name);
            let expected = kernel::transact(&mut state, &inputs);
            let mut tx = test.db.begin().await.unwrap();
            let outcome = transact(&mut tx, &as_sent(&inputs)).await;
            let effects = outcome.map_err(|error| format!("{context}: {error}"))?.effects;
            same(&effects, &expected, &context)?;
            publish::append(&mut tx, EPOCH, effects, Vec::new(), |_, _| Headers::default()).await.unwrap();
            same(&published(&mut tx, &mut last_outbox_id).await, &events_of(expected), &context)?;
            same(&load_state(&mut tx).await, &without_new_users(&state), &context)?;
            tx.commit().await.unwrap();
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(stored: &T, expected: &T, context: &str) -> Result<(), String> {
    if stored == expected { Ok(()) } else { Err(format!("{context}: {stored:#?}\nexpected {expected:#?}")) }
}

/// Replaces refusals with sent messages: the kernel gets the refusal as an input, the store finds it by
/// the constraint.
fn as_sent(inputs: &[Input]) -> Vec<Input> {
    let as_sent = |input: &Input| match input {
        Input::Dialog { dialog_id, version, change: Change::Refused(message, _) } => {
            assert_eq!(message.author_id, REFUSED_AUTHOR);
            Input::Dialog { dialog_id: *dialog_id, version: *version, change: Change::Sent(*message, 0) }
        }
        other => other.clone(),
    };
    inputs.iter().map(as_sent).collect()
}

fn events_of(effects: Effects) -> Vec<Kind> {
    let marks = effects.read_marks.iter().map(publish::read_marked);
    let changes = effects.changes.into_iter().map(|change| publish::unread_changed(EPOCH, change));
    effects.replies.into_iter().map(publish::saga_reply).chain(marks).chain(changes).collect()
}

/// Returns the events appended to the outbox after the last call.
async fn published(tx: &mut Tx, last_id: &mut i64) -> Vec<Kind> {
    let rows = query("select id, payload from outbox where id > $1 order by id")
        .bind(*last_id)
        .all(tx)
        .await
        .unwrap();
    *last_id = rows.last().map_or(*last_id, |row| row.get("id").unwrap());
    rows.iter().map(|row| Kind::decode(&row.get::<Vec<u8>>("payload").unwrap()).unwrap()).collect()
}

/// Removes users at version 0, which may have a row or not, from the kernel's state.
fn without_new_users(state: &State) -> State {
    let mut state = state.clone();
    state.users.retain(|_, version| *version > 0);
    state
}

/// Loads the tables as the kernel's state.
pub(crate) async fn load_state(tx: &mut Tx) -> State {
    let mut state = State::default();
    let known = "select dialog_id from dialog_applied union select dialog_id from member_counter
        union select dialog_id from ledger";
    let known = query(known).all(&mut *tx).await.unwrap();
    let known: Vec<DialogId> = known.iter().map(|row| DialogId::new(row.get("dialog_id").unwrap())).collect();
    state.dialogs = dialog_state::load(tx, &known).await.unwrap();
    let users = query("select * from user_version where version > 0").all(tx).await.unwrap();
    let users =
        users.iter().map(|row| (UserId::new(row.get("user_id").unwrap()), row.get("version").unwrap()));
    state.users = users.collect::<BTreeMap<UserId, i64>>();
    state
}
